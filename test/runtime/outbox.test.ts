import { expect, test } from 'vitest';
import { memoryArchive, memoryEvents } from '../../services/adapters/memory/archive.ts';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { memoryEffects, memoryStarts } from '../../services/adapters/memory/queues.ts';
import { memoryStore } from '../../services/adapters/memory/session-store.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { Unavailable } from '../../services/core/errors.ts';
import type {
  EffectId,
  HostId,
  SessionId,
  ShardId,
  TaskId,
  TenantId,
} from '../../services/core/ids.ts';
import { limits } from '../../services/core/limits.ts';
import type { PromptEffect, RunTool } from '../../services/core/session/effects.ts';
import type { SessionRecord } from '../../services/core/session/record.ts';
import { endEventOf, eventOf, stepEventOf } from '../../services/core/wire/cloud-event.ts';
import { CommitRounds } from '../../services/runtime/commit-rounds.ts';
import { Outbox } from '../../services/runtime/outbox.ts';
import {
  decodeOutbox,
  encodeOutbox,
  type OutboxEntry,
} from '../../services/runtime/outbox-entry.ts';
import { release } from '../../services/runtime/release.ts';
import { Shard } from '../../services/runtime/shard.ts';
import { Windows } from '../../services/runtime/windows.ts';
import { eventually } from '../support/eventually.ts';
import { runToolOf } from '../support/sessions.ts';

const effect = (id: string) => runToolOf('tools', id);
const entryOf = (...effects: RunTool[]) => ({
  entry: { pending: effects.map(({ id }) => id as string), prompts: [], events: [] },
  effects,
  starts: memoryStarts(systemClock),
  actors: [],
});

async function open(pending: () => RunTool[]) {
  const effects = memoryEffects(systemClock);
  const taken: string[] = [];
  await effects.take(
    'tools',
    99,
    async (one) => taken.push(one.effect.id) > 0,
    () => undefined,
  );
  const ports = {
    mailbox: memoryMailbox(systemClock),
    effects,
    starts: memoryStarts(systemClock),
    events: memoryEvents(systemClock),
    telemetry: countingTelemetry(),
    shards: 1,
    clock: systemClock,
    store: { pending: async () => pending() },
  };
  let isOpen = true;
  const outbox = new Outbox(
    0 as ShardId,
    ports,
    () => isOpen,
    () => undefined,
  );
  return {
    outbox,
    taken,
    close: () => {
      isOpen = false;
    },
  };
}

test('while the log may hold the answer nothing leaves; then only what is still pending does, and each entry is settled once', async () => {
  const [answered, open1, open2] = [effect('answered'), effect('open1'), effect('open2')];
  const { outbox, taken } = await open(() => [open1, open2]);
  outbox.isHolding = true;
  outbox.restore([{ id: 4, body: JSON.stringify(entryOf(answered).entry) }]);
  outbox.add({ id: outbox.nextId, ...entryOf(open1, open2) });
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(taken).toEqual([]);

  await outbox.letGo(false);
  await eventually(() => outbox.hasSettled && taken.length === 2);

  expect(taken.sort()).toEqual(['open1', 'open2']);
  expect(
    await eventually(() => {
      const settled = outbox.takeSettled();
      return settled.length > 0 ? settled.sort() : undefined;
    }),
  ).toEqual([4, 5]);
});

test('what a reborn log may have lost is offered again as a whole', async () => {
  const { outbox, taken } = await open(() => [effect('a'), effect('b')]);
  outbox.isHolding = true;
  await outbox.letGo(true);
  await eventually(() => taken.length === 2);
  expect(taken.sort()).toEqual(['a', 'b']);
});

test('once the shard is lost nothing leaves', async () => {
  const { outbox, taken, close } = await open(() => []);
  close();
  outbox.add({ id: outbox.nextId, ...entryOf(effect('late')) });
  await new Promise((resolve) => setTimeout(resolve, 30));
  expect(taken).toEqual([]);
});

test('an entry that does not parse is handed back with its text, keeps nobody else in, and is settled when somebody was told', async () => {
  const wanted = effect('wanted');
  const { outbox, taken } = await open(() => [wanted]);
  outbox.isHolding = true;
  const bodies = [
    'not JSON',
    '[]',
    '{"pending":[1],"prompts":[],"events":[]}',
    '{"pending":[],"prompts":[{"effect":{"kind":"pay"}}],"events":[]}',
    '{"pending":[],"prompts":[],"events":[{}]}',
  ];
  const poisoned = outbox.restore([
    ...bodies.map((body, index) => ({ id: index + 1, body })),
    { id: 9, body: JSON.stringify(entryOf(wanted).entry) },
  ]);

  expect(poisoned.map(({ id, body }) => [id, body])).toEqual(
    bodies.map((body, index) => [index + 1, body]),
  );
  expect(poisoned[0]!.problem).toContain('not JSON');
  expect(poisoned[4]!.problem).toContain('events.0');
  expect(outbox.nextId).toBe(10);
  for (const { id } of poisoned) outbox.settle(id);
  await outbox.letGo(false);
  await eventually(() => taken.length === 1);
  await eventually(() => outbox.takeSettled().includes(9));
});

