/** Code of users that runs in circles holds up nobody else. */
import { expect, test } from 'vitest';
import { assign, createMachine } from 'xstate';
import { memoryArchive, memoryEvents } from '../../services/adapters/memory/archive.ts';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { memoryEffects, memoryStarts } from '../../services/adapters/memory/queues.ts';
import { memoryStore } from '../../services/adapters/memory/session-store.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { bounded, Stuck } from '../../services/core/bounded.ts';
import type { HostId, SessionId, ShardId } from '../../services/core/ids.ts';
import { boundedStep } from '../../services/runtime/bounded-step.ts';
import { CommitRounds } from '../../services/runtime/commit-rounds.ts';
import { Host } from '../../services/runtime/host.ts';
import { Windows } from '../../services/runtime/windows.ts';
import { eventually } from '../support/eventually.ts';
import { address, bundleOf, task } from '../support/sessions.ts';

const shard = 0 as ShardId;

/** Nothing that it catches ends it. */
function spins(): never {
  for (;;) {
    try {
      for (;;);
    } catch {
      for (;;);
    } finally {
      for (;;);
    }
  }
}

const machine = createMachine({
  id: 'circles',
  context: ({ input }: { input: unknown }) => (input === 'spin' ? spins() : { count: 0 }),
  initial: 'waits',
  states: {
    waits: {
      on: {
        SPIN: { guard: () => spins(), target: 'done' },
        EVIL: { guard: () => /^(a+)+$/.test(`${'a'.repeat(60)}b`), target: 'done' },
        GO: { target: 'done', actions: assign({ count: 1 }) },
      },
    },
    done: { type: 'final' },
  },
});

async function world() {
  const clock = systemClock;
  const ports = {
    store: memoryStore(clock),
    archive: memoryArchive(),
    mailbox: memoryMailbox(clock),
    effects: memoryEffects(clock),
    starts: memoryStarts(clock),
    events: memoryEvents(clock),
    telemetry: countingTelemetry(),
    clock,
    definitions: { get: async () => ({ bundle: bundleOf(), machine }) } as never,
    shards: 1,
  };
  const host = new Host(
    { host: 'runtime-1' as HostId, boot: 'b1', leaseMs: 60_000 },
    { ...ports, windows: new Windows(ports), rounds: new CommitRounds() },
    ports.store.leases,
  );
  await host.start();
  await eventually(() => host.shard(shard)?.isCaughtUp);
  const say = (
    session: string,
    message: Parameters<typeof ports.mailbox.deliver>[1]['message'],
  ): Promise<unknown> =>
    ports.mailbox.deliver(shard, { ...address, session: session as SessionId, message });
  const tell = (session: string, type: string) =>
    say(session, {
      kind: 'event',
      id: `${session}-${type}`,
      from: address.tenant,
      event: { type },
    });
  const statusOf = async (session: string) => {
    const text = await ports.store.load(shard, session as SessionId);
    const record = text && (JSON.parse(text) as { status: string; reason?: string });
    return record || undefined;
  };
  const codes = async () =>
    (await ports.events.deadLetters(10)).map((letter) => (letter as { code?: string }).code);
  return { ...ports, host, say, tell, statusOf, codes };
}

test('a session whose machine runs in circles is parked by name, and its neighbours go on', async () => {
  const w = await world();
  for (const session of ['s-spin', 's-evil', 's-good']) await w.say(session, task('{}'));
  await w.say('s-never', task('spin'));
  await w.tell('s-spin', 'SPIN');
  await w.tell('s-evil', 'EVIL');
  await w.tell('s-good', 'GO');

  const ended = await eventually(
    async () =>
      (await w.archive.latest(shard, 's-good' as SessionId))?.record.status === 'completed',
    'the neighbour to end',
  );
  expect(ended).toBe(true);
  for (const session of ['s-spin', 's-evil']) {
    const parked = await eventually(async () => {
      const record = await w.statusOf(session);
      return record?.status === 'parked' ? record : undefined;
    }, `${session} to be parked`);
    expect(parked.reason).toMatch(
      /^MACHINE_STUCK: its machine did not come to an end within 500 ms/,
    );
  }
  expect(await w.statusOf('s-never')).toBeUndefined();
  expect(await w.codes()).toEqual(['MACHINE_STUCK', 'MACHINE_STUCK', 'MACHINE_STUCK']);
  await w.host.drain();
}, 30_000);

test('what is bounded answers and throws as it does, also within itself', () => {
  expect(bounded(() => bounded(() => 1, 5_000) + bounded(() => 2, 5_000), 5_000)).toBe(3);
  const own = new RangeError('mine');
  expect(() =>
    bounded(
      () =>
        bounded(() => {
          throw own;
        }, 5_000),
      5_000,
    ),
  ).toThrow(own);
  expect(() => bounded(spins, 50)).toThrow(Stuck);
});

test('a machine that was late once, because the process stood still, goes on', () => {
  let isFirst = true;
  const late = createMachine({
    context: () => {
      if (!isFirst) return {};
      isFirst = false;
      return spins();
    },
    initial: 'a',
    states: { a: {} },
  });
  const incoming = {
    message: task('{}'),
    at: 1,
    position: { incarnation: 0, sequence: 1, index: 0 },
  };
  const made = boundedStep(
    undefined,
    incoming,
    { bundle: bundleOf(), machine: late as never },
    address,
  );
  expect(made).toMatchObject({ kind: 'applied', record: { value: 'a' } });
});
