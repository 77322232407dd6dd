import { expect, test } from 'vitest';
import { esbuildMachines } from '../../services/adapters/esbuild/machines.ts';
import { memoryArchive, memoryEvents } from '../../services/adapters/memory/archive.ts';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { memoryEffects, memoryStarts } from '../../services/adapters/memory/queues.ts';
import { memoryStore } from '../../services/adapters/memory/session-store.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { firstWindow } from '../../services/core/cluster/window.ts';
import { Refused, Unavailable } from '../../services/core/errors.ts';
import {
  type EffectId,
  type HostId,
  type SessionId,
  type ShardId,
  sessionIdOf,
} from '../../services/core/ids.ts';
import { modelPool } from '../../services/core/pools.ts';
import type { PooledEffect } from '../../services/core/session/effects.ts';
import type { Message } from '../../services/core/session/messages.ts';
import type { Effects } from '../../services/ports/effects.ts';
import { CommitRounds } from '../../services/runtime/commit-rounds.ts';
import { Definitions } from '../../services/runtime/definitions.ts';
import { Shard } from '../../services/runtime/shard.ts';
import { Windows } from '../../services/runtime/windows.ts';
import { eventually } from '../support/eventually.ts';
import { address, agent, bundleOf, replied, revision, task } from '../support/sessions.ts';

const effect = (tenant: string, id: number, pool = 'tools') =>
  ({ kind: 'runTool', id: `${tenant}_${id}` as EffectId, tenant, pool }) as unknown as PooledEffect;
const many = (tenant: string, count: number) =>
  Array.from({ length: count }, (_, index) => effect(tenant, index));
const answer = (performedMs = 0) =>
  ({ kind: 'toolReturned', attempts: 1, latencyMs: performedMs }) as unknown as Message;

function open(queued = 0) {
  const left: string[] = [];
  const tooLarge = new Set<string>();
  const refused: string[] = [];
  const unwanted = new Set<string>();
  let now = 1_000_000;
  let isAway = false;
  const effects: Pick<Effects, 'offer' | 'pools'> = {
    offer: async ({ id }) => {
      if (isAway) throw new Error('away');
      if (tooLarge.has(id)) throw new Refused('MESSAGE_TOO_LARGE', 'too large');
      left.push(id);
    },
    pools: async () => [{ pool: 'tools', asking: 1, queued, inHand: 1 }],
  };
  const windows = new Windows({
    effects,
    telemetry: countingTelemetry(),
    clock: {
      ...systemClock,
      now: () => now,
      sleep: async () => void (await new Promise(setImmediate)),
    },
  });
  return {
    windows,
    left,
    tooLarge,
    refused,
    unwanted,
    shard: () =>
      windows.open({
        isOpen: () => true,
        isWanted: ({ id }) => !unwanted.has(id),
        refused: async ({ id }) => {
          if (isAway) throw new Unavailable('NATS_UNAVAILABLE', 'away');
          refused.push(id);
        },
      }),
    waiting: () => windows.waiting.get('tools') ?? 0,
    pass: (ms: number) => {
      now += ms;
    },
    away: (is: boolean) => {
      isAway = is;
    },
  };
}

test('one that waited and that no message carries is told, once its session can be', async () => {
  const { shard: openShard, left, tooLarge, refused, away } = open();
  const shard = openShard();
  const all = many('acme', firstWindow.size + 1);
  const last = all.at(-1) as PooledEffect;
  tooLarge.add(last.id);
  for (const one of all) void shard.offer(one);
  expect(shard.hasUnsent).toBe(true);

  away(true);
  shard.answered(all[0]?.id ?? '', answer());
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect([refused, shard.hasUnsent]).toEqual([[], true]);
  away(false);
  await eventually(() => !shard.hasUnsent, 'it to be told');
  expect(refused).toEqual([last.id]);
  expect(left).not.toContain(last.id);
});

test('a crowd of one tenant waits outside, and another tenant goes past it', () => {
  const { shard: openShard, left, waiting } = open();
  const shard = openShard();

  for (const one of many('crowd', 500)) void shard.offer(one);
  void shard.offer(effect('calm', 0));

  expect(left).toEqual([
    ...many('crowd', firstWindow.size).map(({ id }) => id as string),
    'calm_0',
  ]);
  expect(waiting()).toBe(500 - firstWindow.size);
});