test('an entry is read as it was written, whatever is in it', () => {
  const [tenant, session] = ['acme' as TenantId, 's' as SessionId];
  const spent = { steps: 1, toolCalls: 0, tokens: 1, costMicros: 1 };
  const record = {
    tenant,
    session,
    agent: 'desk',
    task: 't',
    version: 3,
    status: 'completed',
  } as unknown as SessionRecord;
  const step = eventOf(
    record,
    { kind: 'model-replied', from: 'a', to: 'b', choices: [], details: {} },
    [],
    1_000,
  );
  const replies: PromptEffect[] = [
    { kind: 'reply', task: 't' as TaskId, outcome: 'completed', output: 'yes', spent },
    {
      kind: 'reply',
      task: 't' as TaskId,
      outcome: 'failed',
      output: '',
      reason: 'no',
      parent: { tenant, session, effect: 'e' as EffectId },
      spent,
    },
  ];
  const entry: OutboxEntry = {
    pending: ['s_3_0'],
    prompts: [
      ...replies.map((effect) => ({
        tenant,
        session,
        effect,
        event: endEventOf(record, effect as never, 1_000, 0),
      })),
      {
        tenant,
        session,
        effect: { kind: 'cancel', effects: [{ id: 's_2_0', pool: 'tools' }] },
        event: undefined,
      },
      {
        tenant,
        session,
        effect: { kind: 'haltChild', child: 'kid-1' as SessionId, actor: 'ann', reason: 'enough' },
        event: undefined,
      },
    ],
    events: [stepEventOf(step)],
  };
  const text = encodeOutbox(entry);
  expect(encodeOutbox(decodeOutbox(text))).toBe(text);
});

test('a shard with an entry that does not parse offers all that is pending, and settles the entry when its text is a dead letter', async () => {
  const clock = systemClock;
  const store = memoryStore(clock);
  const [mailbox, effects, events, telemetry] = [
    memoryMailbox(clock),
    memoryEffects(clock),
    memoryEvents(clock),
    countingTelemetry(),
  ];
  const shardId = 0 as ShardId;
  const taken: string[] = [];
  await effects.take(
    'tools',
    9,
    async (one) => taken.push(one.effect.id) > 0,
    () => undefined,
  );
  const before = (await store.leases.acquire(shardId, 'old' as HostId, 'b', 60_000))!;
  const wanted = effect('s_1_0');
  const body = `{"pending":["s_1_0"]}${' '.repeat(limits.taskBytesMax)}`;
  await store.commit(shardId, before.token, {
    from: undefined,
    to: {
      position: { incarnation: 0, sequence: 0, index: 0 },
      commits: 1,
      log: (await mailbox.bounds()).created,
      queue: await effects.life(),
    },
    sessions: [
      {
        session: 's' as SessionId,
        expectedVersion: 0,
        version: 1,
        record: '{}',
        entriesBefore: 0,
        entries: [],
        pending: [{ id: wanted.id, body: JSON.stringify(wanted) }],
        resolved: [],
        wakeAt: undefined,
        floor: undefined,
      },
    ],
    outbox: { id: 1, body },
    settled: [],
    archived: [],
  });
  await store.leases.release(before);

  const lease = (await store.leases.acquire(shardId, 'new' as HostId, 'b', 60_000))!;
  const ports = {
    mailbox,
    store,
    archive: memoryArchive(),
    effects,
    starts: memoryStarts(systemClock),
    events,
    telemetry,
    clock,
    shards: 1,
    windows: new Windows({ effects, telemetry, clock }),
    rounds: new CommitRounds(),
  };
  const shard = new Shard(
    lease,
    { ...ports, definitions: { get: async () => undefined } as never },
    () => undefined,
  );
  await shard.open();

  await eventually(() => taken.includes('s_1_0'));
  const head = await eventually(async () => (await events.deadLetters(9))[0]);
  const letter = await events.deadLetter(head!.id);
  expect(letter).toMatchObject({
    code: 'OUTBOX_POISONED',
    isCut: true,
    body: body.slice(0, limits.taskBytesMax),
  });
  await eventually(async () => (await store.open(shardId)).outbox.length === 0);
  shard.close();
});

test('a part that cannot leave repeats no other: steps are told once', async () => {
  const ports = {
    mailbox: memoryMailbox(systemClock),
    effects: memoryEffects(systemClock),
    telemetry: countingTelemetry(),
    shards: 1,
  };
  let told = 0;
  const events = {
    ...memoryEvents(systemClock),
    publishSteps: async () => {
      told += 1;
    },
  };
  let refusals = 3;
  const starts = {
    create: async () => {
      refusals -= 1;
      if (refusals >= 0) throw new Unavailable('START_UNAVAILABLE', 'full');
      return { created: true } as const;
    },
  };
  const cancel = {
    kind: 'cancel',
    effects: [{ id: 's_1_0', pool: 'tools', tool: 'pay', class: 'keyed' }],
  } as unknown as PromptEffect;
  const entry = {
    pending: [],
    prompts: [{ tenant: 'acme' as TenantId, session: 's' as SessionId, effect: cancel }],
    events: [{ tenant: 'acme', agent: 'desk', text: '{}' }],
  } as unknown as OutboxEntry;
  const done = new Set<string>();
  for (let tries = 0; tries < 3; tries += 1)
    await expect(release(entry, [], { ...ports, events, starts }, done)).rejects.toThrow('full');
  await release(entry, [], { ...ports, events, starts }, done);
  expect(told).toBe(1);
});
