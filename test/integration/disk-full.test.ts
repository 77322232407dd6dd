/** DESIGN's failure matrix, "disk full on either store": refused before it is accepted, readiness fails, nothing is half accepted; and it goes on when there is room. */
import { afterEach, describe, expect, test } from 'vitest';
import type { Service } from '../../services/local/stack.ts';
import { eventually } from '../support/eventually.ts';
import { canMount } from '../support/small-disk.ts';
import { System, script } from '../support/system.ts';

let system: System;
afterEach(() => system?.stop());

const work = script('pure', 'keyed', 'pure', 'keyed', 'pure');
const readiness = async ({ port }: Service) =>
  (await fetch(`http://127.0.0.1:${port}/readyz`)).text();

/** Every task (but one that got no answer, and may be there or not) ended well and once, did each side effect once, and folds to what is stored. */
async function allIsWell(tasks: readonly string[], unsure?: string): Promise<void> {
  for (const task of tasks)
    expect((await system.endOf(task)).data).toMatchObject({ to: 'completed', output: 'done 5' });
  const keyed = system.world.effects.filter(({ tool }) => tool === 'keyed').map(({ key }) => key);
  expect(new Set(keyed).size).toBeGreaterThanOrEqual(2 * tasks.length); // the unsure one may be at work
  expect(system.world.doubled().filter((key) => keyed.includes(key))).toEqual([]);
  const ended = system.ends().map(({ data }) => data.task);
  expect(ended.filter((task) => task !== unsure).sort()).toEqual([...tasks].sort());
  await system.verifyAll(tasks);
}

describe.skipIf(!canMount)('a full disk (needs the right to mount a small file system)', () => {
  test('under Redis: commits wait, readiness says why, and all goes on when there is room', async () => {
    system = await System.start({ runtimes: 2, smallDisk: 'redis' });
    system.world.beforeMs = 100;
    const tasks = Array.from({ length: 10 }, (_, index) => `t${index}`);
    for (const task of tasks.slice(0, 6)) await system.publish(task, work);
    await eventually(() => system.world.effects.length > 5);

    system.disk!.fill();
    for (const runtime of system.of('runtime'))
      await eventually(
        async () => (await readiness(runtime)).includes('MISCONF'),
        'readiness to fail',
      );
    // The log takes what the store cannot: it is applied later.
    for (const task of tasks.slice(6)) await system.publish(task, work);
    await new Promise((wait) => setTimeout(wait, 2_000));
    expect(system.ends().length).toBeLessThan(10);

    system.disk!.free();
    for (const runtime of system.of('runtime'))
      await eventually(
        async () => (await readiness(runtime)) === 'ok\n',
        'readiness to come back',
        30_000,
      );
    await allIsWell(tasks);
  });

  test('under NATS: a task is refused, readiness says why, and what was accepted ends when NATS is back with room', async () => {
    system = await System.start({ runtimes: 2, smallDisk: 'nats' });
    system.world.beforeMs = 400;
    const tasks = Array.from({ length: 12 }, (_, index) => `t${index}`);
    for (const task of tasks) await system.publish(task, work);
    await eventually(() => system.world.effects.length > 5);

    system.disk!.fill();
    const publish = (id: string) =>
      system.nats.connection
        .jetstream()
        .publish('understudy.task.acme.desk', JSON.stringify({ input: work }), {
          msgID: id,
          timeout: 2_000,
        })
        .then(
          () => 'accepted',
          () => 'refused',
        );
    const accepted: string[] = [];
    const next = () => `late${accepted.length}`;
    // The server finds out with the first write that does not fit.
    await eventually(async () => {
      if ((await publish(next())) === 'refused') return true;
      accepted.push(next());
      return false;
    }, 'a task to be refused');
    // Whoever has something to store says so; a service with nothing to do cannot know.
    await eventually(async () => {
      const whys = await Promise.all(
        [...system.of('runtime'), ...system.of('gateway'), ...system.of('executor')].map(readiness),
      );
      return whys.some((why) => /is its disk full|the broker does not answer/.test(why));
    }, 'readiness to fail');

    system.disk!.free();
    await system.stack.restartServer('nats');
    await system.watch();
    for (const runtime of system.of('runtime'))
      await eventually(
        async () => (await readiness(runtime)) === 'ok\n',
        'readiness to come back',
        60_000,
      );
    await allIsWell([...tasks, ...accepted], next());
  });
});
