/** Sessions of a shard in Redis: one hash tag, one commit script. Every answer is parsed here; no error of ioredis leaves this folder. */
import { ReplyError } from 'ioredis';
import { z } from 'zod';
import { Defect, messageOf, Refused, Unavailable } from '../../core/errors.ts';
import type { OwnerToken, SessionId, ShardId } from '../../core/ids.ts';
import { jsonStored } from '../../core/json.ts';
import { limits } from '../../core/limits.ts';
import { type Entry, entrySchema } from '../../core/session/conversation.ts';
import { type PendingEffect, pendingEffectSchema } from '../../core/session/effects.ts';
import { agrees } from '../../core/session/stored.ts';
import { clusterKeys, keysOf, type ShardKeys } from '../../core/wire/keys.ts';
import type {
  CommitResult,
  ModelCalls,
  SessionStore,
  ShardState,
} from '../../ports/session-store.ts';
import { commitArguments, conversationsOf, weightOf } from './commit-arguments.ts';
import { type CallLimits, GatheredCalls } from './gathered-calls.ts';
import { parsePosition, readPosition } from './position.ts';
import type { ScriptedRedis } from './scripts.ts';

export async function answering<Value>(what: string, promise: Promise<Value>): Promise<Value> {
  try {
    return await promise;
  } catch (error) {
    // It answered, and would not: its disk or its memory is full, a right is missing, or it is a replica by now.
    const why =
      error instanceof ReplyError
        ? `Redis refuses (${what}): ${messageOf(error).slice(0, 120)}`
        : `Redis did not answer (${what})`;
    throw new Unavailable('STORE_UNAVAILABLE', why, { cause: error });
  }
}

const parseEntries = (texts: readonly string[]): Entry[] =>
  texts.map((text, index) => {
    const parsed = entrySchema.safeParse(jsonStored(text));
    if (!parsed.success)
      throw new Refused('CONVERSATION_POISONED', `conversation entry ${index} does not parse`);
    return parsed.data;
  });

/** Of one call of a script, so that it is over in some milliseconds. A commit weighs what `weightOf` says, a claim the entries that it reads. */
const commitLimits = { askedMax: 1_000, weightMax: 4 * 1_048_576 };
const claimLimits = { askedMax: 64, weightMax: 512 };

/** The shards of a cluster lie on different servers, and no script may touch two of them. */
const limitsFor = (redis: ScriptedRedis, given: CallLimits): CallLimits =>
  redis.isCluster ? { ...given, askedMax: 1 } : given;

function keysByShard(prefix: string): (shard: ShardId) => ShardKeys {
  const known = new Map<ShardId, ShardKeys>();
  return (shard) => {
    let found = known.get(shard);
    if (!found) {
      found = keysOf(prefix, shard);
      known.set(shard, found);
    }
    return found;
  };
}