test('answers let the next ones in, in order', () => {
  const { shard: openShard, left } = open();
  const shard = openShard();
  const all = many('crowd', firstWindow.size + 3);
  for (const one of all) void shard.offer(one);

  shard.answered(all[0]!.id, answer());

  // One place was given back, and one was won: nobody had waited.
  expect(left).toEqual(all.slice(0, firstWindow.size + 2).map(({ id }) => id as string));
});

test('what waits holds its entry of the outbox back no longer, and the shard says that something is unsent until the queue has all of it', async () => {
  const { shard: openShard, left, away } = open();
  const shard = openShard();
  const all = many('crowd', firstWindow.size + 1);
  await Promise.all(all.map((one) => shard.offer(one)));
  expect(shard.hasUnsent).toBe(true);

  away(true);
  shard.answered(all[0]!.id, undefined);
  await new Promise(setImmediate);
  expect([shard.hasUnsent, left.includes(all.at(-1)!.id)]).toEqual([true, false]);

  away(false);
  await eventually(() => !shard.hasUnsent);
  expect(left.at(-1)).toBe(all.at(-1)!.id);
});

test('what nobody wants any more does not leave, and holds nobody up', () => {
  const { shard: openShard, left, unwanted, waiting } = open();
  const shard = openShard();
  const all = many('crowd', firstWindow.size + 3);
  for (const one of all) void shard.offer(one);
  const [halted, answeredBefore, last] = all.slice(-3);

  shard.answered(halted!.id, undefined);
  unwanted.add(answeredBefore!.id);
  shard.answered(all[0]!.id, undefined);

  expect(left).not.toContain(halted!.id);
  expect(left).not.toContain(answeredBefore!.id);
  expect(left.at(-1)).toBe(last!.id);
  expect([waiting(), shard.hasUnsent]).toEqual([0, true]);
});

test('an effect that was answered before it was offered takes no place: nobody would give it back', () => {
  const { shard: openShard, left, unwanted } = open();
  const shard = openShard();
  for (const one of many('late', firstWindow.size)) {
    unwanted.add(one.id);
    void shard.offer(one);
  }

  void shard.offer(effect('late', 9_999));

  expect(left).toEqual(['late_9999']);
});

test('of a shard that was lost nothing leaves, and its places are free for the others', () => {
  const { shard: openShard, left, waiting } = open();
  const [lost, kept] = [openShard(), openShard()];
  for (const one of many('crowd', firstWindow.size + 10)) void lost.offer(one);
  const mine = effect('crowd', 9_999);
  void kept.offer(mine);
  expect(left).not.toContain(mine.id);

  lost.close();

  expect(left.slice(firstWindow.size)).toEqual([mine.id]);
  expect(waiting()).toBe(0);
});

test('what is offered once more, because the queue was lost or away, needs no second place', async () => {
  const { shard: openShard, left, away } = open();
  const shard = openShard();
  const all = many('crowd', firstWindow.size);
  away(true);
  for (const one of all) await expect(shard.offer(one)).rejects.toThrow('away');
  away(false);

  for (const one of all) await shard.offer(one);
  expect(left).toHaveLength(firstWindow.size);

  const waiting = effect('crowd', 9_999);
  void shard.offer(waiting);
  void shard.offer(waiting);
  shard.answered(all[0]!.id, undefined);
  shard.answered(all[1]!.id, undefined);
  expect(left.filter((id) => id === waiting.id)).toHaveLength(1);
});

test('effects that waited long in the queue make the window smaller; where the queue is empty it grows by itself, but not at once', async () => {
  const { windows, shard: openShard, left, pass } = open();
  const shard = openShard();
  const all = many('crowd', 500);
  for (const one of all) void shard.offer(one);
  pass(60_000);

  // Half of the window: until it is empty enough, nothing leaves.
  for (const one of all.slice(0, firstWindow.size / 2)) shard.answered(one.id, answer(10));
  expect(left).toHaveLength(firstWindow.size);

  await windows.widen();
  expect(left).toHaveLength(firstWindow.size);
  pass(60_000);
  await windows.widen();
  expect(left).toHaveLength(firstWindow.size + firstWindow.size / 2);
});

test('a full queue does not widen a window', async () => {
  const { windows, shard: openShard, left } = open(7);
  const shard = openShard();
  for (const one of many('crowd', 500)) void shard.offer(one);

  await windows.widen();

  expect(left).toHaveLength(firstWindow.size);
});

