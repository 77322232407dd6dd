/** A commit that Redis refuses, at each of its writes: the neighbours lose nothing, and it heals. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { redisLeases } from '../../services/adapters/redis/leases.ts';
import { connectedRedis, type ScriptedRedis } from '../../services/adapters/redis/scripts.ts';
import { redisSessionStore } from '../../services/adapters/redis/session-store.ts';
import { checkStore } from '../../services/adapters/redis/store-check.ts';
import type { EffectId, HostId, SessionId, ShardId } from '../../services/core/ids.ts';
import { keysOf } from '../../services/core/wire/keys.ts';
import type { Commit, SessionStore } from '../../services/ports/session-store.ts';
import { type Servers, startServers } from '../support/servers.ts';
import { sessionCommit } from '../support/sessions.ts';

let servers: Servers;
let redis: ScriptedRedis;
let limited: ScriptedRedis;
let store: SessionStore;
const shard = 0 as ShardId;
const keys = keysOf('understudy', shard);
const at = (commits: number) => ({
  position: { incarnation: 0, sequence: commits, index: 0 },
  commits,
  log: 7,
  queue: 9,
});
const entry = (content: string) => JSON.stringify({ role: 'user', content });
const pending = (id: string) => ({ id: id as EffectId, body: '{}' });
let token: Awaited<ReturnType<ReturnType<typeof redisLeases>['acquire']>>;

/** What a shard holds before: two sessions, one of which is to end. */
const first: Commit = {
  from: undefined,
  to: at(1),
  sessions: [
    sessionCommit({
      session: 'n1' as SessionId,
      record: '{"version":1,"length":1,"pending":{"n1_1_0":{}}}',
      entries: [entry('one')],
      pending: [pending('n1_1_0')],
      wakeAt: 1_000,
      floor: 1,
    }),
    sessionCommit({
      session: 'gone' as SessionId,
      record: '{"version":1,"length":1,"pending":{}}',
      entries: [entry('one')],
      floor: 1,
    }),
  ],
  outbox: { id: 1, body: '{}' },
  settled: [],
  archived: [],
};
/** A commit that writes to every key, in every way. */
const second = (more: Partial<Commit['sessions'][number]> = {}): Commit => ({
  from: at(1),
  to: at(2),
  sessions: [
    sessionCommit({
      session: 'n1' as SessionId,
      expectedVersion: 1,
      version: 2,
      record: '{"version":2,"length":2,"pending":{"n1_2_0":{}}}',
      entriesBefore: 1,
      entries: [entry('two')],
      pending: [pending('n1_2_0')],
      resolved: ['n1_1_0'],
      floor: 2,
    }),
    sessionCommit({
      session: 'n2' as SessionId,
      record: '{"version":1,"length":1,"pending":{"n2_1_0":{}}}',
      entries: [entry('new')],
      pending: [pending('n2_1_0')],
      wakeAt: 2_000,
      floor: 2,
      ...more,
    }),
  ],
  outbox: { id: 2, body: '{}' },
  settled: [1],
  archived: [{ session: 'gone' as SessionId, version: 1, summary: '{}', floor: undefined }],
});

async function contentOf(): Promise<object> {
  const found: Record<string, unknown> = {};
  const { owner: _, conversation, claim: _c, tries: _t, ...named } = keys;
  const all = [...Object.values(named), ...['n1', 'n2', 'gone'].map(conversation)];
  for (const key of all) {
    const type = await redis.type(key);
    if (type === 'none') continue;
    if (type === 'string') found[key] = await redis.get(key);
    else if (type === 'hash') found[key] = await redis.hgetall(key);
    // A summary may be there twice.
    else if (key === keys.recent) found[key] = [...new Set(await redis.lrange(key, 0, -1))];
    else if (type === 'list') found[key] = await redis.lrange(key, 0, -1);
    else found[key] = await redis.zrange(key, '0', '-1', 'WITHSCORES');
  }
  return found;
}

beforeAll(async () => {
  servers = await startServers();
  ({ redis } = servers.connections);
  await redis.acl('SETUSER', 'limited', 'on', '>secret', '~*', '&*', '+@all');
  limited = await connectedRedis(servers.redis.url, { user: 'limited', password: 'secret' });
  store = redisSessionStore(limited);
});
afterAll(async () => {
  limited.disconnect();
  await servers.stop();
});
beforeEach(async () => {
  await redis.flushall();
  await redis.acl('SETUSER', 'limited', '+@all');
  token = await redisLeases(redis).acquire(shard, 'h' as HostId, 'b', 60_000);
  expect(await store.commit(shard, token!.token, first)).toBe('committed');
});
const commit = (one: Commit) => store.commit(shard, token!.token, one);
const untouched = async () => {
  await commit(second());
  return contentOf();
};

