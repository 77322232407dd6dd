/** DESIGN's failure matrix with real processes: kill -9, SIGSTOP, restarts and flushes, each while work goes on. */
import { afterEach, describe, expect, test } from 'vitest';
import { natsStarts } from '../../services/adapters/nats/starts.ts';
import type { EffectId } from '../../services/core/ids.ts';
import { keysOf } from '../../services/core/wire/keys.ts';
import type { Service } from '../../services/local/stack.ts';
import { eventually } from '../support/eventually.ts';
import { FreezingProxy } from '../support/freezing-proxy.ts';
import { startNatsCluster } from '../support/nats-cluster.ts';
import { startCluster, startSentinels } from '../support/redis-topologies.ts';
import { System, type SystemOptions, script } from '../support/system.ts';

let system: System;
const open = async (options?: SystemOptions) => {
  system = await System.start(options);
  return system;
};
afterEach(() => system?.stop());

const many = (count: number, prefix = 't') =>
  Array.from({ length: count }, (_, index) => `${prefix}${index}`);
const workScript = script('pure', 'keyed', 'pure', 'keyed', 'pure');

/** All tasks end well, nothing happened twice, and every log folds to its state. */
async function allIsWell(tasks: readonly string[], keyedPerTask = 2): Promise<void> {
  for (const task of tasks)
    expect((await system.endOf(task)).data).toMatchObject({ to: 'completed', output: 'done 5' });
  expect(
    system.world
      .doubled()
      .filter((key) => system.world.effects.find((effect) => effect.key === key)?.tool !== 'pure'),
  ).toEqual([]);
  expect(
    new Set(system.world.effects.filter(({ tool }) => tool === 'keyed').map(({ key }) => key)).size,
  ).toBe(keyedPerTask * tasks.length);
  const ended = system.ends().map(({ data }) => data.task);
  expect([...ended].sort()).toEqual([...new Set(ended)].sort());
  await system.verifyAll(tasks.slice(0, 5));
}

describe('a runtime killed with -9 at each beat', () => {
  test.each([
    ['receive', 7],
    ['before-commit', 5],
    ['after-commit', 6],
    ['after-release', 9],
  ])('%s: another takes its shards, nothing is lost or doubled', async (beat, nth) => {
    await open({ runtimes: 0, shards: 2 });
    const victim = await system.startCrashing(beat, nth);
    const tasks = many(8, beat);
    for (const task of tasks) await system.publish(task, workScript);
    expect(await victim.running.ended).toMatchObject({ signal: 'SIGKILL' });
    await system.stack.start('runtime');

    await allIsWell(tasks);
  });
});

test('the runtime that owns sessions is killed under load: the others go on with them', async () => {
  await open({ runtimes: 2, shards: 8 });
  system.world.beforeMs = 20;
  const tasks = many(60);
  for (const task of tasks) await system.publish(task, workScript);
  await eventually(() => system.ends().length > 5);
  system.stack.kill(system.of('runtime')[0]!);
  await system.stack.start('runtime');

  await allIsWell(tasks);
});

test('half of the runtimes are killed at once: the others take all their shards', async () => {
  await open({ runtimes: 4, shards: 16 });
  system.world.beforeMs = 20;
  const tasks = many(60);
  for (const task of tasks) await system.publish(task, workScript);
  await eventually(() => system.ends().length > 5);
  for (const victim of system.of('runtime').slice(0, 2)) system.stack.kill(victim);
  expect(system.ends().length).toBeLessThan(tasks.length);

  await allIsWell(tasks);
  await eventually(async () => {
    const owned = await Promise.all(
      system.of('runtime').map((runtime) => system.metric(runtime, 'understudy_shards_owned')),
    );
    return owned.every((count) => count > 0) && owned.reduce((sum, count) => sum + count, 0) === 16;
  }, 'every shard to have one owner');
});

test('a paused owner wakes: all its writes are refused and counted, the others have finished its work', async () => {
  await open({ runtimes: 2, shards: 8 });
  system.world.beforeMs = 150;
  const tasks = many(24);
  const [frozen, other] = system.of('runtime');
  await eventually(
    async () =>
      (await system.metric(frozen!, 'understudy_shards_owned')) > 0 &&
      (await system.metric(other!, 'understudy_shards_owned')) > 0,
  );
  for (const task of tasks) await system.publish(task, workScript);
  await eventually(() => system.events.length > 40);
  frozen!.running.signal('SIGSTOP');

  await allIsWell(tasks);
  frozen!.running.signal('SIGCONT');
  // It still holds results that it read before, and tries to commit them under a token that is no longer the owner.
  await eventually(
    async () =>
      (await system.metric(frozen!, 'understudy_fenced_total')) +
        (await system.metric(frozen!, 'understudy_shards_lost_total')) >
      0,
    'the zombie to be refused',
  );
  await allIsWell(tasks);
});

