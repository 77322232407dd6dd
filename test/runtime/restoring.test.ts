/** A shard whose store has lost something: what can be brought back is, and what cannot holds nobody up. */
import { expect, test } from 'vitest';
import { esbuildMachines } from '../../services/adapters/esbuild/machines.ts';
import { memoryArchive, memoryEvents } from '../../services/adapters/memory/archive.ts';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { memoryEffects, memoryStarts } from '../../services/adapters/memory/queues.ts';
import { memoryStore } from '../../services/adapters/memory/session-store.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import type { HostId, Revision, SessionId, ShardId, TaskId } from '../../services/core/ids.ts';
import { modelPool } from '../../services/core/pools.ts';
import type { PendingEffect } from '../../services/core/session/effects.ts';
import type { SessionRecord } from '../../services/core/session/record.ts';
import { endEventOf } from '../../services/core/wire/cloud-event.ts';
import type { SessionCommit } from '../../services/ports/session-store.ts';
import { CommitRounds } from '../../services/runtime/commit-rounds.ts';
import { Definitions } from '../../services/runtime/definitions.ts';
import { encodeOutbox } from '../../services/runtime/outbox-entry.ts';
import { Shard } from '../../services/runtime/shard.ts';
import { Windows } from '../../services/runtime/windows.ts';
import { eventually } from '../support/eventually.ts';
import {
  address,
  bundleOf,
  definitionOf,
  replied,
  revision,
  sessionCommit,
  Talk,
  task,
} from '../support/sessions.ts';

const shardId = 0 as ShardId;

function world() {
  const clock = systemClock;
  const [store, archive, mailbox, effects, events, telemetry] = [
    memoryStore(clock),
    memoryArchive(),
    memoryMailbox(clock),
    memoryEffects(clock),
    memoryEvents(clock),
    countingTelemetry(),
  ];
  const ports = {
    store,
    archive,
    mailbox,
    effects,
    events,
    starts: memoryStarts(clock),
    telemetry,
    clock,
    definitions: new Definitions(archive, ['.'], esbuildMachines()),
    shards: 1,
  };
  return {
    ...ports,
    async owner(boot: string) {
      await archive.putBundle(revision, bundleOf());
      const lease = (await store.leases.acquire(shardId, 'host' as HostId, boot, 60_000))!;
      const shard = new Shard(
        lease,
        { ...ports, windows: new Windows(ports), rounds: new CommitRounds() },
        () => undefined,
      );
      await shard.open();
      return shard;
    },
  };
}

/** What an earlier owner has committed of a session. */
const stored = (record: SessionRecord, more: Partial<SessionCommit> = {}): SessionCommit =>
  sessionCommit({
    session: record.session,
    version: record.version,
    record: JSON.stringify(record),
    ...more,
  });

test('a session that cannot be brought back from the archive holds up no other of its shard', async () => {
  const { owner, archive, store, mailbox, events, telemetry } = world();
  await archive.putBundle('junk' as Revision, { agent: { machine: 7 } } as never);
  const archived = async (session: string, more: Parameters<typeof task>[1] = {}) => {
    const talk = new Talk();
    talk.say(task('hello', more));
    const record = { ...talk.record!, session: session as SessionId } as SessionRecord;
    await archive.append(
      shardId,
      record,
      talk.heard.map((incoming) => JSON.stringify(incoming)),
    );
  };
  await archived('lost-1', { revision: 'gone' as Revision });
  await archived('lost-2', { revision: 'junk' as Revision });
  await archived(address.session);

  const shard = await owner('b1');

  await eventually(async () => (await store.load(shardId, address.session)) !== undefined);
  expect(await store.load(shardId, 'lost-1' as SessionId)).toBeUndefined();
  expect(telemetry.lines).toContainEqual(
    expect.objectContaining({
      level: 'error',
      fields: expect.objectContaining({ session: 'lost-1' }),
    }),
  );
  // Who writes to it is answered, and the shard goes on.
  await mailbox.deliver(shardId, {
    tenant: address.tenant,
    session: 'lost-1' as SessionId,
    message: task('again', { task: 'task-2' as TaskId, revision: 'gone' as Revision }),
  });
  expect(await eventually(async () => (await events.deadLetters(9))[0])).toMatchObject({
    code: 'REVISION_UNKNOWN',
    session: 'lost-1',
  });
  shard.close();
});

