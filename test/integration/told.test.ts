/** What publishers and operators are told: ends, dead letters, answers, once each and through kills. */
import { execFile } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { headers } from 'nats';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { natsTasks } from '../../services/adapters/nats/tasks.ts';
import { eventually } from '../support/eventually.ts';
import { System, script } from '../support/system.ts';

let system: System;
beforeAll(async () => {
  system = await System.start({ runtimes: 3 });
}, 60_000);
afterAll(() => system.stop());

const run = promisify(execFile);
const command = join(import.meta.dirname, '../../bin/understudy');
async function understudy(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  try {
    const { stdout, stderr } = await run(command, ['--server', system.stack.nats.url, ...args], {
      env: { ...process.env, UNDERSTUDY_ACTOR: 'ann' },
    });
    return { code: 0, out: stdout, err: stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, out: stdout, err: stderr };
  }
}

const askTask = async (tenant: string, body: object) => {
  const reply = await system.nats.connection.request(
    `understudy.ask.${tenant}.task`,
    JSON.stringify(body),
    { timeout: 5_000 },
  );
  return reply.json<{ ok: boolean; code?: string; value?: Record<string, unknown> }>();
};
const raw = async (id: string, body: string, agent = 'desk', tenant = 'acme') => {
  const header = headers();
  header.set('Understudy-Task', id);
  await system.nats.connection
    .jetstream()
    .publish(`understudy.task.${tenant}.${agent}`, body, { headers: header });
};
const letters = () => natsEvents(system.nats).deadLetters(10_000);
const lettersOf = async (task: string) => (await letters()).filter((one) => one.task === task);
const letterOf = (task: string) =>
  eventually(async () => (await lettersOf(task))[0], `the dead letter of ${task}`);

test('a tenant asks how its task stands, before, at and after its end, and of no other', async () => {
  await system.publish('asked', script('guarded'));
  const session = await system.sessionOf('asked');
  await eventually(() => system.stepsOf(session).some(({ data }) => data.to === 'waiting'));
  expect(await askTask('acme', { agent: 'desk', task: 'asked' })).toMatchObject({
    ok: true,
    value: { status: expect.stringMatching(/running|waiting/), session },
  });
  await system.decide('approve', session);
  await system.endOf('asked');
  const ended = { ok: true, value: { status: 'completed', output: 'done 1' } };
  await eventually(async () => {
    const found = await askTask('acme', { agent: 'desk', task: 'asked' });
    return found.value?.status === 'completed' ? found : undefined;
  });
  // Also from the archive.
  await eventually(
    async () => (await system.ask<{ isArchived: boolean }>('inspect', { session })).isArchived,
  );
  expect(await askTask('acme', { agent: 'desk', task: 'asked' })).toMatchObject(ended);
  for (const [tenant, body] of [
    ['globex', { agent: 'desk', task: 'asked' }],
    ['acme', { agent: 'helper', task: 'asked' }],
    ['acme', { agent: 'desk', task: 'asked', session: 'a key' }],
  ] as const)
    expect(await askTask(tenant, body)).toMatchObject({ ok: false, code: 'TASK_UNKNOWN' });
  for (const body of [{}, { agent: 'desk', task: 'asked', tenant: 'globex' }, { agent: '*' }])
    expect(await askTask('acme', body)).toMatchObject({ ok: false, code: 'REQUEST_INVALID' });
});

test('an answer goes to an inbox of who asked, and nowhere else', async () => {
  await system.publish('stolen', script('pure'));
  await system.endOf('stolen');
  const { connection } = system.nats;
  const seen: string[] = [];
  for (const subject of [
    'understudy.task.globex.desk',
    '_INBOX_runtime.x',
    'understudy.archive.0.x',
  ])
    connection.subscribe(subject, { callback: () => void seen.push(subject) });
  const body = JSON.stringify({ agent: 'desk', task: 'stolen' });
  for (const reply of [
    'understudy.task.globex.desk',
    '_INBOX_runtime.x',
    'understudy.archive.0.x',
  ]) {
    connection.publish('understudy.ask.acme.task', body, { reply });
    connection.publish('understudy.control.doctor', '{}', { reply });
    connection.publish('understudy.holds.cancelled', 'e_1', { reply });
  }
  // Those who asked rightly are answered after them.
  for (let round = 0; round < 3; round += 1) await askTask('acme', JSON.parse(body));
  await system.ask('doctor');
  expect(seen).toEqual([]);
});

test('a dead letter is told to its tenant, once, and answers the question', async () => {
  await raw('dead-told', '{oops');
  await letterOf('dead-told');
  const events = await eventually(() => {
    const found = system.events.filter(({ data }) => data.task === 'dead-told');
    return found.length > 0 ? found : undefined;
  });
  expect(events).toHaveLength(1);
  expect(events[0]!.data).toMatchObject({
    tenant: 'acme',
    to: 'dead-lettered',
    reason: expect.stringContaining('TASK_NOT_JSON'),
  });
  expect(await askTask('acme', { agent: 'desk', task: 'dead-told' })).toMatchObject({
    ok: true,
    value: { status: 'dead-lettered', reason: expect.stringContaining('TASK_NOT_JSON') },
  });
  expect(await askTask('globex', { agent: 'desk', task: 'dead-told' })).toMatchObject({
    ok: false,
  });
});