test('on SIGTERM shards are handed over at once, and no task fails', async () => {
  await open({ runtimes: 2, shards: 8 });
  const tasks = many(30);
  for (const task of tasks) await system.publish(task, workScript);
  await eventually(() => system.ends().length > 2);
  const [leaving, staying] = system.of('runtime') as [Service, Service];
  const held = await system.metric(leaving, 'understudy_shards_owned');
  const before = await system.metric(staying, 'understudy_handover_seconds_count');
  await leaving.running.stop();
  system.stack.services.splice(system.stack.services.indexOf(leaving), 1);
  const health = await eventually(async () => {
    const found = await system.ask<{ orphans: number[]; hosts: string[] }>('doctor');
    return found.orphans.length === 0 ? found : undefined;
  });

  expect(health.hosts).not.toContain(leaving.instance);
  // Each was announced and taken, none waited for its lease to run out.
  expect(held).toBeGreaterThan(0);
  await eventually(
    async () =>
      (await system.metric(staying, 'understudy_handover_seconds_count')) - before === held,
    `${held} hand-overs to be counted`,
  );
  await allIsWell(tasks);
});

test('a gateway killed in the middle of a stream: another calls again, one answer is recorded', async () => {
  await open({ gateways: 1, stream: true });
  system.world.holdStreams = true;
  await system.publish('g1', { calls: [] });
  await eventually(() => system.world.heldStreams.length === 1);
  system.stack.kill(system.of('gateway')[0]!);
  system.world.releaseStreams();
  await system.stack.start('gateway');

  expect((await system.endOf('g1')).data).toMatchObject({ to: 'completed', output: 'done 0' });
  const session = await system.sessionOf('g1');
  expect(system.stepsOf(session).filter(({ type }) => type.endsWith('model-replied'))).toHaveLength(
    1,
  );
  expect(system.world.modelCalls).toBe(2);
});

describe('an executor dies after the start record', () => {
  /** Publish one call, wait until the world has seen it, kill the executor in the middle. */
  async function killInTheMiddle(
    tool: string,
    hold: { beforeMs?: number; afterMs?: number },
  ): Promise<string> {
    await open({ executors: 1 });
    Object.assign(system.world, hold);
    await system.publish('x', script(tool));
    await eventually(() =>
      hold.afterMs ? system.world.effects.length === 1 : system.world.calls.length === 1,
    );
    system.stack.kill(system.of('executor')[0]!);
    Object.assign(system.world, { beforeMs: 0, afterMs: 0 });
    await system.stack.start('executor');
    await system.endOf('x');
    const session = await system.sessionOf('x');
    const [result] = system
      .stepsOf(session)
      .filter(({ type }) => /tool-(returned|failed)$/.test(type));
    return `${result!.type.split('.').at(-1)} ${String(result!.data.details.outcome)}`;
  }

  test('pure: it is run again', async () => {
    expect(await killInTheMiddle('pure', { beforeMs: 2_000 })).toBe('tool-returned ok');
    expect(system.world.calls.length).toBe(2);
  });

  test('keyed: it is run again with the same key, and happens once', async () => {
    expect(await killInTheMiddle('keyed', { afterMs: 2_000 })).toBe('tool-returned ok');
    expect(system.world.calls.map(({ key }) => key)).toEqual([
      system.world.calls[0]!.key,
      system.world.calls[0]!.key,
    ]);
    expect(system.world.effects).toHaveLength(1);
  });

  test('queryable and done: it is asked first, and not run again', async () => {
    expect(await killInTheMiddle('queryable', { afterMs: 2_000 })).toBe('tool-returned ok');
    expect(system.world.calls).toHaveLength(1);
  });

  test('queryable and not done: it is asked first, then run', async () => {
    await open({ executors: 0 });
    // Somebody wrote the start record and died before it did anything.
    await system.publish('q', script('queryable'));
    const session = await system.sessionOf('q');
    await natsStarts(system.nats).create(`${session}_2_0` as EffectId, 'gone', 'queryable');
    await system.stack.start('executor');

    expect((await system.endOf('q')).data.to).toBe('completed');
    expect(system.world.effects.map(({ tool }) => tool)).toEqual(['queryable']);
  });

  test('opaque: it is never run again, and its session is told that nobody knows', async () => {
    expect(await killInTheMiddle('opaque', { afterMs: 2_000 })).toBe('tool-failed unknown');
    expect(system.world.calls).toHaveLength(1);
    expect(system.world.effects).toHaveLength(1);
  });

  test('before the start record: another runs it', async () => {
    await open({ executors: 0 });
    await system.publish('b', script('opaque'));
    await eventually(() => system.events.some(({ type }) => type.endsWith('model-replied')));
    await system.stack.start('executor');

    expect((await system.endOf('b')).data.to).toBe('completed');
    expect(system.world.effects).toHaveLength(1);
  });
});

