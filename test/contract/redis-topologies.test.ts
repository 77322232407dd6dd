/** The store on Sentinel and on a Redis cluster: it goes on when the master of a shard is ended with -9 or falls silent, with what was committed, and fences as before. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseRedisAddress } from '../../services/adapters/redis/address.ts';
import { redisLeases } from '../../services/adapters/redis/leases.ts';
import { redisRateLimits } from '../../services/adapters/redis/rate-limits.ts';
import { connectedRedis, type ScriptedRedis } from '../../services/adapters/redis/scripts.ts';
import { redisSessionStore } from '../../services/adapters/redis/session-store.ts';
import type { HostId, OwnerToken, SessionId, ShardId } from '../../services/core/ids.ts';
import { keysOf } from '../../services/core/wire/keys.ts';
import type { Commit } from '../../services/ports/session-store.ts';
import { eventually } from '../support/eventually.ts';
import { startCluster, startSentinels, type Topology } from '../support/redis-topologies.ts';

const at = (commits: number) => ({
  position: { incarnation: 0, sequence: commits, index: 0 },
  commits,
  log: 7,
  queue: 9,
});
const commitOf = (version: number): Commit => ({
  from: version === 1 ? undefined : at(version - 1),
  to: at(version),
  sessions: [
    {
      session: 's' as SessionId,
      expectedVersion: version - 1,
      version,
      record: `{"n":${version}}`,
      entriesBefore: version - 1,
      entries: [JSON.stringify({ role: 'user', content: `entry ${version}` })],
      pending: [],
      resolved: [],
      wakeAt: undefined,
      floor: 1,
    },
  ],
  settled: [],
  archived: [],
});

describe.each([
  ['a master, a replica and sentinels', startSentinels, 'SIGKILL'],
  ['a master, a replica and sentinels', startSentinels, 'SIGSTOP'],
  ['a cluster', startCluster, 'SIGKILL'],
  ['a cluster', startCluster, 'SIGSTOP'],
] as const)('Redis as %s, its master taken away (%#)', (_, start, signal) => {
  let topology: Topology;
  let redis: ScriptedRedis;
  beforeAll(async () => {
    topology = await start();
    redis = await connectedRedis(topology.url);
  });
  afterAll(async () => {
    redis.disconnect();
    await topology.stop();
  });

  test('sixteen shards commit at once, each under its own lease, and limits are counted', async () => {
    const [store, leases] = [redisSessionStore(redis, 'wide'), redisLeases(redis, 'wide')];
    await store.fixShards(16);
    const shards = Array.from({ length: 16 }, (__, shard) => shard as ShardId);
    const held = await Promise.all(
      shards.map((shard) => leases.acquire(shard, 'host' as HostId, 'boot', 60_000)),
    );
    for (let version = 1; version <= 3; version += 1) {
      expect(
        await Promise.all(
          held.map((lease) => store.commit(lease!.shard, lease!.token, commitOf(version))),
        ),
      ).toEqual(shards.map(() => 'committed'));
    }
    expect(
      await Promise.all(shards.map((shard) => store.conversation(shard, 's' as SessionId, 0, 3))),
    ).toEqual(
      shards.map(() =>
        ['entry 1', 'entry 2', 'entry 3'].map((content) => expect.objectContaining({ content })),
      ),
    );
    expect((await leases.owners(16)).size).toBe(16);
    const limits = redisRateLimits(redis, 'wide');
    const share = { what: 'requests', points: 1, perMinute: 1 } as const;
    expect(await limits.take('acme', [share])).toBeUndefined();
    expect(await limits.take('acme', [share])).toMatchObject({ what: 'requests' });
  });

  test('when the master of a shard is ended, or falls silent, its replica goes on with what was committed, and fences', async () => {
    const [store, leases] = [redisSessionStore(redis, 'fall'), redisLeases(redis, 'fall')];
    const shard = 5 as ShardId;
    const lease = (await leases.acquire(shard, 'host' as HostId, 'boot', 600_000))!;
    expect(await store.commit(shard, lease.token, commitOf(1))).toBe('committed');
    await topology.takeMasterOf(keysOf('fall', shard).owner, signal);

    const found = await eventually(async () => (await store.open(shard)).at, 'the replica answers');
    expect(found).toEqual(at(1));
    expect(await store.commit(shard, 'other#boot#1' as OwnerToken, commitOf(2))).toBe('fenced');
    expect(await eventually(() => store.commit(shard, lease.token, commitOf(2)))).toBe('committed');
    expect(await store.load(shard, 's' as SessionId)).toBe('{"n":2}');
  });
});

describe('a server that accepts connections and says nothing', () => {
  const end = (topology: Topology, redis: ScriptedRedis | undefined) => {
    redis?.disconnect();
    return topology.stop();
  };

  test('is passed over when it is the first of the sentinels', { timeout: 60_000 }, async () => {
    const topology = await startSentinels();
    let redis: ScriptedRedis | undefined;
    try {
      topology.freezeFirstSentinel();
      redis = await connectedRedis(topology.url);
      expect(await redis.ping()).toBe('PONG');
    } finally {
      await end(topology, redis);
    }
  });

  // Without a time-out for each command the package asks others for what it held, time after time: 90 s.
  test('is given up when it is all that a cluster has of a shard', {
    timeout: 60_000,
  }, async () => {
    const topology = await startCluster();
    const redis = await connectedRedis(topology.url);
    try {
      const shard = 5 as ShardId;
      topology.freezeReplicas();
      await topology.takeMasterOf(keysOf('gone', shard).owner, 'SIGSTOP');
      await expect(redisSessionStore(redis, 'gone').open(shard)).rejects.toMatchObject({
        code: 'STORE_UNAVAILABLE',
      });
    } finally {
      await end(topology, redis);
    }
  });
});

test.each([
  ['redis://h:1', { kind: 'single' }],
  ['rediss://u:p@h/3', { kind: 'single', url: 'rediss://u:p@h/3' }],
  [
    'redis-sentinel://a:1,b#m',
    {
      kind: 'sentinel',
      master: 'm',
      isEncrypted: false,
      nodes: [
        { host: 'a', port: 1 },
        { host: 'b', port: 26_379 },
      ],
    },
  ],
  [
    'rediss-cluster://[::1]:7000,b',
    {
      kind: 'cluster',
      isEncrypted: true,
      nodes: [
        { host: '::1', port: 7_000 },
        { host: 'b', port: 6_379 },
      ],
    },
  ],
])('%s is understood', (text, address) => {
  expect(parseRedisAddress(text)).toMatchObject(address);
});
test.each([
  '',
  'http://a',
  'redis://',
  'redis-sentinel://a:1',
  'redis-cluster://a:x',
  'redis-cluster://',
  'redis-cluster://u:p@a:1',
  'redis-raft://a',
])('%j is refused', (text) => {
  expect(() => parseRedisAddress(text)).toThrow(/redis-sentinel:\/\/a:26379/);
});
