import type { HostId, OwnerToken, ShardId } from '../core/ids.ts';
import type { ShardPosition } from './session-store.ts';

export interface Lease {
  readonly shard: ShardId;
  readonly host: HostId;
  readonly token: OwnerToken;
}

export interface Renewal {
  /** False when the lease is no longer ours. */
  readonly isOurs: boolean;
  /** How far the shard has come by the store; undefined where it knows nothing of it. */
  readonly at: ShardPosition | undefined;
}

/**
 * The right to a shard until a time.
 *
 * Guarantee: of all callers at most one holds a shard's lease, and its owner token is unlike any before.
 * Errors:    Unavailable when the store cannot be reached; the caller then holds nothing that it did not hold before.
 */
export interface Leases {
  /**
   * Say that this host lives, and learn who else does.
   *
   * @param durationMs  how long the word holds without another
   */
  heartbeat(host: HostId, durationMs: number): Promise<HostId[]>;
  leave(host: HostId): Promise<void>;
  /**
   * Take the lease of a shard if it is free, expired, or held by an earlier life of the same host.
   *
   * @param durationMs  how long it holds without renewal
   * @returns the lease, or undefined while another host holds it
   */
  acquire(
    shard: ShardId,
    host: HostId,
    boot: string,
    durationMs: number,
  ): Promise<Lease | undefined>;
  /** Prolong it, and learn what is stored beside it: an owner with nothing to commit would not notice a store that went back. */
  renew(lease: Lease, durationMs: number): Promise<Renewal>;
  /** Give it up at once; does nothing when it is no longer ours. */
  release(lease: Lease): Promise<void>;
  /** Which host holds each shard now. */
  owners(shards: number): Promise<Map<ShardId, HostId>>;
}