describe('a right that is missing', () => {
  const rights = ['rpush', 'hset', 'hdel', 'zadd', 'zrem', 'del', 'lpush', 'ltrim', 'set'];
  test.each(rights)(
    '%s: the position stays, and once the right is there it heals',
    async (right) => {
      await redis.acl('SETUSER', 'limited', `-${right}`);
      await expect(commit(second())).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
      expect((await redisSessionStore(redis).open(shard)).at).toEqual(at(1));

      await redis.acl('SETUSER', 'limited', '+@all');
      // What disagrees with itself is built again from the log: here by hand, as a fold would give it.
      for (const session of await store.disagreeing(shard)) {
        await store.discard(shard, token!.token, session);
      }
      const versions = await redis.hgetall(keys.versions);
      const rebuilt = second();
      const healed = await commit({
        ...rebuilt,
        sessions: rebuilt.sessions.map((one) => {
          if (versions[one.session] === String(one.version)) {
            return { ...one, expectedVersion: one.version };
          }
          if (one.session !== 'n1' || versions.n1) return one;
          return {
            ...one,
            expectedVersion: 0,
            entriesBefore: 0,
            entries: [entry('one'), entry('two')],
          };
        }),
      });
      expect(healed).toBe('committed');
      const after = await contentOf();
      await redis.flushall();
      token = await redisLeases(redis).acquire(shard, 'h' as HostId, 'b', 60_000);
      await commit(first);
      expect(after).toEqual(await untouched());
    },
  );

  test.each(rights)('%s: a runtime refuses to start, and says which', async (right) => {
    await redis.acl('SETUSER', 'limited', `-${right}`);
    await expect(checkStore(limited)).rejects.toMatchObject({
      code: 'STORE_RIGHTS',
      message: expect.stringContaining(right),
    });
  });
});

describe('a key of another type', () => {
  const named = ['records', 'versions', 'pending', 'outbox', 'wakes', 'floors', 'recent'] as const;
  test.each(named)('%s: nothing is written', async (name) => {
    await redis.del(keys[name]);
    await redis.set(keys[name], 'text');
    const before = await contentOf();
    await expect(commit(second())).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect(await contentOf()).toEqual(before);
  });

  test.each(['n1', 'n2'])('the conversation of %s: nothing is written', async (session) => {
    await redis.del(keys.conversation(session));
    await redis.set(keys.conversation(session), 'text');
    const before = await contentOf();
    await expect(commit(second())).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect(await contentOf()).toEqual(before);
  });
});

describe('a value that cannot be written', () => {
  test.each([
    ['a wake-up that is not a number', { wakeAt: Number.NaN }],
    ['a wake-up that is infinite', { wakeAt: Number.POSITIVE_INFINITY }],
    ['a floor that is not a number', { floor: Number.NaN }],
  ])('%s: nothing is written', async (_name, more) => {
    const before = await contentOf();
    await expect(commit(second(more))).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' });
    expect(await contentOf()).toEqual(before);
  });
});

test('a conversation that lost its end is stale, and found to disagree', async () => {
  await redis.del(keys.conversation('n1'));
  expect(await commit(second())).toBe('stale');
  expect(await store.disagreeing(shard)).toEqual(['n1']);
});

test.each([
  ['a version', () => redis.hset(keys.versions, 'n1', '7')],
  ['a version without a record', () => redis.hset(keys.versions, 'other', '1')],
  ['a pending effect', () => redis.hdel(keys.pending, 'n1_1_0')],
  ['a record', () => redis.hdel(keys.records, 'n1')],
  ['a record that does not parse', () => redis.hset(keys.records, 'n1', 'text')],
])('%s that disagrees is found', async (_name, spoil) => {
  expect(await store.disagreeing(shard)).toEqual([]);
  await spoil();
  expect(await store.disagreeing(shard)).toHaveLength(1);
});

test.each(['allkeys-lru', 'volatile-ttl'])(
  'a Redis that evicts (%s) is refused',
  async (policy) => {
    await redis.config('SET', 'maxmemory-policy', policy);
    try {
      await expect(checkStore(redis)).rejects.toMatchObject({
        code: 'STORE_EVICTS',
        message: expect.stringContaining(policy),
      });
    } finally {
      await redis.config('SET', 'maxmemory-policy', 'noeviction');
    }
    await expect(checkStore(redis)).resolves.toBeUndefined();
  },
);
