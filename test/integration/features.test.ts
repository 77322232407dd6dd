/** What a user does, on real processes: tasks, approvals, steering, bad input, the command line. */
import { execFile } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { connectedRedis } from '../../services/adapters/redis/scripts.ts';
import {
  type SessionId,
  type ShardId,
  sha256,
  shardOf,
  type TenantId,
} from '../../services/core/ids.ts';
import { keysOf } from '../../services/core/wire/keys.ts';
import { publishByHand } from '../support/by-hand.ts';
import { eventually } from '../support/eventually.ts';
import { System, script } from '../support/system.ts';

let system: System;
beforeAll(async () => {
  system = await System.start({ runtimes: 2, shards: 4, stream: true });
});
afterAll(() => system.stop());

const run = promisify(execFile);
async function understudy(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  try {
    const { stdout, stderr } = await run(
      join(import.meta.dirname, '../../bin/understudy'),
      ['--server', system.stack.nats.url, ...args],
      { timeout: 30_000 },
    );
    return { code: 0, out: stdout, err: stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, out: stdout, err: stderr };
  }
}
const deadOf = async (task: string) =>
  eventually(
    async () =>
      (await natsEvents(system.nats).deadLetters(1_000)).find((letter) => letter.task === task),
    `the dead letter of ${task}`,
  );

test('a task runs to its answer, and the trace of its publisher reaches the tool', async () => {
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
  await system.publish('traced', script('pure', 'opaque'), { headers: { traceparent } });

  expect((await system.endOf('traced')).data).toMatchObject({ to: 'completed', output: 'done 2' });
  const session = await system.sessionOf('traced');
  expect(
    system.world.calls.filter((call) => call.session === session).map((call) => call.traceparent),
  ).toEqual([traceparent, traceparent]);
  expect(system.stepsOf(session).every((event) => event.traceparent === traceparent)).toBe(true);
});

