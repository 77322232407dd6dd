/** The only place that spells Redis keys. Everything of a shard lies under one hash tag, so one script may touch it all. */
import type { ShardId } from '../ids.ts';

export const shardTag = (prefix: string, shard: ShardId | number) => `{${prefix}:${shard}}`;

export function keysOf(prefix: string, shard: ShardId | number) {
  const tag = shardTag(prefix, shard);
  return {
    owner: `${tag}:owner`,
    position: `${tag}:position`,
    records: `${tag}:records`,
    versions: `${tag}:versions`,
    pending: `${tag}:pending`,
    outbox: `${tag}:outbox`,
    wakes: `${tag}:wakes`,
    floors: `${tag}:floors`,
    recent: `${tag}:recent`,
    conversation: (session: string) => `${tag}:c:${session}`,
    claim: (effect: string) => `${tag}:g:${effect}`,
    tries: (effect: string) => `${tag}:g:${effect}:n`,
  } as const;
}
export type ShardKeys = ReturnType<typeof keysOf>;

export const clusterKeys = (prefix: string) => ({
  hosts: `${prefix}:hosts`,
  settings: `${prefix}:settings`,
});