/** A shard over the in-memory adapters, and its next owner over the same. */
function world() {
  const clock = systemClock;
  const store = memoryStore(clock);
  const archive = memoryArchive();
  const queue = memoryEffects(clock);
  const offered: string[] = [];
  const effects: Effects = {
    ...queue,
    offer: (effect) => {
      offered.push(effect.id);
      return queue.offer(effect);
    },
  };
  const mailbox = memoryMailbox(clock);
  const telemetry = countingTelemetry();
  const shard = 0 as ShardId;
  /** While it is held, a commit is not acknowledged. */
  let held: Promise<void> = Promise.resolve();
  const commit: typeof store.commit = async (...given) => {
    const result = await store.commit(...given);
    await held;
    return result;
  };
  const ports = {
    mailbox,
    store: { ...store, commit },
    archive,
    effects,
    events: memoryEvents(clock),
    telemetry,
    clock,
    definitions: new Definitions(archive, ['.'], esbuildMachines()),
    shards: 1,
  };
  return {
    store,
    holdCommits() {
      const { promise, resolve } = Promise.withResolvers<void>();
      held = promise;
      return resolve;
    },
    offered,
    mailbox,
    telemetry,
    shard,
    /** A gateway that answers everything. @returns the sessions whose calls came */
    async answerAll() {
      const taken = new Set<SessionId>();
      await effects.take(
        modelPool,
        512,
        async ({ effect: { id, session } }) => {
          taken.add(session);
          await mailbox.deliver(shard, {
            tenant: address.tenant,
            session,
            message: replied(id, { content: 'done' }),
          });
          return true;
        },
        () => undefined,
      );
      return taken;
    },
    async owner(name: string) {
      await archive.putBundle(revision, bundleOf());
      const lease = await store.leases.acquire(shard, 'host' as HostId, name, 60_000);
      const windows = new Windows(ports);
      const owned = new Shard(
        lease!,
        { ...ports, starts: memoryStarts(clock), windows, rounds: new CommitRounds() },
        () => undefined,
      );
      await owned.open();
      return { owned, windows };
    },
  };
}
const sessions = Array.from({ length: firstWindow.size + 36 }, (_, index) =>
  sessionIdOf(address.tenant, agent, `flood-${index}`),
);

test('what waited when its runtime died is offered by the next owner, although its outbox was settled', async () => {
  const { store, mailbox, shard, owner, answerAll } = world();
  const first = await owner('first');
  for (const session of sessions)
    await mailbox.deliver(shard, { tenant: address.tenant, session, message: task('hello') });
  await eventually(() => first.windows.waiting.get(modelPool) === 36);
  // A later commit notes that the entries have been released.
  await eventually(async () => (await store.open(shard)).outbox.length === 0);
  first.owned.close();

  await owner('second');
  const taken = await answerAll();

  await eventually(() => taken.size === sessions.length);
});

test('once all of it has left, the next owner offers nothing again', async () => {
  const { store, offered, mailbox, shard, owner } = world();
  const first = await owner('first');
  for (const session of sessions.slice(0, 5))
    await mailbox.deliver(shard, { tenant: address.tenant, session, message: task('hello') });
  await eventually(async () => {
    const { at, outbox } = await store.open(shard);
    return at !== undefined && at.queue !== 0 && at.position.sequence === 5 && outbox.length === 0;
  });
  first.owned.close();

  await owner('second');

  expect(offered).toHaveLength(5);
});

test('an answer gives its place back also while its session is paused', async () => {
  const { mailbox, shard, owner, answerAll } = world();
  const { windows } = await owner('first');
  for (const session of sessions)
    await mailbox.deliver(shard, { tenant: address.tenant, session, message: task('hello') });
  await eventually(() => windows.waiting.get(modelPool) === 36);
  for (const session of sessions)
    await mailbox.deliver(shard, {
      tenant: address.tenant,
      session,
      message: { kind: 'pause', actor: 'test', reason: '' },
    });
  const taken = await answerAll();

  await eventually(() => taken.size === sessions.length);
});

test('what its session has given up before its commit was acknowledged is not offered', async () => {
  const { store, offered, mailbox, telemetry, shard, owner, holdCommits } = world();
  await owner('first');
  const [session] = sessions;
  const acknowledge = holdCommits();
  await mailbox.deliver(shard, {
    tenant: address.tenant,
    session: session!,
    message: task('hello'),
  });
  await eventually(async () => (await store.load(shard, session!)) !== undefined);
  await mailbox.deliver(shard, {
    tenant: address.tenant,
    session: session!,
    message: { kind: 'halt', actor: 'test', reason: '' },
  });
  await eventually(() => telemetry.counts.stepped === 2);

  acknowledge();
  await eventually(async () => (await store.open(shard)).outbox.length === 0);

  expect(offered).toEqual([]);
});
