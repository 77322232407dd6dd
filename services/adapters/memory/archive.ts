/** Baselines, bundles, events and dead letters in memory. */
import type { Revision, SessionId, ShardId } from '../../core/ids.ts';
import type { Bundle } from '../../core/session/specs.ts';
import type { Listing } from '../../core/tools/mcp-listing.ts';
import type { UnderstudyEvent } from '../../core/wire/cloud-event.ts';
import { isEndEvent } from '../../core/wire/event-end.ts';
import { letterEventOf, taskIdentity } from '../../core/wire/letters.ts';
import type { Archive, Baseline } from '../../ports/archive.ts';
import type { Clock } from '../../ports/clock.ts';
import type { DeadLetter, EventFilter, Events } from '../../ports/events.ts';

export function memoryArchive(): Archive {
  const chains = new Map<ShardId, Map<SessionId, string[]>>();
  const writtenAt = new Map<SessionId, number>();
  const bundles = new Map<Revision, Bundle>();
  const machines = new Map<string, string>();
  const listings = new Map<string, string>();
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
    putBundle: async (revision, bundle) => {
      bundles.delete(revision); // those put last come last
      bundles.set(revision, bundle);
    },
    lastBundles: async () =>
      new Map([...bundles].map(([revision, bundle]) => [bundle.name, { revision, bundle }])),
    bundle: async (revision) => bundles.get(revision),
    putMachine: async ({ hash, text }) => void machines.set(hash, text),
    machine: async (hash) => machines.get(hash),
    putListing: async (hash, number, listing) => {
      const key = `${hash} ${number}`;
      if (listings.has(key)) return false;
      listings.set(key, JSON.stringify(listing));
      return true;
    },
    lastListing: async (hash) => {
      const found = [...listings].filter(([key]) => key.startsWith(`${hash} `)).at(-1);
      return (
        found && {
          number: Number(found[0].split(' ')[1]),
          listing: JSON.parse(found[1]) as Listing,
        }
      );
    },
  };
}

/** @param kept  how many events are remembered for readers who come late */
export function memoryEvents(clock: Pick<Clock, 'now'>, kept = 100_000): Events {
  let events: UnderstudyEvent[] = [];
  let letters: (DeadLetter & { readonly key: string })[] = [];
  const ended = new Set<string>();
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
    async publishEnd(event) {
      const isLetter = event.data.status === 'dead-lettered';
      const key = isLetter ? event.id : `${event.data.session}\n${event.data.task}`;
      if (ended.has(key)) return false;
      ended.add(key);
      tell(event);
      return true;
    },
    endsOf: async ({ session }, _shard, since) =>
      events.filter(
        (event) =>
          event.data.session === session && isEndEvent(event) && Date.parse(event.time) >= since,
      ),
    async follow(filter, fromStart, onEvent) {
      if (fromStart) for (const event of events) if (matches(event, filter)) onEvent(event);
      const follower = { filter, onEvent };
      followers.add(follower);
      return { stop: async () => void followers.delete(follower) };
    },
    async putDeadLetter(letter) {
      const { identity, ...content } = letter;
      const key = `${letter.tenant}/${letter.agent}/${identity}/${letter.code}`;
      if (letters.some((one) => one.key === key)) return;
      count += 1;
      const at = clock.now();
      letters.push({ id: count, at, key, identity, ...content });
      if (letter.subject) await this.publishEnd(letterEventOf({ ...letter, id: count, at }));
    },
    deadLetters: async (max, before = Number.MAX_SAFE_INTEGER) =>
      letters
        .filter(({ id }) => id < before)
        .slice(-max)
        .reverse()
        .map(({ body: _, headers: _h, key: _k, identity: _i, ...head }) => head),
    countDeadLetters: async () => letters.length,
    async letterOf(tenant, agent, session, task) {
      const start = `${tenant}/${agent}/${taskIdentity(session, task)}/`;
      return letters.findLast(({ key }) => key.startsWith(start));
    },
    async deadLetter(id) {
      const found = letters.find((letter) => letter.id === id);
      if (!found) return undefined;
      const { key: _, ...letter } = found;
      return letter;
    },
    async removeDeadLetter(id) {
      const before = letters.length;
      letters = letters.filter((letter) => letter.id !== id);
      return letters.length < before;
    },
  };
}
