/** A release that stores what this one cannot read is rolled out, rolled back and rolled out again, all of it under load. */
import { cpSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { root, type Service } from '../../services/local/stack.ts';
import { eventually } from '../support/eventually.ts';
import { System, script } from '../support/system.ts';

let system: System;
let newer: string;

/** Today's sources with one more lift: records of the schema after this one. */
function nextRelease(folder: string): string {
  cpSync(join(root, 'services'), join(folder, 'services'), { recursive: true });
  cpSync(join(root, 'package.json'), join(folder, 'package.json'));
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  const change = (file: string, old: string, text: string) => {
    const path = join(folder, 'services/core/session', file);
    const before = readFileSync(path, 'utf8');
    if (!before.includes(old)) throw new Error(`${file} has no ${old}`);
    writeFileSync(path, before.replace(old, text));
  };
  change('record.ts', 'recordSchemaVersion = 2', 'recordSchemaVersion = 3');
  change(
    'record.ts',
    'schema: z.literal(recordSchemaVersion),',
    'schema: z.literal(recordSchemaVersion), mood: z.string(),',
  );
  change(
    'migrate.ts',
    '> = {\n',
    "> = {\n  2: (record) => ({ ...record, schema: 3, mood: 'calm' }),\n",
  );
  change('step.ts', 'schema: recordSchemaVersion,', "schema: recordSchemaVersion, mood: 'calm',");
  return join(folder, 'services/runtime/main.ts');
}

beforeAll(async () => {
  system = await System.start({ runtimes: 2 });
  newer = nextRelease(join(system.folder, 'next-release'));
  system.world.beforeMs = 300;
});
afterAll(() => system.stop());

const readiness = async ({ port }: Service) => {
  const response = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined);
  return { status: response?.status, text: (await response?.text()) ?? '' };
};
/** As a deployment does it: the new ones come, the old ones go. */
async function replace(file: string, names: readonly string[]): Promise<Service[]> {
  const old = system.of('runtime');
  const came = await Promise.all(names.map((name) => system.startRuntime(file, name)));
  await Promise.all(came.map(({ port }) => eventually(() => fetch(`http://127.0.0.1:${port}/`))));
  for (const service of old) await service.running.stop();
  for (const service of old)
    system.stack.services.splice(system.stack.services.indexOf(service), 1);
  return came;
}
const mine = join(root, 'services/runtime/main.ts');

test('forward, back and forward again under load: nothing is lost, twice, or a dead letter', async () => {
  const tasks: string[] = [];
  let isLoading = true;
  const loading = (async () => {
    while (isLoading) {
      const task = `roll-${tasks.length}`;
      await system.publish(task, script('keyed', 'opaque', 'queryable', 'keyed'));
      tasks.push(task);
      await new Promise((resolve) => setTimeout(resolve, 60));
    }
  })();
  await eventually(() => system.ends().length > 3, 'tasks to be done by this release');

  await replace(newer, ['newer-1', 'newer-2']);
  const before = system.ends().length;
  await eventually(() => system.ends().length > before + 10, 'the next release to work');

  const back = await replace(mine, ['back-1', 'back-2']);
  for (const service of back) {
    const { status, text } = await eventually(async () => {
      const found = await readiness(service);
      return found.text.includes('stays closed here') ? found : undefined;
    }, 'a shard that stays closed');
    expect(status).toBe(503);
    expect(text).toContain('has schema 3; this release knows 2');
  }
  // One of them dies as well, before it goes.
  const dead = back[0] as Service;
  system.stack.kill(dead);

  await replace(newer, ['newer-3', 'newer-4']);
  const later = system.ends().length;
  await eventually(() => system.ends().length > later + 10, 'the next release to work again');
  isLoading = false;
  await loading;
  for (const task of tasks) expect((await system.endOf(task)).data.to).toBe('completed');

  const ends = system.ends().map(({ data }) => data.task);
  expect(ends.length).toBe(new Set(ends).size);
  expect(await natsEvents(system.nats).deadLetters(10)).toEqual([]);
  expect(system.world.doubled()).toEqual([]);
  await system.verifyAll(tasks.slice(0, 10));
});
