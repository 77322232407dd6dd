/** Baselines, bundles, events and dead letters in memory. */
import type { Revision, SessionId, ShardId } from '../../core/ids.ts';
import type { Bundle } from '../../core/session/specs.ts';
import type { UnderstudyEvent } from '../../core/wire/cloud-event.ts';
import type { Archive, Baseline } from '../../ports/archive.ts';
import type { Clock } from '../../ports/clock.ts';
import type { DeadLetter, EventFilter, Events } from '../../ports/events.ts';

export function memoryArchive(): Archive {
  const chains = new Map<ShardId, Map<SessionId, string[]>>();
  const writtenAt = new Map<SessionId, number>();
  const bundles = new Map<Revision, Bundle>();
  const parse = (text: string) => JSON.parse(text) as Baseline;
  const chainOf = (shard: ShardId, session: SessionId) =>
    (chains.get(shard)?.get(session) ?? []).map(parse);
  /** Without what was written twice, or late by an owner that was paused. */
  const grownOf = (shard: ShardId, session: SessionId) =>
    chainOf(shard, session).filter(({ record }, index, all) =>
      all.slice(0, index).every((before) => before.record.version < record.version),
    );
  return {
    async append(shard, record, mail) {
      const sessions = chains.get(shard) ?? new Map<SessionId, string[]>();
      chains.set(shard, sessions);
      const { session } = record;
      writtenAt.set(session, Date.now());
      sessions.set(session, [
        ...(sessions.get(session) ?? []),
        `{"record":${JSON.stringify(record)},"mail":[${mail.join(',')}]}`,
      ]);
    },
    latest: async (shard, session) => grownOf(shard, session).at(-1),
    chain: async (shard, session) => grownOf(shard, session),
    async *latestOf(shard, _onUnreadable, since = 0) {
      for (const session of chains.get(shard)?.keys() ?? []) {
        if ((writtenAt.get(session) ?? 0) < since) continue;
        const latest = chainOf(shard, session).at(-1);
        if (latest) yield latest;
      }
    },
    putBundle: async (revision, bundle) => void bundles.set(revision, bundle),
    bundle: async (revision) => bundles.get(revision),
  };
}

/** @param kept  how many events are remembered for readers who come late */
export function memoryEvents(clock: Pick<Clock, 'now'>, kept = 100_000): Events {
  let events: UnderstudyEvent[] = [];
  let letters: DeadLetter[] = [];
  let count = 0;
  const followers = new Set<{ filter: EventFilter; onEvent: (event: UnderstudyEvent) => void }>();
  const matches = (
    { data, time }: UnderstudyEvent,
    { tenant, agent, session, since }: EventFilter,
  ) =>
    (since === undefined || Date.parse(time) >= since) &&
    (tenant === undefined || data.tenant === tenant) &&
    (agent === undefined || data.agent === agent) &&
    (session === undefined || data.session === session);
  const tell = (event: UnderstudyEvent) => {
    const told = JSON.parse(JSON.stringify(event)) as UnderstudyEvent;
    events.push(told);
    if (events.length > kept * 1.1) events = events.slice(-kept);
    for (const { filter, onEvent } of followers) if (matches(told, filter)) onEvent(told);
  };
  return {
    async publishSteps(steps) {
      for (const { text } of steps) tell(JSON.parse(text) as UnderstudyEvent);
    },
    publishEnd: async (event) => tell(event),
    has: async (event) =>
      events.findLast(
        (other) => other.data.session === event.data.session && other.type === event.type,
      )?.id === event.id,
    async follow(filter, fromStart, onEvent) {
      if (fromStart) for (const event of events) if (matches(event, filter)) onEvent(event);
      const follower = { filter, onEvent };
      followers.add(follower);
      return { stop: async () => void followers.delete(follower) };
    },
    async bury(letter) {
      count += 1;
      letters.push({ id: count, at: clock.now(), ...letter });
    },
    deadLetters: async (max) => letters.slice(-max),
    deadLetter: async (id) => letters.find((letter) => letter.id === id),
    async unbury(id) {
      letters = letters.filter((letter) => letter.id !== id);
    },
  };
}