test('Redis killed and restarted under load: commits wait, nothing is lost or doubled', async () => {
  await open({ runtimes: 2, gateways: 2, executors: 2, shards: 8 });
  system.world.beforeMs = 10;
  const tasks = many(60);
  for (const task of tasks) await system.publish(task, workScript);
  await eventually(() => system.ends().length > 5);
  await system.stack.restartServer('redis', 'SIGKILL', 1_000);

  await allIsWell(tasks);
});

test('Redis flushed under load: the mailbox builds everything again, nothing is lost or doubled', async () => {
  await open({ runtimes: 2, shards: 8 });
  system.world.beforeMs = 10;
  const tasks = many(60);
  for (const task of tasks) await system.publish(task, workScript);
  await eventually(() => system.ends().length > 10 && system.events.length > 200);
  const { connectedRedis } = await import('../../services/adapters/redis/scripts.ts');
  const redis = await connectedRedis(system.stack.redis.url);
  await redis.flushall();
  redis.disconnect();

  await allIsWell(tasks);
  expect(system.world.calls.filter(({ tool }) => tool === 'keyed').length).toBe(120); // none was even tried twice
});

test('nats-server killed and restarted under load: streams in memory are made again, nothing is lost or doubled', async () => {
  await open({ runtimes: 2, gateways: 2, executors: 2, shards: 8 });
  system.world.beforeMs = 10;
  const tasks = many(50);
  for (const task of tasks) await system.publish(task, workScript);
  await eventually(() => system.ends().length > 5);
  await system.stack.restartServer('nats', 'SIGKILL', 500);

  await allIsWell(tasks);
});

describe('servers with copies: the one that leads is killed under load, another goes on, nothing is lost or doubled', () => {
  test.each([
    ['a Redis that sentinels watch', startSentinels],
    ['a Redis cluster', startCluster],
  ])('%s', async (_, start) => {
    const topology = await start();
    try {
      await open({ runtimes: 2, gateways: 2, executors: 2, shards: 8, redisUrl: topology.url });
      system.world.beforeMs = 10;
      const tasks = many(60);
      for (const task of tasks) await system.publish(task, workScript);
      await eventually(() => system.ends().length > 5);
      await topology.takeMasterOf(keysOf('understudy', 0).owner, 'SIGKILL');
      expect(system.ends().length).toBeLessThan(tasks.length);

      await allIsWell(tasks);
    } finally {
      await system?.stop();
      await topology.stop();
    }
  });

  test('a NATS cluster with three copies of each stream', async () => {
    const cluster = await startNatsCluster();
    try {
      await open({
        runtimes: 2,
        gateways: 2,
        executors: 2,
        shards: 8,
        natsUrl: cluster.url,
        replicas: 3,
      });
      system.world.beforeMs = 10;
      const tasks = many(60);
      for (const task of tasks) await system.publish(task, workScript);
      await eventually(() => system.ends().length > 5);
      const leader = await cluster.killLeaderOf(system.nats.streams.mail);
      expect(system.ends().length).toBeLessThan(tasks.length);
      // It comes back in the middle of the work, behind the others.
      await eventually(() => system.ends().length > 12);
      cluster.restart(leader);

      await allIsWell(tasks);
    } finally {
      await system?.stop();
      await cluster.stop();
    }
  });
});

