/** The session store in memory, with the same refusals as the commit script. It can be flushed, as a Redis can. */
import { Refused, Unavailable } from '../../core/errors.ts';
import type { HostId, OwnerToken, SessionId, ShardId } from '../../core/ids.ts';
import { limits } from '../../core/limits.ts';
import { type Entry, entrySchema } from '../../core/session/conversation.ts';
import { type PendingEffect, pendingEffectSchema } from '../../core/session/effects.ts';
import { agrees } from '../../core/session/stored.ts';
import type { Clock } from '../../ports/clock.ts';
import type { Lease, Leases } from '../../ports/leases.ts';
import type { Commit, ModelCalls, SessionStore, ShardPosition } from '../../ports/session-store.ts';

interface ShardData {
  at: ShardPosition | undefined;
  problem?: string;
  readonly records: Map<SessionId, { version: number; record: string }>;
  readonly conversations: Map<SessionId, string[]>;
  readonly pending: Map<string, string>;
  readonly outbox: Map<number, string>;
  readonly wakes: Map<SessionId, number>;
  readonly floors: Map<SessionId, number>;
  recent: string[];
}

const emptyShard = (): ShardData => ({
  at: undefined,
  records: new Map(),
  conversations: new Map(),
  pending: new Map(),
  outbox: new Map(),
  wakes: new Map(),
  floors: new Map(),
  recent: [],
});

export interface MemoryStore extends SessionStore {
  readonly calls: ModelCalls;
  readonly leases: Leases;
  /** While set, nothing answers. */
  isDown: boolean;
  /** Lose everything, leases included. */
  flush(): void;
  /** Put a record there as it is, well-formed or not. */
  poison(shard: ShardId, session: SessionId, record: string): void;
  /** Let the stored version be another than that of the record. */
  setVersion(shard: ShardId, session: SessionId, version: number): void;
  /** Make the position one that cannot be read. */
  poisonPosition(shard: ShardId): void;
}

