/**
 * Which host should hold which shard: rendezvous hashing with bounded load, a pure function of the
 * live hosts, so every runtime computes the same answer and nobody coordinates.
 *
 * Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998); bounded
 * load after Mirrokni, Thorup and Zadimoghaddam (2016).
 */
import { fnv1a, type HostId, type ShardId } from '../ids.ts';

/** A host holds at most this much more than an even share. */
export const loadFactor = 1.25;

export function placementOf(
  hosts: readonly HostId[],
  shards: number,
): ReadonlyMap<ShardId, HostId> {
  const placement = new Map<ShardId, HostId>();
  if (hosts.length === 0) return placement;
  const capacity = Math.ceil((shards / hosts.length) * (hosts.length === 1 ? 1 : loadFactor));
  const load = new Map<HostId, number>();
  for (let shard = 0; shard < shards; shard += 1) {
    const ranked = [...hosts]
      .map((host) => ({ host, score: fnv1a(`${host}#${shard}`) }))
      .sort((left, right) => right.score - left.score || (left.host < right.host ? -1 : 1));
    const chosen = ranked.find(({ host }) => (load.get(host) ?? 0) < capacity);
    if (!chosen) continue;
    load.set(chosen.host, (load.get(chosen.host) ?? 0) + 1);
    placement.set(shard as ShardId, chosen.host);
  }
  return placement;
}