export function redisSessionStore(redis: ScriptedRedis, prefix = 'understudy'): SessionStore {
  const keys = keysByShard(prefix);
  const commits = new GatheredCalls<string>(
    (...call) => redis.understudyCommit(...call),
    limitsFor(redis, commitLimits),
  );
  const clear = async (shard: ShardId, key: string, token: OwnerToken): Promise<CommitResult> => {
    const result = await answering('clear', redis.understudyClear(keys(shard).owner, key, token));
    return result === 'OK' ? 'committed' : 'fenced';
  };
  return {
    async open(shard): Promise<ShardState> {
      const k = keys(shard);
      const [position, outbox, floors] = await answering(
        'open',
        Promise.all([
          redis.get(k.position),
          redis.hgetall(k.outbox),
          redis.zrange(k.floors, '0', '-1', 'WITHSCORES'),
        ]),
      );
      const floorMap = new Map<SessionId, number>();
      for (let index = 0; index < floors.length; index += 2)
        floorMap.set(floors[index] as SessionId, Number(floors[index + 1]));
      return {
        ...readPosition(position),
        outbox: Object.entries(outbox)
          .map(([id, body]) => ({ id: Number(id), body }))
          .sort((left, right) => left.id - right.id),
        floors: floorMap,
      };
    },

    async commit(shard, token, commit): Promise<CommitResult> {
      const k = keys(shard);
      const all = [
        ...[k.owner, k.position, k.records, k.versions, k.pending],
        ...[k.outbox, k.wakes, k.floors, k.recent],
        ...conversationsOf(commit).map((session) => k.conversation(session)),
      ];
      const args = commitArguments(commit, token, all.length);
      const result = await answering('commit', commits.ask(all, args, weightOf(args)));
      if (result === 'OK') return 'committed';
      if (result === 'FENCED') return 'fenced';
      if (result === 'STALE') return 'stale';
      throw new Defect('COMMIT_ANSWER', `the commit script answered ${result}`);
    },

    async load(shard, session) {
      return (await answering('load', redis.hget(keys(shard).records, session))) ?? undefined;
    },

    async conversation(shard, session, from, to) {
      if (to <= from) return [];
      return parseEntries(
        await answering(
          'conversation',
          redis.lrange(keys(shard).conversation(session), from, to - 1),
        ),
      );
    },

    async conversationLength(shard, session) {
      return answering('conversation', redis.llen(keys(shard).conversation(session)));
    },

    async wakeOf(shard, session) {
      const score = await answering('wakeOf', redis.zscore(keys(shard).wakes, session));
      return score === null ? undefined : Number(score);
    },

    async pending(shard) {
      const stored = await answering('pending', redis.hvals(keys(shard).pending));
      const effects: PendingEffect[] = [];
      for (const body of stored) {
        const parsed = pendingEffectSchema.safeParse(jsonStored(body));
        if (parsed.success) effects.push(parsed.data);
      }
      return effects;
    },

    async due(shard, now, max) {
      return (await answering(
        'due',
        redis.zrangebyscore(keys(shard).wakes, '-inf', now, 'LIMIT', 0, max),
      )) as SessionId[];
    },

    async *records(shard) {
      let cursor = '0';
      do {
        const [next, flat] = await answering(
          'records',
          redis.hscan(keys(shard).records, cursor, 'COUNT', 500),
        );
        cursor = next;
        for (let index = 0; index < flat.length; index += 2)
          yield { session: flat[index] as SessionId, record: flat[index + 1]! };
      } while (cursor !== '0');
    },

    async recent(shard) {
      return answering('recent', redis.lrange(keys(shard).recent, 0, limits.recentSessions - 1));
    },

    async lowest(shard) {
      const k = keys(shard);
      const [position, floors] = await answering(
        'lowest',
        Promise.all([redis.get(k.position), redis.zrange(k.floors, '0', '0', 'WITHSCORES')]),
      );
      if (position === null) return undefined;
      return {
        applied: parsePosition(position).position.sequence,
        floor: floors.length === 2 ? Number(floors[1]) : undefined,
      };
    },

    async disagreeing(shard) {
      const k = keys(shard);
      const [versions, pending] = await answering(
        'disagreeing',
        Promise.all([redis.hgetall(k.versions), redis.hkeys(k.pending)]),
      );
      const known = new Set(pending);
      const odd: SessionId[] = [];
      for await (const { session, record } of this.records(shard)) {
        const stored = versions[session];
        delete versions[session];
        const entries = await answering('disagreeing', redis.llen(k.conversation(session)));
        if (!agrees(record, { version: stored, entries, pending: known })) odd.push(session);
      }
      return [...odd, ...(Object.keys(versions) as SessionId[])];
    },

    async discard(shard, token, session) {
      const k = keys(shard);
      const result = await answering(
        'discard',
        redis.understudyDiscard(
          k.owner,
          k.versions,
          k.records,
          k.conversation(session),
          k.pending,
          k.wakes,
          token,
          session,
        ),
      );
      return result === 'OK' ? 'committed' : 'fenced';
    },

    clearPosition: (shard, token) => clear(shard, keys(shard).position, token),
    clearFloors: (shard, token) => clear(shard, keys(shard).floors, token),

    async fixShards(shards) {
      const key = clusterKeys(prefix).settings;
      await answering('fixShards', redis.hsetnx(key, 'shards', String(shards)));
      return z.coerce
        .number()
        .int()
        .positive()
        .parse(await answering('fixShards', redis.hget(key, 'shards')));
    },
  };
}