export function memoryStore(clock: Pick<Clock, 'now'>): MemoryStore {
  let shards = new Map<ShardId, ShardData>();
  let owners = new Map<ShardId, { token: OwnerToken; until: number }>();
  let hosts = new Map<HostId, number>();
  let claims = new Map<string, { holder: string; until: number }>();
  let tries = new Map<string, number>();
  let fixed: number | undefined;
  let count = 0;
  const data = (shard: ShardId): ShardData => {
    if (store.isDown) throw new Unavailable('STORE_UNAVAILABLE', 'the store is down');
    let found = shards.get(shard);
    if (!found) {
      found = emptyShard();
      shards.set(shard, found);
    }
    return found;
  };
  const ownerOf = (shard: ShardId) => {
    const owner = owners.get(shard);
    return owner && owner.until > clock.now() ? owner.token : undefined;
  };
  const isUp = () => void data(0 as ShardId);
  const entriesOf = (texts: readonly string[]): Entry[] =>
    texts.map((text) => entrySchema.parse(JSON.parse(text)));

  const store: MemoryStore = {
    isDown: false,
    flush() {
      shards = new Map();
      owners = new Map();
      hosts = new Map();
      claims = new Map();
      tries = new Map();
    },
    poison(shard, session, record) {
      const found = data(shard).records.get(session);
      data(shard).records.set(session, { version: found?.version ?? 1, record });
    },
    setVersion(shard, session, version) {
      const found = data(shard).records.get(session);
      if (found) found.version = version;
    },
    poisonPosition(shard) {
      const held = data(shard);
      held.at = undefined;
      held.problem = 'poisoned';
    },
    async open(shard) {
      const { at, problem, outbox, floors } = data(shard);
      return {
        at,
        ...(problem === undefined ? {} : { problem }),
        outbox: [...outbox].map(([id, body]) => ({ id, body })),
        floors: new Map(floors),
      };
    },
    async commit(shard, token, commit) {
      const held = data(shard);
      if (ownerOf(shard) !== token) return 'fenced';
      if (held.problem !== undefined || JSON.stringify(held.at) !== JSON.stringify(commit.from))
        return 'stale';
      for (const one of commit.sessions)
        if ((held.records.get(one.session)?.version ?? 0) !== one.expectedVersion) return 'stale';
      for (const one of commit.sessions) {
        const stored = held.conversations.get(one.session)?.length ?? 0;
        if (one.entries.length > 0 && stored < one.entriesBefore) return 'stale';
      }
      mustBeScores(commit);
      held.at = commit.to;
      if (commit.outbox) held.outbox.set(commit.outbox.id, commit.outbox.body);
      for (const id of commit.settled) held.outbox.delete(id);
      for (const one of commit.sessions) {
        held.records.set(one.session, { version: one.version, record: one.record });
        if (one.wakeAt === undefined) held.wakes.delete(one.session);
        else held.wakes.set(one.session, one.wakeAt);
        if (one.floor !== undefined && !held.floors.has(one.session))
          held.floors.set(one.session, one.floor);
        if (one.entries.length > 0) {
          const before = (held.conversations.get(one.session) ?? []).slice(0, one.entriesBefore);
          held.conversations.set(one.session, [...before, ...one.entries]);
        }
        for (const { id, body } of one.pending) held.pending.set(id, body);
        for (const id of one.resolved) held.pending.delete(id);
      }
      for (const { session, version, summary, floor } of commit.archived) {
        if (held.records.get(session)?.version === version) {
          held.floors.delete(session);
          if (summary === undefined) continue;
          held.records.delete(session);
          held.wakes.delete(session);
          held.conversations.delete(session);
          held.recent = [summary, ...held.recent].slice(0, limits.recentSessions);
        } else if (floor !== undefined && held.floors.has(session)) held.floors.set(session, floor);
      }
      return 'committed';
    },
    async load(shard, session) {
      return data(shard).records.get(session)?.record;
    },
    async conversation(shard, session, from, to) {
      return entriesOf((data(shard).conversations.get(session) ?? []).slice(from, to));
    },
    async conversationLength(shard, session) {
      return data(shard).conversations.get(session)?.length ?? 0;
    },
    async wakeOf(shard, session) {
      return data(shard).wakes.get(session);
    },
    async pending(shard) {
      return [...data(shard).pending.values()].map(
        (body): PendingEffect => pendingEffectSchema.parse(JSON.parse(body)),
      );
    },
    async due(shard, now, max) {
      return [...data(shard).wakes]
        .filter(([, at]) => at <= now)
        .sort((left, right) => left[1] - right[1])
        .slice(0, max)
        .map(([session]) => session);
    },
    async *records(shard) {
      for (const [session, { record }] of [...data(shard).records]) yield { session, record };
    },
    async recent(shard) {
      return data(shard).recent;
    },
    async lowest(shard) {
      const { at, problem, floors } = data(shard);
      if (problem !== undefined) throw new Refused('POSITION_POISONED', problem);
      return (
        at && {
          applied: at.position.sequence,
          floor: floors.size > 0 ? Math.min(...floors.values()) : undefined,
        }
      );
    },
    async disagreeing(shard) {
      const { records, conversations, pending } = data(shard);
      return [...records].flatMap(([session, { version, record }]) => {
        const entries = conversations.get(session)?.length ?? 0;
        const isWell = agrees(record, {
          version: String(version),
          entries,
          pending: new Set(pending.keys()),
        });
        return isWell ? [] : [session];
      });
    },
    async discard(shard, token, session) {
      const held = data(shard);
      if (ownerOf(shard) !== token) return 'fenced';
      held.records.delete(session);
      held.conversations.delete(session);
      held.wakes.delete(session);
      for (const id of held.pending.keys())
        if (id.startsWith(`${session}_`)) held.pending.delete(id);
      return 'committed';
    },
    async clearPosition(shard, token) {
      if (ownerOf(shard) !== token) return 'fenced';
      const held = data(shard);
      held.at = undefined;
      delete held.problem;
      return 'committed';
    },
    async clearFloors(shard, token) {
      if (ownerOf(shard) !== token) return 'fenced';
      data(shard).floors.clear();
      return 'committed';
    },
    async fixShards(wanted) {
      isUp();
      fixed ??= wanted;
      return fixed;
    },

    calls: {
      async claim({ shard, session, effect, from, to }, holder, durationMs) {
        const held = data(shard);
        if (!held.pending.has(effect)) return 'settled';
        const claim = claims.get(`${shard}/${effect}`);
        if (claim && claim.until > clock.now() && claim.holder !== holder) return 'held';
        claims.set(`${shard}/${effect}`, { holder, until: clock.now() + durationMs });
        const triesBefore = tries.get(`${shard}/${effect}`) ?? 0;
        tries.set(`${shard}/${effect}`, triesBefore + 1);
        const entries = entriesOf((held.conversations.get(session) ?? []).slice(from, to));
        if (entries.length !== to - from)
          throw new Unavailable(
            'CONVERSATION_SHORT',
            `the conversation of ${session} has not ${to} entries (yet)`,
          );
        return { entries, triesBefore };
      },
      async noteTry(shard, effect, holder, durationMs, known) {
        const key = `${shard}/${effect}`;
        const noted = Math.max(tries.get(key) ?? 0, known);
        tries.set(key, noted);
        if (!data(shard).pending.has(effect)) return 'settled';
        const claim = claims.get(key);
        if (claim && claim.until > clock.now() && claim.holder !== holder) return 'held';
        claims.set(key, { holder, until: clock.now() + durationMs });
        tries.set(key, noted + 1);
        return 'noted';
      },
      async letGo(shard, effect, holder) {
        const key = `${shard}/${effect}`;
        if (claims.get(key)?.holder !== holder) return;
        claims.delete(key);
        tries.set(key, Math.max(0, (tries.get(key) ?? 0) - 1));
      },
      async renew(shard, effect, holder, durationMs, known) {
        const key = `${shard}/${effect}`;
        const claim = claims.get(key);
        const noted = tries.get(key) ?? 0;
        if (claim && claim.until > clock.now() && claim.holder !== holder)
          return { isOurs: false, tries: noted };
        claims.set(key, { holder, until: clock.now() + durationMs });
        tries.set(key, Math.max(noted, known));
        return { isOurs: true, tries: Math.max(noted, known) };
      },
    },

    leases: {
      async heartbeat(host, durationMs) {
        isUp();
        hosts.set(host, clock.now() + durationMs);
        for (const [other, until] of hosts) if (until <= clock.now()) hosts.delete(other);
        return [...hosts.keys()];
      },
      async leave(host) {
        hosts.delete(host);
      },
      async acquire(shard, host, boot, durationMs): Promise<Lease | undefined> {
        isUp();
        const held = ownerOf(shard);
        if (held && !held.startsWith(`${host}#`)) return undefined;
        count += 1;
        const token = `${host}#${boot}#${count}` as OwnerToken;
        owners.set(shard, { token, until: clock.now() + durationMs });
        return { shard, host, token };
      },
      async renew(lease, durationMs) {
        isUp();
        const { at } = data(lease.shard);
        if (ownerOf(lease.shard) !== lease.token) return { isOurs: false, at };
        owners.set(lease.shard, { token: lease.token, until: clock.now() + durationMs });
        return { isOurs: true, at };
      },
      async release(lease) {
        isUp();
        if (ownerOf(lease.shard) === lease.token) owners.delete(lease.shard);
      },
      async owners(shardCount) {
        const found = new Map<ShardId, HostId>();
        for (let shard = 0; shard < shardCount; shard += 1) {
          const token = ownerOf(shard as ShardId);
          if (token) found.set(shard as ShardId, token.slice(0, token.indexOf('#')) as HostId);
        }
        return found;
      },
    },
  };
  return store;
}

/** As Redis: a score that is not a finite number refuses the commit before anything is written. */
function mustBeScores({ sessions, archived }: Commit): void {
  const scores = [
    ...sessions.flatMap(({ wakeAt, floor }) => [wakeAt, floor]),
    ...archived.map(({ floor }) => floor),
  ];
  for (const score of scores) {
    if (score !== undefined && !Number.isFinite(score)) {
      throw new Unavailable('STORE_UNAVAILABLE', `a score is ${score}`);
    }
  }
}
