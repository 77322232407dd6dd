import type { AgentName, Revision, SessionId, ShardId } from '../core/ids.ts';
import type { Incoming } from '../core/session/draft.ts';
import type { SessionRecord } from '../core/session/record.ts';
import type { Bundle } from '../core/session/specs.ts';
import type { Listing } from '../core/tools/mcp-listing.ts';
import type { MachineModule } from './machines.ts';

/** A record with the mail that made it out of the baseline before. */
export interface Baseline {
  readonly record: SessionRecord;
  readonly mail: readonly Incoming[];
}

/**
 * Baselines and bundles: what a fold needs once the mail has been trimmed.
 *
 * Guarantee: what `append` has resolved for is kept for `archiveMaxAgeMs`, in order, per session; a second
 *            append of the same version changes nothing that a reader can tell.
 * Errors:    Unavailable; Refused for what does not parse: BASELINE_POISONED from `latest` and `chain`, BUNDLE_UNREADABLE from `bundle`, BUNDLE_CHANGED
 *            for one that is not that of its revision.
 */
export interface Archive {
  /** @param mail  each as JSON, in order: what was kept as text need not be parsed to be stored */
  append(shard: ShardId, record: SessionRecord, mail: readonly string[]): Promise<void>;
  /** That of the highest version. */
  latest(shard: ShardId, session: SessionId): Promise<Baseline | undefined>;
  /** All baselines of a session, oldest first. */
  chain(shard: ShardId, session: SessionId): Promise<Baseline[]>;
  /**
   * What was written last of every session of a shard: by an owner that was paused, it may be older than `latest`.
   *
   * @param onUnreadable  told of each that does not parse
   * @param since  only sessions of which something was written since then, epoch ms
   */
  latestOf(
    shard: ShardId,
    onUnreadable: (session: SessionId, why: string) => void,
    since?: number,
  ): AsyncIterable<Baseline>;
  putBundle(revision: Revision, bundle: Bundle): Promise<void>;
  bundle(revision: Revision): Promise<Bundle | undefined>;
  /** Store the module of a user's own machine, before a bundle that names it. */
  putMachine(module: MachineModule): Promise<void>;
  /** The text of a machine's module, by its hash. */
  machine(hash: string): Promise<string | undefined>;
  /**
   * Store what an MCP server can do, under the hash of its document.
   *
   * @param number  from 1 on: what is accepted after a change has the next
   * @returns whether it is new: of two that store the same number, the first counts
   * @throws Refused (MCP_LISTING_TOO_LARGE)
   */
  putListing(hash: string, number: number, listing: Listing): Promise<boolean>;
  /** That of the highest number; without `listing` where it does not parse here. */
  lastListing(
    hash: string,
  ): Promise<{ readonly number: number; readonly listing: Listing | undefined } | undefined>;
  /** Of each agent the bundle that was put last; those that do not parse are left out. */
  lastBundles(): Promise<
    ReadonlyMap<AgentName, { readonly revision: Revision; readonly bundle: Bundle }>
  >;
}