describe('a runtime that is cut off from', () => {
  test.each(['nats', 'redis'] as const)(
    '%s only lets its shards go, and the others finish the work while it is',
    async (which) => {
      await open({ runtimes: 1, gateways: 1, executors: 1, shards: 8 });
      const proxy = new FreezingProxy();
      await proxy.start(system.stack[which].port);
      try {
        const scheme: Record<string, string> =
          which === 'nats'
            ? { UNDERSTUDY_NATS_URL: `nats://127.0.0.1:${proxy.port}` }
            : { UNDERSTUDY_REDIS_URL: `redis://127.0.0.1:${proxy.port}` };
        const second = await system.stack.start('runtime', scheme, 'cut-off');
        await eventually(
          async () => (await system.metric(second, 'understudy_shards_owned')) === 4,
          'the second runtime to have its shards',
        );
        system.world.beforeMs = 20;
        const tasks = many(40);
        for (const task of tasks) await system.publish(task, workScript);
        await eventually(() => system.ends().length > 3);
        proxy.freeze();
        await allIsWell(tasks);
        proxy.thaw();
        await eventually(
          async () => (await system.metric(second, 'understudy_shards_owned')) === 4,
          'the second runtime to come back',
        );
      } finally {
        proxy.thaw();
        await proxy.stop();
      }
    },
  );
});

test('everything dies at once, the memory of the broker included: what was pending is offered again', async () => {
  await open({ executors: 0 });
  await system.publish('all', script('opaque', 'keyed'));
  await eventually(() => system.events.some(({ type }) => type.endsWith('model-replied')));
  // Past the lazy commit that settles: the effect is nowhere but in Redis and in the queue.
  await eventually(
    async () => (await system.metric(system.of('runtime')[0]!, 'understudy_outbox_entries')) === 0,
    'the outbox to be empty',
  );
  for (const service of [...system.stack.services]) system.stack.kill(service);
  await system.stack.restartServer('nats');
  await system.stack.restartServer('redis');
  await Promise.all([
    system.stack.start('runtime'),
    system.stack.start('gateway'),
    system.stack.start('executor'),
  ]);

  expect((await system.endOf('all')).data).toMatchObject({ to: 'completed', output: 'done 2' });
  expect(system.world.doubled()).toEqual([]);
});

test('a service that starts while the broker is away waits, says for what, and serves when it comes', async () => {
  await open();
  system.stack.nats.running.signal('SIGKILL');
  await system.stack.nats.running.ended;
  const started = Promise.all(
    (['runtime', 'gateway', 'executor'] as const).map((kind) => system.stack.start(kind)),
  );
  const readiness = async ({ port }: Service) =>
    (await fetch(`http://127.0.0.1:${port}/readyz`)).text();
  for (const kind of ['runtime', 'gateway', 'executor'] as const)
    await eventually(
      async () =>
        /^starting \(no NATS server answers/.test(await readiness(system.of(kind).at(-1)!)),
      `a ${kind} to say what it waits for`,
      25_000,
    );
  await system.stack.restartServer('nats');
  await started;
  await system.watch();
  const tasks = many(4, 'patient');
  for (const task of tasks) await system.publish(task, workScript);
  await allIsWell(tasks);
});

test('a tenant floods: its own queue grows, and another tenant is served all the same', async () => {
  await open({ executors: 0 });
  await system.stack.start('executor', { UNDERSTUDY_CONCURRENCY: '4' });
  system.world.beforeMs = 40;
  const flood = many(300, 'flood');
  const calls = script('pure', 'pure', 'pure');
  const ofFlood = () => system.world.effects.filter(({ tenant }) => tenant === 'acme').length;
  for (const task of flood) await system.publish(task, calls);
  await eventually(() => ofFlood() >= 8);
  await eventually(
    async () => (await system.metric(system.of('runtime')[0]!, 'understudy_effects_waiting')) > 0,
  );

  const [before, calm] = [ofFlood(), many(3, 'calm')];
  for (const task of calm) await system.publish(task, calls, { tenant: 'globex' });
  for (const task of calm) expect((await system.endOf(task)).data.to).toBe('completed');

  // In the order of arrival, each of its calls would have waited for one of every session of the flood: 900 in all.
  expect(ofFlood() - before).toBeLessThan(450);
  for (const task of flood) expect((await system.endOf(task)).data.to).toBe('completed');
  expect(ofFlood()).toBe(900);
});
