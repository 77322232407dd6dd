/** Leases in Redis, beside the data they guard. The owner token is `<host>#<boot>#<count>`: no two holdings share one. */
import type { HostId, OwnerToken, ShardId } from '../../core/ids.ts';
import { clusterKeys, keysOf } from '../../core/wire/keys.ts';
import type { Lease, Leases } from '../../ports/leases.ts';
import { readPosition } from './position.ts';
import type { ScriptedRedis } from './scripts.ts';
import { answering } from './session-store.ts';

export function redisLeases(redis: ScriptedRedis, prefix = 'understudy'): Leases {
  let count = 0;
  const { hosts } = clusterKeys(prefix);
  return {
    async heartbeat(host, durationMs) {
      return (await answering(
        'heartbeat',
        redis.understudyHeartbeat(hosts, host, durationMs),
      )) as HostId[];
    },
    async leave(host) {
      await answering('leave', redis.zrem(hosts, host));
    },
    async acquire(shard, host, boot, durationMs) {
      count += 1;
      const token = `${host}#${boot}#${count}` as OwnerToken;
      const isOurs = await answering(
        'acquire',
        redis.understudyAcquire(keysOf(prefix, shard).owner, token, durationMs, `${host}#`),
      );
      return isOurs === 1 ? ({ shard, host, token } satisfies Lease) : undefined;
    },
    async renew(lease, durationMs) {
      const { owner, position } = keysOf(prefix, lease.shard);
      const [isOurs, stored] = await answering(
        'renew',
        redis.understudyRenew(owner, position, lease.token, durationMs),
      );
      return { isOurs: isOurs === 1, at: readPosition(stored ?? null).at };
    },
    async release(lease) {
      await answering(
        'release',
        redis.understudyRelease(keysOf(prefix, lease.shard).owner, lease.token),
      );
    },
    async owners(shards) {
      const tokens = await answering(
        'owners',
        Promise.all(
          Array.from({ length: shards }, (_, shard) => redis.get(keysOf(prefix, shard).owner)),
        ),
      );
      const owners = new Map<ShardId, HostId>();
      tokens.forEach((token, shard) => {
        if (token) owners.set(shard as ShardId, token.slice(0, token.indexOf('#')) as HostId);
      });
      return owners;
    },
  };
}
