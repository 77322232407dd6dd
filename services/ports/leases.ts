import type { HostId, OwnerToken, ShardId } from '../core/ids.ts';

export interface Lease {
  readonly shard: ShardId;
  readonly host: HostId;
  readonly token: OwnerToken;
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
  /** @returns false when the lease is no longer ours */
  renew(lease: Lease, durationMs: number): Promise<boolean>;
  /** Give it up at once; does nothing when it is no longer ours. */
  release(lease: Lease): Promise<void>;
  /** Which host holds each shard now. */
  owners(shards: number): Promise<Map<ShardId, HostId>>;
}