test('an end that an earlier owner committed and nobody has told keeps its session from being forgotten', async () => {
  const { owner, store, mailbox, events, effects, archive } = world();
  const talk = new Talk(definitionOf());
  talk.say(task('hello'));
  talk.say(replied(talk.pendingOf('callModel'), { content: 'done' }));
  const { record } = talk;
  const reply = talk.effects.find((effect) => effect.kind === 'reply')!;
  for (const { message } of talk.heard) await mailbox.deliver(shardId, { ...address, message });
  const before = (await store.leases.acquire(shardId, 'host' as HostId, 'b0', 60_000))!;
  await store.commit(shardId, before.token, {
    from: undefined,
    to: {
      position: { incarnation: 0, sequence: 2, index: 0 },
      commits: 1,
      log: (await mailbox.bounds()).created,
      queue: await effects.life(),
    },
    sessions: [
      stored(record!, { entries: talk.entries.map((entry) => JSON.stringify(entry)), floor: 1 }),
    ],
    outbox: {
      id: 1,
      body: encodeOutbox({
        pending: [],
        prompts: [{ ...address, effect: reply, event: endEventOf(record!, reply, 1, 0) }],
        events: [],
      }),
    },
    settled: [],
    archived: [],
  });
  const { publishEnd } = events;
  events.publishEnd = async () => Promise.reject(new Error('full'));

  const shard = await owner('b1');
  await eventually(() => shard.isCaughtUp);
  await eventually(() => shard.actors === 1);
  for (let sweeps = 0; sweeps < 5; sweeps += 1) {
    await shard.sweep(Date.now());
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  expect(await archive.latest(shardId, address.session)).toBeUndefined();

  events.publishEnd = publishEnd;
  await eventually(async () => (await store.open(shardId)).outbox.length === 0);
  await shard.sweep(Date.now());
  await eventually(
    async () => (await archive.latest(shardId, address.session))?.record.status === 'completed',
  );
  shard.close();
});

test.each([
  ['does not parse', false],
  ['was cleared by an owner that died before its first commit', true],
])(
  'a position that %s: records stay, what was pending is offered again, and the session goes on',
  async (_, isCleared) => {
    const { owner, store, mailbox, effects, archive, telemetry } = world();
    const talk = new Talk(definitionOf());
    talk.say(task('hello'));
    const { record, effects: wanted } = talk;
    for (const { message } of talk.heard) await mailbox.deliver(shardId, { ...address, message });
    // A baseline of it was written while it waited, as of any that is idle.
    await archive.append(
      shardId,
      record!,
      talk.heard.map((incoming) => JSON.stringify(incoming)),
    );
    const before = (await store.leases.acquire(shardId, 'host' as HostId, 'b0', 60_000))!;
    await store.commit(shardId, before.token, {
      from: undefined,
      to: {
        position: { incarnation: 0, sequence: 1, index: 0 },
        commits: 1,
        log: (await mailbox.bounds()).created,
        queue: await effects.life(),
      },
      sessions: [
        stored(record!, {
          entries: talk.entries.map((entry) => JSON.stringify(entry)),
          pending: wanted.map((effect) => ({
            id: (effect as PendingEffect).id,
            body: JSON.stringify(effect),
          })),
        }),
      ],
      settled: [],
      archived: [],
    });
    if (isCleared) await store.clearPosition(shardId, before.token);
    else store.poisonPosition(shardId);
    await effects.take(
      modelPool,
      9,
      async ({ effect: { id } }) => {
        await mailbox.deliver(shardId, { ...address, message: replied(id, { content: 'done' }) });
        return true;
      },
      () => undefined,
    );

    const shard = await owner('b1');

    expect(telemetry.counts['refused.redis.POSITION_POISONED']).toBe(isCleared ? undefined : 1);
    await eventually(
      async () => (await archive.latest(shardId, address.session))?.record.status === 'completed',
    );
    expect((await archive.latest(shardId, address.session))!.record.version).toBe(
      record!.version + 1,
    );
    expect(telemetry.lines.filter(({ message }) => message.includes('rebuilt'))).toEqual([]);
    shard.close();
  },
);

test('a position that does not parse: which life of the log it is, records know, and one that is poisoned as well comes from the archive', async () => {
  const { owner, store, mailbox, effects, archive } = world();
  const talk = new Talk(definitionOf());
  talk.say(task('hello'));
  const record = { ...talk.record!, position: { incarnation: 3, sequence: 1, index: 0 } };
  const before = (await store.leases.acquire(shardId, 'host' as HostId, 'b0', 60_000))!;
  await store.commit(shardId, before.token, {
    from: undefined,
    to: {
      position: record.position,
      commits: 1,
      log: (await mailbox.bounds()).created,
      queue: await effects.life(),
    },
    sessions: [stored(record), stored(record, { session: 'junk-1' as SessionId, record: '{}' })],
    settled: [],
    archived: [],
  });
  await archive.append(
    shardId,
    { ...talk.record!, session: 'junk-1' as SessionId },
    talk.heard.map((incoming) => JSON.stringify(incoming)),
  );
  store.poisonPosition(shardId);

  const shard = await owner('b1');
  await mailbox.deliver(shardId, { ...address, message: { kind: 'wake' } });

  await eventually(async () => (await store.open(shardId)).at?.position.incarnation === 3);
  await eventually(async () =>
    (await store.load(shardId, 'junk-1' as SessionId))?.includes('thinking'),
  );
  shard.close();
});

const laterSweeps = async (shard: Shard) => {
  for (let sweeps = 1; sweeps <= 4; sweeps += 1) {
    await shard.sweep(Date.now() + sweeps * 31_000);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};
const shortOf = (lines: readonly { message: string }[]) =>
  lines.filter(({ message }) => message.startsWith('baseline not written'));

test('a session that is brought back as its last baseline says needs no mail, and the log can be trimmed', async () => {
  const { owner, store, mailbox, archive, telemetry } = world();
  const first = await owner('b1');
  await mailbox.deliver(shardId, { ...address, message: task('hello', { isKeyed: true }) });
  await eventually(async () => (await store.load(shardId, address.session)) !== undefined);
  await laterSweeps(first);
  await eventually(async () => (await store.lowest(shardId))?.floor === undefined);
  expect(await archive.chain(shardId, address.session)).toHaveLength(1);
  await mailbox.trim((await mailbox.bounds()).last + 1);
  first.close();
  store.flush();

  const shard = await owner('b2');
  await eventually(async () => (await store.load(shardId, address.session)) !== undefined);
  await laterSweeps(shard);

  expect(await store.lowest(shardId)).toMatchObject({ floor: undefined });
  expect(shortOf(telemetry.lines)).toEqual([]);
  expect(await archive.chain(shardId, address.session)).toHaveLength(1);
  shard.close();
});

test('a session that ended after what the store went back to is put away for good, and holds no mail back', async () => {
  const { owner, store, mailbox, archive, telemetry } = world();
  const first = await owner('b1');
  await mailbox.deliver(shardId, { ...address, message: task('hello') });
  await eventually(async () => (await store.pending(shardId)).length === 1);
  const [record, at, pending] = [
    (await store.load(shardId, address.session))!,
    (await store.open(shardId)).at!,
    await store.pending(shardId),
  ];
  const entries = (await store.conversation(shardId, address.session, 0, 1)).map((entry) =>
    JSON.stringify(entry),
  );
  await mailbox.deliver(shardId, {
    ...address,
    message: replied(pending[0]!.id, { content: 'done' }),
  });
  await eventually(async () => (await store.pending(shardId)).length === 0);
  await laterSweeps(first);
  expect((await archive.latest(shardId, address.session))?.record.status).toBe('completed');
  await mailbox.deliver(shardId, {
    tenant: address.tenant,
    session: 'clerk-2' as SessionId,
    message: task('other', { task: 'task-2' as TaskId }),
  });
  await eventually(async () => (await store.pending(shardId)).length === 1);
  first.close();
  await mailbox.trim(3);
  store.flush();
  const before = (await store.leases.acquire(shardId, 'host' as HostId, 'b1x', 60_000))!;
  const session = sessionCommit({
    version: 1,
    record,
    entries,
    pending: pending.map((effect) => ({ id: effect.id, body: JSON.stringify(effect) })),
    floor: 1,
  });
  await store.commit(shardId, before.token, {
    from: undefined,
    to: at,
    sessions: [session],
    settled: [],
    archived: [],
  });

  const shard = await owner('b2');
  await eventually(() => shard.isCaughtUp);
  await laterSweeps(shard);

  expect(await store.load(shardId, address.session)).toBeUndefined();
  expect((await store.lowest(shardId))?.floor ?? 3).toBe(3);
  expect(shortOf(telemetry.lines)).toEqual([]);
  shard.close();
});

test('the answer that ends a session whose record cannot be read is stepped, not swallowed by the fold: its end is told', async () => {
  const { owner, store, mailbox, events } = world();
  const ends: string[] = [];
  await events.follow({}, true, ({ type }) => type.endsWith('.completed') && ends.push(type));
  const shard = await owner('b1');
  await mailbox.deliver(shardId, { ...address, message: task('hello') });
  const [effect] = await eventually(async () => {
    const found = await store.pending(shardId);
    return found.length > 0 ? found : undefined;
  });
  await laterSweeps(shard);
  await eventually(() => shard.actors === 0);
  const record = JSON.parse((await store.load(shardId, address.session))!) as object;
  store.poison(shardId, address.session, JSON.stringify({ ...record, version: 'three' }));
  await mailbox.deliver(shardId, { ...address, message: replied(effect!.id, { content: 'done' }) });

  await eventually(() => ends.length > 0);
  expect(ends).toHaveLength(1);
  shard.close();
});

test('a shard that slept while others worked asks the archive only for what came after the last mail that it applied', async () => {
  const { owner, store, mailbox, archive, telemetry } = world();
  const first = await owner('b1');
  await mailbox.deliver(shardId, { ...address, message: task('hello') });
  await eventually(async () => (await store.load(shardId, address.session)) !== undefined);
  const { startedAt: heardAt } = JSON.parse((await store.load(shardId, address.session))!) as {
    startedAt: number;
  };
  await laterSweeps(first);
  first.close();
  const { at } = await store.open(shardId);
  expect(at!.at).toBe(heardAt);
  for (let others = 0; others < 5; others += 1)
    await mailbox.deliver(1 as ShardId, { ...address, message: { kind: 'wake' } });
  await mailbox.trim((await mailbox.bounds()).last + 1);
  const asked: (number | undefined)[] = [];
  const { latestOf } = archive;
  archive.latestOf = (shard, onUnreadable, since) => {
    asked.push(since);
    return latestOf(shard, onUnreadable, since);
  };

  const shard = await owner('b2');

  expect(asked).toEqual([at!.at! - 600_000]);
  expect(telemetry.lines.filter(({ message }) => message.includes('restored'))).toEqual([]);
  shard.close();
});

test('after a take-over the mail of all sessions that wait is read from the log once, not once for each', async () => {
  const { owner, store, mailbox, archive } = world();
  const first = await owner('b1');
  const sessions = Array.from({ length: 20 }, (_, index) => `clerk-${index}` as SessionId);
  for (const session of sessions)
    await mailbox.deliver(shardId, {
      tenant: address.tenant,
      session,
      message: task('hello', { task: session as string as TaskId }),
    });
  await eventually(async () => (await store.pending(shardId)).length === sessions.length);
  first.close();
  let reads = 0;
  const { readTo } = mailbox;
  mailbox.readTo = (...asked) => {
    reads += 1;
    return readTo(...asked);
  };

  const shard = await owner('b2');
  await eventually(() => shard.actors === sessions.length);
  await laterSweeps(shard);
  await eventually(async () => (await store.lowest(shardId))?.floor === undefined);

  expect(reads).toBe(1);
  for (const session of sessions) {
    const [baseline, ...more] = await archive.chain(shardId, session);
    expect(more).toEqual([]);
    expect(baseline!.mail.map(({ message }) => message)).toMatchObject([
      { kind: 'task', task: session },
    ]);
  }
  shard.close();
});