test('runtimes are killed while they store dead letters: each task is one letter and one event', async () => {
  const ids = Array.from({ length: 60 }, (_, number) => `letter-${number}`);
  const publishing = (async () => {
    for (const id of ids) {
      await raw(id, '{}', 'nobody', id.endsWith('7') ? 'globex' : 'acme');
      await new Promise((resolve) => setTimeout(resolve, 40));
    }
  })();
  for (let kills = 0; kills < 3; kills += 1) {
    await new Promise((resolve) => setTimeout(resolve, 700));
    system.stack.kill(system.of('runtime')[0]!);
    await system.stack.start('runtime');
  }
  await publishing;
  const lettered = await eventually(
    async () => {
      const found = (await letters()).map(({ task }) => task ?? '');
      return ids.every((id) => found.includes(id)) ? found : undefined;
    },
    'all letters',
    60_000,
  );
  expect(lettered.filter((task) => task.startsWith('letter-')).toSorted()).toEqual(ids.toSorted());
  await eventually(
    () => ids.every((id) => system.events.some(({ data }) => data.task === id)),
    'all to be told',
    60_000,
  );
}, 120_000);

test('sent again twice, mended or not, a letter is one session', async () => {
  await raw('typo-1', JSON.stringify({ input: script('keyed') }), 'deks');
  const letter = await letterOf('typo-1');
  const first = await understudy('requeue', String(letter.id), '--agent', 'desk', '-o', 'json');
  expect(first.code).toBe(0);
  const { tasks } = JSON.parse(first.out) as { tasks: string[] };
  await system.endOf(tasks[0]!);
  // Published again by its sender, it is another letter; mended the same way, the same session.
  await raw('typo-1', JSON.stringify({ input: script('keyed') }), 'deks');
  const again = await eventually(async () => (await lettersOf('typo-1'))[0]);
  const second = await understudy('requeue', String(again.id), '--agent', 'desk', '-o', 'json');
  expect(second.code).toBe(0);
  expect((JSON.parse(second.out) as { tasks: string[] }).tasks).toEqual(tasks);
  await system.publish('after-typo', script('pure'));
  await system.endOf('after-typo');
  const session = await system.sessionOf(tasks[0]!);
  expect(system.world.effects.filter((effect) => effect.session === session)).toHaveLength(1);
  expect(system.ends().filter(({ data }) => data.task === tasks[0])).toHaveLength(1);
});

test('letters are shown whole, thrown away, and listed newest first', async () => {
  await raw('old-letter', '{one');
  await letterOf('old-letter');
  await raw('new-letter', '{two');
  const letter = await letterOf('new-letter');
  const shown = await understudy('dlq', String(letter.id));
  expect(shown.out).toMatch(/task +new-letter\n[\s\S]*code +TASK_NOT_JSON\n[\s\S]*body\n\{two\n/);
  const whole = await understudy('-o', 'json', 'dlq', String(letter.id));
  expect(JSON.parse(whole.out)).toMatchObject({ body: '{two', task: 'new-letter' });
  const { out } = await understudy('dlq', '-n', '2');
  expect(out.indexOf('new-letter')).toBeLessThan(out.indexOf('old-letter'));
  expect((await understudy('dlq', '-n', '1')).out).toContain('there are more');
  expect((await understudy('dlq', String(letter.id), '--rm')).code).toBe(0);
  expect(await lettersOf('new-letter')).toEqual([]);
  expect(await understudy('dlq', String(letter.id), '--rm')).toMatchObject({
    code: 1,
    err: expect.stringContaining('DEAD_LETTER_UNKNOWN'),
  });
});

test('nothing is approved unseen: without a terminal the command wants the hash; who and why is told', async () => {
  await system.publish('seen-1', script('guarded'));
  const session = await system.sessionOf('seen-1');
  await eventually(() => system.stepsOf(session).some(({ data }) => data.to === 'waiting'));
  const refused = await understudy('approve', session);
  expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('APPROVAL_HASH_NEEDED') });
  const hash = /--hash ([0-9a-f]{12})/.exec(refused.err)![1]!;
  expect((await understudy('approvals', session)).out).toContain(hash);
  const done = await understudy('approve', session, '--hash', hash, '-r', 'looked at it');
  expect(done.code).toBe(0);
  await system.endOf('seen-1');
  const told = await understudy('tail', session, '--from-start');
  expect(told.out).toMatch(/approve.*by ann: looked at it/);
  expect((await understudy('inspect', session)).out).toContain('looked at it');
});

test('tasks of a key are heard in the order of TASKS, whatever is killed', async () => {
  for (let round = 0; round < 3; round += 1) {
    const ids = Array.from({ length: 25 }, (_, number) => `order-${round}-${number}`);
    const publishing = (async () => {
      for (const id of ids)
        await natsTasks(system.nats).publish(
          'acme',
          'desk',
          JSON.stringify({ input: script('pure') }),
          { 'Understudy-Task': id, 'Understudy-Session': `in-order-${round}` },
        );
    })();
    await new Promise((resolve) => setTimeout(resolve, 60));
    for (const runtime of system.of('runtime').slice(0, 2)) system.stack.kill(runtime);
    await publishing;
    await Promise.all([system.stack.start('runtime'), system.stack.start('runtime')]);
    for (const id of ids) await system.endOf(id);
    expect(
      system
        .ends()
        .map(({ data }) => data.task)
        .filter((task) => task.startsWith(`order-${round}-`)),
    ).toEqual(ids);
  }
}, 180_000);

test('a folder of specs is checked offline, with the messages of doctor', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'validate-'));
  writeFileSync(
    join(folder, 'a.yaml'),
    `apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: clerk }
spec: { instructions: i, model: nobody }
`,
  );
  const checked = await understudy('validate', folder);
  expect(checked.code).toBe(1);
  expect(checked.out).toMatch(/BAD a\.yaml.*nobody/);
  expect((await understudy('validate', join(folder, 'missing'))).code).toBe(2);
});