test('one event per step, versions without a gap, each with its decision', async () => {
  await system.publish('stepped', script('pure', 'pure'));
  await system.endOf('stepped');
  const steps = system.stepsOf(await system.sessionOf('stepped'));

  expect(steps.map(({ data }) => data.version)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(steps.filter(({ data }) => data.decisions.length === 0)).toEqual([]);
  expect(steps[1]!.data.details).toMatchObject({
    model: 'stub',
    promptTokens: expect.any(Number),
    latencyMs: expect.any(Number),
  });
});

test('the same task published again lands on the same session and is dropped, after its end as well', async () => {
  await system.publish('twice', script('opaque'));
  await system.endOf('twice');
  const session = await system.sessionOf('twice');
  await eventually(
    async () => (await system.ask<{ isArchived: boolean }>('inspect', { session })).isArchived,
    'the session to be archived',
  );
  const { headers } = await import('nats');
  const header = headers();
  header.set('Understudy-Task', 'twice');
  await system.nats.connection
    .jetstream()
    .publish(
      system.nats.subjects.task('acme', 'desk'),
      JSON.stringify({ input: script('opaque') }),
      { headers: header },
    );
  await system.publish('after-twice', script('pure'));
  await system.endOf('after-twice');

  expect(system.world.effects.filter((effect) => effect.session === session)).toHaveLength(1);
  expect(system.ends().filter(({ data }) => data.task === 'twice')).toHaveLength(1);
});

test('code runs in a process of its own, and a child agent answers its parent', async () => {
  await system.publish('mixed', {
    calls: [
      { tool: 'code', arguments: { code: 'return 6 * input', input: 7 } },
      { tool: 'delegate', arguments: { agent: 'helper', input: JSON.stringify(script('pure')) } },
    ],
  });

  expect((await system.endOf('mixed')).data.to).toBe('completed');
  expect(system.ends('helper').length).toBeGreaterThan(0);
});

test('a keyed session is addressed again and again, and keeps its conversation', async () => {
  const headers = { 'Understudy-Session': 'customer-7' };
  await system.publish('k1', { calls: [] }, { headers });
  await system.endOf('k1');
  await system.publish('k2', { calls: [] }, { headers });
  await system.endOf('k2');

  expect(await system.sessionOf('k1')).toBe(await system.sessionOf('k2'));
});

test("a user's own machine runs durably: tools, a timer, a person, and a runtime killed in between", async () => {
  await system.publish('order-1', { order: 'o-1' }, { agent: 'pipeline' });
  const session = await system.sessionOf('order-1');
  await eventually(
    async () => (await system.ask<{ id: string }[]>('approvals', { agent: 'pipeline' })).length > 0,
    'the question to be asked',
  );
  const victim = system.of('runtime')[0]!;
  system.stack.kill(victim);
  await system.stack.start('runtime');
  await system.decide('approve', session, { reason: 'fine' });

  const end = await system.endOf('order-1');
  expect(JSON.parse(end.data.output!)).toEqual({
    order: 'o-1',
    steps: ['reserved', 'cooled', 'shipped'],
  });
  await system.verifyAll(['order-1']);
});

describe('people', () => {
  test('an approval shows tool, arguments and hash; a decision for another payload is refused; approved, it runs once', async () => {
    await system.publish('guard-1', script('guarded'));
    const session = await system.sessionOf('guard-1');
    const [approval] = await eventually(async () => {
      const found = (
        await system.ask<{ session: string; tool: string; arguments: string; hash: string }[]>(
          'approvals',
        )
      ).filter((one) => one.session === session);
      return found.length > 0 ? found : undefined;
    });
    expect(approval).toMatchObject({
      tool: 'guarded',
      arguments: '{"n":0}',
      hash: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    await expect(
      system.ask('approve', { session, actor: 'ann', hash: '0123456789ab' }),
    ).rejects.toMatchObject({ code: 'APPROVAL_CHANGED' });
    await system.ask('approve', { session, actor: 'ann', hash: approval!.hash.slice(0, 12) });
    await system.endOf('guard-1');

    expect(system.world.effects.filter((effect) => effect.session === session)).toHaveLength(1);
    await expect(
      system.ask('approve', { session, actor: 'ann', hash: approval!.hash }),
    ).rejects.toMatchObject({
      code: 'APPROVAL_UNKNOWN',
    });
  });

  test('an edit that the tool would refuse leaves the approval open, and a second decision is refused', async () => {
    await system.publish('guard-3', { calls: [{ tool: 'guarded', arguments: { n: 3 } }] });
    const session = await system.sessionOf('guard-3');
    await eventually(() => system.stepsOf(session).some(({ data }) => data.to === 'waiting'));
    await expect(system.ask('approve', { session, actor: 'ann' })).rejects.toMatchObject({
      code: 'APPROVAL_HASH_NEEDED',
    });
    await expect(system.decide('approve', session, { arguments: '{bad' })).rejects.toMatchObject({
      code: 'ARGUMENTS_NOT_JSON',
    });
    await system.ask('pause', { session, actor: 'ann' });
    await system.decide('approve', session);
    await expect(system.ask('reject', { session, actor: 'ann' })).rejects.toMatchObject({
      code: 'APPROVAL_DECIDED',
    });
    // It is in nobody's inbox any more, and whoever looks at the session sees why it still waits.
    expect(
      (await system.ask<{ session: string }[]>('approvals')).filter(
        (one) => one.session === session,
      ),
    ).toEqual([]);
    expect(await system.ask('inspect', { session })).toMatchObject({
      approvals: [{ isDecided: true }],
    });
    await system.ask('resume', { session, actor: 'ann' });
    await system.endOf('guard-3');

    expect(system.world.effects.filter((effect) => effect.session === session)).toHaveLength(1);
  });

  test('rejected, nothing happens outside', async () => {
    await system.publish('guard-2', script('guarded'));
    const session = await system.sessionOf('guard-2');
    await eventually(() => system.stepsOf(session).some(({ data }) => data.to === 'waiting'));
    await system.ask('reject', { session, actor: 'ann', reason: 'no' });
    await system.endOf('guard-2');

    expect(system.world.effects.filter((effect) => effect.session === session)).toEqual([]);
  });
});

describe('steering', () => {
  test('paused, a session does nothing new; resumed, it goes on', async () => {
    system.world.beforeMs = 400;
    await system.publish('pause-1', script('pure', 'pure'));
    const session = await system.sessionOf('pause-1');
    await eventually(() => system.world.calls.some((call) => call.session === session));
    await system.ask('pause', { session, actor: 'ann', reason: 'lunch' });
    await eventually(
      async () =>
        (await system.ask<{ record: { deferred: unknown[] } }>('inspect', { session })).record
          .deferred.length === 1,
      'the result to be kept for later',
    );
    system.world.beforeMs = 0;
    expect(system.world.calls.filter((call) => call.session === session)).toHaveLength(1);
    await expect(system.ask('pause', { session, actor: 'ann' })).rejects.toMatchObject({
      code: 'NOT_NOW',
    });
    await system.ask('resume', { session, actor: 'ann' });

    expect((await system.endOf('pause-1')).data.to).toBe('completed');
  });

  test('halting aborts the model stream, and no tool runs after it', async () => {
    system.world.holdStreams = true;
    await system.publish('halt-1', script('opaque'));
    const session = await system.sessionOf('halt-1');
    await eventually(() => system.world.heldStreams.length > 0);
    await system.ask('halt', { session, actor: 'ann', reason: 'stop' });
    const gateway = system.of('gateway')[0]!;
    await eventually(
      async () => (await system.metric(gateway, 'understudy_effects_in_flight')) === 0,
      'the stream to be let go',
    );
    system.world.releaseStreams();

    expect((await system.endOf('halt-1')).data).toMatchObject({
      to: 'halted',
      reason: 'halted by ann: stop',
    });
    expect(system.world.calls.filter((call) => call.session === session)).toEqual([]);
  });

  test('a limit ends a session before the call that would break it', async () => {
    await system.publish('bounded-1', script('pure', 'pure', 'pure'), { agent: 'bounded' });

    expect((await system.endOf('bounded-1')).data).toMatchObject({
      to: 'failed',
      reason: expect.stringContaining('LIMIT_STEPS'),
    });
    expect(
      system.world.calls.filter(
        (call) =>
          call.session ===
          system.events.find(({ data }) => data.task === 'bounded-1')!.data.session,
      ),
    ).toHaveLength(2);
  });
});

describe('bad input loses nothing and blocks nobody', () => {
  const raw = async (agent: string, body: string, id: string, tenant = 'acme') => {
    const { headers } = await import('nats');
    const header = headers();
    header.set('Understudy-Task', id);
    await system.nats.connection
      .jetstream()
      .publish(`understudy.task.${tenant}.${agent}`, body, { headers: header });
  };

  test.each([
    ['no JSON', 'desk', '{"input":', 'acme', 'TASK_NOT_JSON'],
    ['too large', 'desk', JSON.stringify('x'.repeat(270_000)), 'acme', 'TASK_TOO_LARGE'],
    ['an unknown agent', 'nobody', '{}', 'acme', 'AGENT_UNKNOWN'],
    ['an unknown tenant', 'desk', '{}', 'stranger', 'TENANT_UNKNOWN'],
  ])('%s becomes a dead letter with the reason', async (name, agent, body, tenant, code) => {
    const id = `bad-${name.replaceAll(' ', '-')}`;
    await raw(agent, body, id, tenant);
    await system.publish(`after-${id}`, script());

    expect(await deadOf(id)).toMatchObject({ code, subject: `understudy.task.${tenant}.${agent}` });
    expect((await system.endOf(`after-${id}`)).data.to).toBe('completed');
  });

  test('headers that cannot be read make a dead letter, and nobody is deaf', async () => {
    await publishByHand(
      system.stack.nats.url,
      'understudy.task.acme.desk',
      'My Header: x',
      '"unreadable"',
    );
    await system.publish('after-unreadable', script());

    expect((await system.endOf('after-unreadable')).data.to).toBe('completed');
    const letter = await eventually(
      async () =>
        (await natsEvents(system.nats).deadLetters(1_000)).find(
          ({ code }) => code === 'TASK_HEADERS_INVALID',
        ),
      'the dead letter',
    );
    expect(await natsEvents(system.nats).deadLetter(letter.id)).toMatchObject({
      body: '"unreadable"',
      headers: {},
      reason: expect.stringContaining('header key'),
    });
  });

  test('a dead letter can be mended and published again', async () => {
    await raw('desk', '{oops', 'mend-me');
    const letter = await deadOf('mend-me');
    // What is no JSON would only come back as another letter.
    await expect(
      system.ask('requeue', { id: letter.id, body: '{still bad' }),
    ).rejects.toMatchObject({ code: 'BODY_NOT_JSON' });
    expect(await natsEvents(system.nats).deadLetter(letter.id)).toBeDefined();
    const body = JSON.stringify({ input: script('pure') });
    expect(
      await system.ask('requeue', {
        id: letter.id,
        body,
      }),
    ).toMatchObject({ tasks: [`mend-me-requeued-1-${sha256(body).slice(0, 8)}`] });

    expect((await system.endOf(`mend-me-requeued-1-${sha256(body).slice(0, 8)}`)).data.to).toBe(
      'completed',
    );
    await expect(system.ask('requeue', { id: letter.id })).rejects.toMatchObject({
      code: 'DEAD_LETTER_UNKNOWN',
    });
  });

  test('requeue names one letter or all of them, and a body is for one', async () => {
    await raw('desk', '{oops', 'keep-me');
    const letter = await deadOf('keep-me');
    for (const body of [{}, { id: letter.id, all: true }, { all: true, body: '1' }])
      await expect(system.ask('requeue', body)).rejects.toMatchObject({ code: 'REQUEST_INVALID' });
    for (const args of [
      ['requeue'],
      ['requeue', String(letter.id), '--all'],
      ['requeue', '--all', '--body', '1'],
    ])
      expect(await understudy(...args)).toMatchObject({ code: 2, out: '' });
    expect(await natsEvents(system.nats).deadLetter(letter.id)).toBeDefined();
  });

  test('a letter whose body was too large to keep is not requeued in parts', async () => {
    await raw('desk', JSON.stringify('y'.repeat(270_000)), 'too-large-to-keep');
    const letter = await deadOf('too-large-to-keep');
    const done = await system.ask<{ requeued: number; refused: string[] }>('requeue', {
      id: letter.id,
    });

    expect(done).toMatchObject({ requeued: 0, refused: [expect.stringContaining('--body')] });
    expect(await natsEvents(system.nats).deadLetter(letter.id)).toBeDefined();
  });

  test('mail and effects that do not parse are refused, and the next ones go on', async () => {
    for (let shard = 0; shard < 4; shard += 1)
      await system.nats.publisher.publish(`understudy.mail.${shard}.batch`, '[{"v":1},"x"]');
    await system.nats.publisher.publish('understudy.effect.tools.acme', '{"kind":"runTool"}');
    await system.publish('after-junk', script('pure'));

    expect((await system.endOf('after-junk')).data.to).toBe('completed');
    expect(
      (await natsEvents(system.nats).deadLetters(1_000)).filter(
        ({ code }) => code === 'MAIL_INVALID',
      ).length,
    ).toBeGreaterThanOrEqual(4);
  });

  test('a poisoned record in Redis is built again from the log', async () => {
    await system.publish('poison-1', script('guarded'));
    const session = await system.sessionOf('poison-1');
    await eventually(() => system.stepsOf(session).some(({ data }) => data.to === 'waiting'));
    const shard = shardOf('acme' as TenantId, session as SessionId, 4);
    const { owners } = await system.ask<{ owners: Record<string, string> }>('doctor');
    const redis = await connectedRedis(system.stack.redis.url);
    await redis.hset(keysOf('understudy', shard).records, session, '{"schema":2,"nonsense":true}');
    redis.disconnect();
    // Only who does not have it in memory reads it: take the shard away from its owner.
    const owner = system.of('runtime').find(({ instance }) => instance === owners[String(shard)])!;
    system.stack.kill(owner);
    await system.stack.start('runtime');
    await eventually(
      async () => system.decide('approve', session).catch(() => undefined),
      'the session to be readable again',
      40_000,
    );

    expect((await system.endOf('poison-1')).data.to).toBe('completed');
    await system.verifyAll(['poison-1']);
  });

  test('a position in Redis that does not parse is cleared: its shard reads its log again, and its sessions go on', async () => {
    await system.publish('position-1', script('guarded'));
    const session = await system.sessionOf('position-1');
    await eventually(() => system.stepsOf(session).some(({ data }) => data.to === 'waiting'));
    const redis = await connectedRedis(system.stack.redis.url);
    for (const runtime of system.of('runtime')) system.stack.kill(runtime);
    for (let shard = 0; shard < 4; shard += 1)
      await redis.set(keysOf('understudy', shard as ShardId).position, 'no position');
    redis.disconnect();
    await system.stack.start('runtime');
    const tasks = ['position-2', 'position-3', 'position-4', 'position-5'];
    await Promise.all(tasks.map((id) => system.publish(id, script('pure'))));

    for (const id of tasks) expect((await system.endOf(id)).data.to).toBe('completed');
    await eventually(
      async () => system.decide('approve', session).catch(() => undefined),
      'the waiting session to be there again',
      40_000,
    );
    expect((await system.endOf('position-1')).data.to).toBe('completed');
    await system.verifyAll(['position-1', ...tasks]);
  });

  test('a spec that is broken now takes nothing away, also from a runtime that starts meanwhile', async () => {
    const file = join(system.folder, 'specs/spare.yaml');
    const spare = (model: string) => `apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: spare }
spec: { instructions: Follow the script., model: ${model}, tools: [pure] }
---
apiVersion: understudy.dev/v1
kind: Tenant
metadata: { name: late }
spec: { agents: [spare]
`;
    writeFileSync(file, `${spare('scripted')}}`);
    const run = async (id: string, options: { agent: string; tenant?: string }) => {
      await system.publish(id, script('pure'), options);
      expect((await system.endOf(id)).data).toMatchObject({ to: 'completed' });
    };
    const agents = async () =>
      (await system.ask<{ agents: { name: string }[] }>('doctor')).agents.map(({ name }) => name);
    await eventually(async () => (await agents()).includes('spare'), 'the agent to be known');
    await run('spare-1', { agent: 'spare' });

    writeFileSync(file, spare('nobody'));
    for (const runtime of system.of('runtime')) system.stack.kill(runtime);
    await system.stack.start('runtime');
    // Its revision is known from BUNDLES; what a tenant is stands in the broken text alone.
    await system.publish('late-1', script('pure'), { agent: 'spare', tenant: 'late' });
    await run('spare-2', { agent: 'spare' });
    await raw('nowhere', '{}', 'nobody-there');
    expect((await deadOf('nobody-there')).code).toBe('AGENT_UNKNOWN');

    writeFileSync(file, `${spare('scripted')}}`);
    expect((await system.endOf('late-1')).data).toMatchObject({ to: 'completed' });
    rmSync(file);
    await eventually(async () => !(await agents()).includes('spare'), 'the agent to be gone');
    await raw('spare', '{}', 'spare-3');
    expect((await deadOf('spare-3')).code).toBe('AGENT_UNKNOWN');
  });

  test('a poisoned outbox entry in Redis is a dead letter with its text, and its shard goes on', async () => {
    const redis = await connectedRedis(system.stack.redis.url);
    for (let shard = 0; shard < 4; shard += 1)
      await redis.hset(
        keysOf('understudy', shard as ShardId).outbox,
        '1',
        '{"pending":"nonsense"}',
      );
    for (const runtime of system.of('runtime')) system.stack.kill(runtime);
    await system.stack.start('runtime');
    await Promise.all(
      ['outbox-1', 'outbox-2', 'outbox-3', 'outbox-4'].map((id) =>
        system.publish(id, script('pure')),
      ),
    );

    for (const id of ['outbox-1', 'outbox-2', 'outbox-3', 'outbox-4'])
      expect((await system.endOf(id)).data.to).toBe('completed');
    await eventually(async () => {
      const events = natsEvents(system.nats);
      const heads = (await events.deadLetters(1_000)).filter(
        ({ code }) => code === 'OUTBOX_POISONED',
      );
      const letters = await Promise.all(heads.map(({ id }) => events.deadLetter(id)));
      return letters.length >= 4 && letters.every((one) => one?.body === '{"pending":"nonsense"}');
    });
    await eventually(async () =>
      (
        await Promise.all(
          [0, 1, 2, 3].map((shard) =>
            redis.hexists(keysOf('understudy', shard as ShardId).outbox, '1'),
          ),
        )
      ).every((held) => held === 0),
    );
    redis.disconnect();
  });
});

describe('the command line', () => {
  test('run follows a task to its result; ps, inspect, verify and tail say what happened', async () => {
    const ran = await understudy('run', 'desk', JSON.stringify(script('pure')), '--id', 'cli-1');
    expect(ran).toMatchObject({ code: 0, out: expect.stringContaining('done 1') });
    const session = await system.sessionOf('cli-1');
    expect(
      (
        await understudy('ps', '--all', '-o', 'json').then(
          ({ out }) => JSON.parse(out) as { session: string }[],
        )
      ).map((one) => one.session),
    ).toContain(session);
    expect((await understudy('inspect', session)).out).toMatch(/state +completed, version 4/);
    expect((await understudy('inspect', session, '--conversation')).out).toContain('done 1');
    expect((await understudy('tail', session, '--from-start')).out).toMatch(
      /task-received[\s\S]*completed/,
    );
    expect(await understudy('verify', session)).toMatchObject({
      code: 0,
      out: expect.stringContaining('equal: 4 messages'),
    });
  });

  test('what is refused exits with 1 and says why; nobody there exits with 3; wrong usage with 2', async () => {
    expect(await understudy('tail', 'desk-0000')).toMatchObject({
      code: 1,
      err: expect.stringContaining('SESSION_UNKNOWN'),
    });
    expect(await understudy('inspect', 'desk-0000')).toMatchObject({
      code: 1,
      err: expect.stringContaining('SESSION_UNKNOWN'),
    });
    for (const wrong of [
      ['frobnicate'],
      ['approve'],
      ['ps', '-n', '0'],
      ['-o', 'yaml', 'ps'],
      ['ps', '--status', 'bogus'],
    ])
      expect(await understudy(...wrong)).toMatchObject({ code: 2 });
    expect(JSON.parse((await understudy('-o', 'json', 'inspect', 'desk-0000')).err)).toMatchObject({
      error: { code: 'SESSION_UNKNOWN' },
    });
    expect(await understudy('--server', 'http://foo', 'ps')).toMatchObject({
      code: 2,
      err: expect.stringContaining('SERVER_INVALID'),
    });
    expect(await understudy('inspect', 'a b')).toMatchObject({
      code: 2,
      err: expect.stringContaining('REQUEST_INVALID'),
    });
    expect(await understudy('requeue')).toMatchObject({ code: 2 });
    expect(
      await understudy('--server', 'nats://127.0.0.1:1', '--timeout', '300', 'ps'),
    ).toMatchObject({ code: 3, err: expect.stringContaining('NATS_UNAVAILABLE') });
    expect(await understudy('run', 'desk', '{"calls":[]}', '--tenant', 'stranger')).toMatchObject({
      code: 4,
      err: expect.stringContaining('TENANT_UNKNOWN'),
    });
  });

  test('run with an id that was accepted before says so, and tells its result again', async () => {
    await understudy('run', 'desk', JSON.stringify(script('pure')), '--id', 'cli-again');
    const session = await system.sessionOf('cli-again');
    const again = await understudy(
      'run',
      'desk',
      JSON.stringify(script('pure')),
      '--id',
      'cli-again',
    );
    expect(again).toMatchObject({
      code: 0,
      out: expect.stringContaining('done 1'),
      err: expect.stringContaining(`accepted before: its session ${session} is completed`),
    });
    expect(system.stepsOf(session)).toHaveLength(4);
  });

  test('what can be no task is refused before anything is published, with exit code 2', async () => {
    const last = async () =>
      (await system.nats.manager.streams.info(system.nats.streams.tasks)).state.last_seq;
    const before = await last();
    for (const [args, code] of [
      [['a b', 'hello'], 'AGENT_INVALID'],
      [['', 'hello'], 'AGENT_INVALID'],
      [['desk', 'hello', '-t', 'a.b'], 'TENANT_INVALID'],
      [['desk', '{bad'], 'TASK_NOT_JSON'],
      [['desk', 'hello', '--id', ''], 'TASK_ID_INVALID'],
    ] as const)
      expect(await understudy('run', ...args), code).toMatchObject({
        code: 2,
        err: expect.stringContaining(code),
      });
    expect(await last()).toBe(before);
  });

  test('run --detach says the session; tail of what is over says that it is; hints name the command as it was called', async () => {
    const detached = await understudy(
      'run',
      'desk',
      JSON.stringify(script('pure')),
      '--id',
      'cli-detached',
      '--detach',
      '-o',
      'json',
    );
    const session = await system.sessionOf('cli-detached');
    expect(JSON.parse(detached.out)).toEqual({ task: 'cli-detached', session });
    await system.endOf('cli-detached');
    expect(
      await eventually(
        async () =>
          [await understudy('tail', session)].find(({ err }) => err.includes('has completed')),
        'the session to be over',
      ),
    ).toMatchObject({
      code: 0,
      out: '',
    });
    expect((await understudy('ps', '--agent', 'nobody')).out).toMatch(/bin\/understudy ps --all/);
    expect(JSON.parse((await understudy('-o', 'json', 'run', 'nobody', 'x')).err)).toMatchObject({
      error: {
        code: 'AGENT_UNKNOWN',
        letter: expect.any(Number),
        next: expect.stringContaining('doctor'),
      },
    });
  });

  test('an answer that is larger than a pipe takes at once comes whole', async () => {
    await system.publish('long-said', { calls: [], say: 'z'.repeat(150_000) });
    await system.endOf('long-said');
    const { out } = await understudy(
      'inspect',
      await system.sessionOf('long-said'),
      '--conversation',
      '-o',
      'json',
    );
    expect(out.length).toBeGreaterThan(300_000);
    expect(JSON.parse(out)).toMatchObject({ summary: { status: 'completed' } });
  });

  test('a list that is cut says so', async () => {
    const cut = await understudy('ps', '--all', '-n', '1');
    expect(cut.out).toMatch(/^the last 1 of \d+: -n <number>$/m);
    const all = await understudy('ps', '--all', '-n', '10000');
    expect(all).toMatchObject({ code: 0, out: expect.stringContaining('completed') });
    expect(all.out).not.toContain('the last ');
  });

  test('--explain prints the nats command instead of doing it', async () => {
    expect((await understudy('--explain', 'halt', 'desk-1', '-r', 'x')).out).toContain(
      'req understudy.control.halt \'{"session":"desk-1"',
    );
    // What it prints is for a shell, whatever was typed.
    const { out } = await understudy(
      '--explain',
      'run',
      'desk',
      "it's; touch /tmp/x",
      '--id',
      'e',
      '--session',
      "k'1",
    );
    const { stdout } = await run('sh', [
      '-c',
      `nats() { for word; do echo "[$word]"; done; }; ${out}`,
    ]);
    expect(stdout.split('\n')).toEqual(
      expect.arrayContaining([
        "[Understudy-Session:k'1]",
        '[Understudy-Task:e]',
        '[understudy.task.acme.desk]',
        '[{"input":"it\'s; touch /tmp/x"}]',
      ]),
    );
  });

  test('doctor names what tools lack in the executors, and no value', async () => {
    const file = join(system.folder, 'specs/lacking.yaml');
    const part = (kind: string, name: string, spec: string) =>
      `---\napiVersion: understudy.dev/v1\nkind: ${kind}\nmetadata: { name: ${name} }\nspec: ${spec}\n`;
    const lacking = (name: string, run: string) =>
      part('Tool', name, `{ description: x, input: { type: object }, run: { ${run} } }`);
    writeFileSync(
      file,
      part(
        'Agent',
        'lacking',
        '{ instructions: i, model: scripted, tools: [no_url, no_token, no_address, fine] }',
      ) +
        lacking('no_url', 'kind: http, url: "${env:NOT_SET_HERE}/x"') +
        lacking(
          'no_token',
          'kind: mcp, url: "${env:WORLD_URL}/x", headers: { authorization: "Bearer ${env:NO_TOKEN}" }',
        ) +
        lacking('no_address', 'kind: http, url: "${env:PATH}"') +
        lacking('fine', 'kind: http, url: "${env:WORLD_URL}/x"'),
    );
    const found = await eventually(async () => {
      const { out } = await understudy('doctor');
      return out.includes('NOT_SET_HERE') ? out : undefined;
    }, 'what is missing to be told');
    expect(found).toContain('tool no_url: run.url: NOT_SET_HERE is not set for the executors');
    expect(found).toContain('tool no_token: run.headers: NO_TOKEN is not set for the executors');
    expect(found).toContain('tool no_address: run.url: with what is set');
    expect(found).not.toContain('tool fine');
    expect(found).not.toContain('/usr/bin');
    rmSync(file);
    await eventually(async () => (await understudy('doctor')).code === 0, 'all to be well again');
  });

  test('doctor finds every shard owned', async () => {
    const health = await eventually(async () => {
      const { code, out } = await understudy('doctor', '-o', 'json');
      return code === 0 ? (JSON.parse(out) as { owned: number; shards: number }) : undefined;
    });
    expect(health).toMatchObject({
      owned: 4,
      shards: 4,
      pools: [{ pool: 'models' }, { pool: 'tools' }],
    });
  });
});

test('every service answers on livez, readyz and metrics', async () => {
  for (const service of system.stack.services) {
    for (const path of ['livez', 'readyz', 'metrics'])
      expect((await fetch(`http://127.0.0.1:${service.port}/${path}`)).status).toBe(200);
  }
  expect(
    await system.metric(system.of('gateway')[0]!, 'understudy_perform_seconds_count'),
  ).toBeGreaterThan(0);
});

test('no prompt and no tool output stands in a log or in an event of a step', async () => {
  const marker = 'marker-7f3a-nobody-may-log-this';
  await system.publish('secretive', {
    calls: [{ tool: 'code', arguments: { code: `return "${marker}"` } }],
    say: 'ok',
  });
  await system.endOf('secretive');
  const { readdirSync, readFileSync } = await import('node:fs');
  const logs = readdirSync(system.stack.logs)
    .map((file) => readFileSync(join(system.stack.logs, file), 'utf8'))
    .join('\n');

  expect(logs).toContain('task accepted');
  expect(logs).not.toContain(marker);
  expect(JSON.stringify(system.stepsOf(await system.sessionOf('secretive')))).not.toContain(marker);
});
