/** Where promises were broken once: halts, slow services, equal ids, half commits, letters, order, lost queues. */
import { afterEach, describe, expect, test } from 'vitest';
import { ask } from '../../services/adapters/nats/connection.ts';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { redisLeases } from '../../services/adapters/redis/leases.ts';
import { connectedRedis } from '../../services/adapters/redis/scripts.ts';
import { redisSessionStore } from '../../services/adapters/redis/session-store.ts';
import { eventually } from '../support/eventually.ts';
import { sessionCommit } from '../support/sessions.ts';
import { System, type SystemOptions, script } from '../support/system.ts';

let system: System;
const open = async (options?: SystemOptions) => {
  system = await System.start(options);
  return system;
};
afterEach(() => system?.stop());
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const wanted = (session: string) =>
  eventually(() =>
    system.stepsOf(session).some(({ data }) => data.effects.some(({ kind }) => kind === 'runTool')),
  );

describe('a session that is halted', () => {
  test('a call that no executor has begun is never begun', async () => {
    await open({ executors: 0 });
    await system.publish('h', script('opaque'));
    const session = await system.sessionOf('h');
    await wanted(session);
    await system.ask('halt', { session, actor: 'ann' });
    await system.endOf('h');
    await system.stack.start('executor');
    await sleep(4_000);
    expect(system.world.calls).toEqual([]);
  }, 60_000);

  test('a call that waits in a busy executor is never begun', async () => {
    await open({ executors: 0 });
    await system.stack.start('executor', { UNDERSTUDY_CONCURRENCY: '1' });
    system.world.beforeMs = 3_000;
    await system.publish('first', script('opaque'));
    await eventually(() => system.world.calls.length === 1);
    await system.publish('second', script('opaque'));
    const session = await system.sessionOf('second');
    await wanted(session);
    await sleep(300);
    await system.ask('halt', { session, actor: 'ann' });
    await system.endOf('second');
    await system.endOf('first');
    await sleep(4_000);
    expect(system.world.calls.filter((call) => call.session === session)).toEqual([]);
  }, 60_000);

  test('a queryable call under way is not made a second time', async () => {
    await open();
    system.world.beforeMs = 3_000;
    await system.publish('q', script('queryable'));
    const session = await system.sessionOf('q');
    await eventually(() => system.world.calls.length === 1);
    await system.ask('halt', { session, actor: 'ann' });
    await sleep(7_000);
    expect(system.world.doubled()).toEqual([]);
  }, 60_000);
});

test('a queryable call whose executor dies while the service is at work', async () => {
  await open({ executors: 1 });
  system.world.beforeMs = 9_000;
  await system.publish('x', script('queryable'));
  await eventually(() => system.world.calls.length === 1);
  system.stack.kill(system.of('executor')[0]!);
  await system.stack.start('executor');
  await sleep(14_000);
  expect(system.world.doubled()).toEqual([]);
}, 60_000);

test('the same task id at two tenants is two tasks', async () => {
  await open();
  await system.publish('order-1', script('pure'), { tenant: 'acme' });
  await system.publish('order-1', script('pure'), { tenant: 'globex' });
  await sleep(4_000);
  expect(
    system
      .ends()
      .map(({ data }) => data.tenant)
      .sort(),
  ).toEqual(['acme', 'globex']);
}, 60_000);

test('one commit that Redis refuses half-way writes nothing', async () => {
  await open({ runtimes: 0, gateways: 0, executors: 0 });
  const redis = await connectedRedis(system.stack.redis.url);
  const store = redisSessionStore(redis);
  const lease = (await redisLeases(redis).acquire(0 as never, 'h' as never, 'b', 60_000))!;
  const at = { position: { incarnation: 0, sequence: 9, index: 0 }, commits: 1, log: 7, queue: 9 };
  const neighbour = sessionCommit({
    session: 'n1' as never,
    record: '{"n":1}',
    entries: ['{"role":"user","content":"x"}'],
    pending: [{ id: 'n1_1_0' as never, body: '{}' }],
    floor: 9,
  });
  const broken = sessionCommit({ session: 'b1' as never, wakeAt: Number.NaN });
  await expect(
    store.commit(lease.shard, lease.token, {
      from: undefined,
      to: at,
      sessions: [neighbour, broken],
      settled: [],
      archived: [],
    } as never),
  ).rejects.toThrow();
  const written = {
    position: (await store.open(lease.shard)).at?.position.sequence,
    record: await store.load(lease.shard, 'n1' as never),
    entries: (await store.conversation(lease.shard, 'n1' as never, 0, 1)).length,
    pending: await redis.hlen('{understudy:0}:pending'),
    floors: (await store.open(lease.shard)).floors.size,
  };
  redis.disconnect();
  expect(written).toEqual({
    position: undefined,
    record: undefined,
    entries: 0,
    pending: 0,
    floors: 0,
  });
}, 60_000);

test('a task is one dead letter, though its runtime dies', async () => {
  await open();
  const tasks = Array.from({ length: 400 }, (_, index) => `late${index}`);
  const publishing = Promise.all(
    tasks.map((task) => system.publish(task, script(), { agent: 'newcomer' })),
  );
  await eventually(async () => (await natsEvents(system.nats).deadLetters(10_000)).length > 10);
  const victim = system.of('runtime')[0]!;
  system.stack.kill(victim);
  await publishing;
  await system.stack.start('runtime', {}, victim.instance);
  await sleep(14_000);
  const letters = (await natsEvents(system.nats).deadLetters(10_000)).map(({ task }) => task);
  expect(letters.length).toBe(new Set(letters).size);
}, 90_000);

test('tasks of one keyed session are heard in the order in which they were accepted', async () => {
  await open({ runtimes: 3 });
  const ids = Array.from({ length: 25 }, (_, index) => `o${index}`);
  for (const id of ids)
    await system.publish(id, { calls: [] }, { headers: { 'Understudy-Session': 'chat' } });
  for (const id of ids) await system.endOf(id);
  expect(
    system
      .ends()
      .sort((a, b) => a.data.version - b.data.version)
      .map(({ data }) => data.task),
  ).toEqual(ids);
}, 90_000);

test('EFFECTS that was deleted: what is pending is offered again', async () => {
  await open({ executors: 0 });
  await system.publish('e', script('pure'));
  await wanted(await system.sessionOf('e'));
  await sleep(500);
  await ask(system.nats, '$JS.API.STREAM.DELETE.EFFECTS', {});
  await system.stack.start('executor');
  await sleep(10_000);
  expect(system.world.calls).toHaveLength(1);
}, 60_000);
