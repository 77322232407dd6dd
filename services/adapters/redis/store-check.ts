/** Is this a Redis that sessions can be trusted to? Asked once, before a runtime holds a shard. */
import { ReplyError } from 'ioredis';
import { messageOf, Refused } from '../../core/errors.ts';
import { shardTag } from '../../core/wire/keys.ts';
import type { ScriptedRedis } from './scripts.ts';
import { answering } from './session-store.ts';

/**
 * A store that evicts keys, or whose user lacks a right, would fail in the middle of somebody's
 * commit: it is tried with every command that the scripts use, on keys of our own.
 *
 * @throws Refused: STORE_EVICTS, STORE_RIGHTS with the command that is refused; Unavailable when
 *         Redis does not answer
 */
export async function checkStore(redis: ScriptedRedis, prefix = 'understudy'): Promise<void> {
  const memory = await answering('info', redis.info('memory'));
  const policy = /maxmemory_policy:(\S+)/.exec(String(memory))?.[1];
  if (policy !== undefined && policy !== 'noeviction') {
    throw new Refused(
      'STORE_EVICTS',
      `Redis has the maxmemory-policy ${policy}: it would throw sessions away; set it to noeviction`,
    );
  }
  // Of the hash tag that no shard has.
  const key = (name: string) => `${shardTag(prefix, -1)}:check:${name}`;
  const [text, hash, list, sorted] = [key('text'), key('hash'), key('list'), key('sorted')];
  const commands: readonly (readonly [string, ...(string | number)[]])[] = [
    ['set', text, '1'],
    ['get', text],
    ['mget', text],
    ['pexpire', text, 10_000],
    ['hset', hash, 'field', '1'],
    ['hsetnx', hash, 'field', '1'],
    ['hget', hash, 'field'],
    ['hmget', hash, 'field'],
    ['hgetall', hash],
    ['hkeys', hash],
    ['hvals', hash],
    ['hlen', hash],
    ['hexists', hash, 'field'],
    ['hscan', hash, '0'],
    ['hdel', hash, 'field'],
    ['rpush', list, '1'],
    ['lpush', list, '1'],
    ['llen', list],
    ['lrange', list, 0, -1],
    ['ltrim', list, 0, 0],
    ['zadd', sorted, 1, '1'],
    ['zscore', sorted, '1'],
    ['zcard', sorted],
    ['zrange', sorted, '0', '-1'],
    ['zrangebyscore', sorted, '-inf', 1],
    ['zremrangebyscore', sorted, '-inf', 0],
    ['zrem', sorted, '1'],
    ['del', text],
    ['del', hash],
    ['del', list],
    ['del', sorted],
    ['time'],
  ];
  for (const [command, ...args] of commands) {
    try {
      await redis.call(command, ...args);
    } catch (error) {
      if (!(error instanceof ReplyError)) await answering(command, Promise.reject(error));
      throw new Refused(
        'STORE_RIGHTS',
        `Redis refuses ${command.toUpperCase()} (${command}): ${messageOf(error).slice(0, 160)}`,
        { cause: error },
      );
    }
  }
}