const conversationOverhead = 300; // characters that one weighs in the cache beside its entries

/**
 * The gateway's view. Entries of a conversation are never rewritten, so what was read once is kept
 * (up to `bytesMax` characters) and only the tail is read again.
 */
export function redisModelCalls(
  redis: ScriptedRedis,
  prefix = 'understudy',
  bytesMax = 64 * 1024 * 1024,
): ModelCalls {
  const keys = keysByShard(prefix);
  const claims = new GatheredCalls<string[] | 'settled' | 'held'>(
    (...call) => redis.understudyClaim(...call),
    limitsFor(redis, claimLimits),
  );
  const cache = new Map<SessionId, { from: number; entries: Entry[]; bytes: number }>();
  let bytes = 0;
  const keep = (session: SessionId, from: number, entries: Entry[], size: number) => {
    bytes += size - (cache.get(session)?.bytes ?? 0);
    cache.delete(session);
    cache.set(session, { from, entries, bytes: size });
    if (bytes <= bytesMax) return;
    for (const [oldest, { bytes: freed }] of cache) {
      if (bytes <= bytesMax) break;
      cache.delete(oldest);
      bytes -= freed;
    }
  };
  return {
    async claim({ shard, session, effect, from, to }, holder, durationMs) {
      const k = keys(shard);
      const known = cache.get(session);
      const usable =
        known && known.from === from && from + known.entries.length <= to ? known : undefined;
      const readFrom = from + (usable?.entries.length ?? 0);
      const answer = await answering(
        'claim',
        claims.ask(
          [k.pending, k.claim(effect), k.conversation(session), k.tries(effect)],
          [effect, holder, durationMs, readFrom, to],
          Math.max(1, to - readFrom),
        ),
      );
      if (answer === 'settled' || answer === 'held') return answer;
      const [noted, ...texts] = answer;
      if (texts.length !== to - readFrom) {
        await answering(
          'release',
          redis.understudyLetGo(k.claim(effect), k.tries(effect), holder, 1),
        );
        throw new Unavailable(
          'CONVERSATION_SHORT',
          `the conversation of ${session} has not ${to} entries (yet)`,
        );
      }
      const entries = [...(usable?.entries ?? []), ...parseEntries(texts)];
      let size = usable?.bytes ?? conversationOverhead;
      for (const text of texts) size += text.length;
      if (entries.length > 0) keep(session, from, entries, size);
      return { entries, triesBefore: Number(noted) };
    },
    noteTry(shard, effect, holder, durationMs, known) {
      const k = keys(shard);
      const places = [k.pending, k.claim(effect), k.tries(effect)] as const;
      return answering(
        'note',
        redis.understudyNoteTry(...places, effect, holder, durationMs, known),
      );
    },
    async letGo(shard, effect, holder, free = 1) {
      const k = keys(shard);
      await answering(
        'release',
        redis.understudyLetGo(k.claim(effect), k.tries(effect), holder, free),
      );
    },
    async renew(shard, effect, holder, durationMs, tries) {
      const k = keys(shard);
      const [isOurs, noted] = await answering(
        'renew',
        redis.understudyRenewClaim(k.claim(effect), k.tries(effect), holder, durationMs, tries),
      );
      return { isOurs: isOurs === 1, tries: noted };
    },
  };
}
