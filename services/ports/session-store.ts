import type { EffectId, OwnerToken, SessionId, ShardId } from '../core/ids.ts';
import type { Entry } from '../core/session/conversation.ts';
import type { PendingEffect } from '../core/session/effects.ts';
import type { Position } from '../core/session/record.ts';

/** What a commit writes of one session; several steps of it may stand in one. */
export interface SessionCommit {
  readonly session: SessionId;
  /** The version that must be stored now: 0 for a new session. */
  readonly expectedVersion: number;
  readonly version: number;
  /** The record as JSON. */
  readonly record: string;
  /** Conversation entries that are stored already: what stands after them is written again. */
  readonly entriesBefore: number;
  /** Conversation entries to append, as JSON. */
  readonly entries: readonly string[];
  readonly pending: readonly { readonly id: EffectId; readonly body: string }[];
  readonly resolved: readonly string[];
  /** When the session wants to be woken, epoch ms; undefined for not at all. */
  readonly wakeAt: number | undefined;
  /** The first mail sequence that its next baseline needs; undefined when it needs none. */
  readonly floor: number | undefined;
}

/** How far a shard has come: its position, how many commits it took, and which life of the log and of the effect queue that was (epoch ms). */
export interface ShardPosition {
  readonly position: Position;
  readonly commits: number;
  readonly log: number;
  /** Everything pending was offered to this life of the queue; `unsent` while something waits to be offered. */
  readonly queue: number;
  /** The broker's time of the mail at this position, epoch ms; undefined before any, and for what a version committed that did not say. */
  readonly at?: number | undefined;
}

/** As `queue`: something pending was offered to no queue yet. */
export const unsent = 0;

export interface Commit {
  /** What must be stored now, or nothing is written; undefined for a shard without a commit. It counts commits, so even one that moved no position is missed when it was lost. */
  readonly from: ShardPosition | undefined;
  readonly to: ShardPosition;
  readonly sessions: readonly SessionCommit[];
  /** What to release once this is committed. */
  readonly outbox?: { readonly id: number; readonly body: string } | undefined;
  /** Outbox entries that have been released. */
  readonly settled: readonly number[];
  /**
   * Sessions whose mail up to `version` has been archived. One that has not moved since needs no mail any more, and
   * with a summary (it has ended) it is dropped; one that has moved on needs mail from `floor` only.
   */
  readonly archived: readonly {
    readonly session: SessionId;
    readonly version: number;
    readonly summary: string | undefined;
    readonly floor: number | undefined;
  }[];
}

/** committed; fenced: another owns the shard; stale: the store is not where the caller thought (it lost its tail, or the caller erred). */
export type CommitResult = 'committed' | 'fenced' | 'stale';

export interface ShardState {
  /** Undefined when the store knows nothing of the shard (it is new, or everything was lost), and when what it has cannot be read. */
  readonly at: ShardPosition | undefined;
  /** Why the position cannot be read. All else may be well: clear the position, and read the log from its beginning. */
  readonly problem?: string | undefined;
  readonly outbox: readonly { readonly id: number; readonly body: string }[];
  /** Sessions with mail since their last baseline, and the first sequence of it. */
  readonly floors: ReadonlyMap<SessionId, number>;
}

/**
 * The state of sessions, shard by shard. It is a cache of the fold: losing its tail or all of it loses nothing.
 *
 * Guarantee: a commit happens only while `token` owns the shard and position and versions are as expected; 'fenced' and 'stale' have written nothing.
 * Errors:    Unavailable when the store did not answer, or refused in the middle (a key of another type): the caller does not know what is
 *            written and must open the shard again.
 */
export interface SessionStore {
  open(shard: ShardId): Promise<ShardState>;
  commit(shard: ShardId, token: OwnerToken, commit: Commit): Promise<CommitResult>;
  /** The record as stored, JSON. */
  load(shard: ShardId, session: SessionId): Promise<string | undefined>;
  conversation(shard: ShardId, session: SessionId, from: number, to: number): Promise<Entry[]>;
  conversationLength(shard: ShardId, session: SessionId): Promise<number>;
  /** When a session is to be woken, epoch ms; undefined for not at all. */
  wakeOf(shard: ShardId, session: SessionId): Promise<number | undefined>;
  pending(shard: ShardId): Promise<PendingEffect[]>;
  /** Sessions whose wake time has come, the longest overdue first. */
  due(shard: ShardId, now: number, max: number): Promise<SessionId[]>;
  /** All records of a shard, JSON by session: for lists, not for steps. */
  records(shard: ShardId): AsyncIterable<{ readonly session: SessionId; readonly record: string }>;
  /** Summaries of sessions that ended lately, newest first. */
  recent(shard: ShardId): Promise<string[]>;
  /**
   * What a shard has applied, and the first mail that a session of it still needs; undefined when the store knows nothing of the shard.
   *
   * @throws Refused (POSITION_POISONED) until its next owner has cleared a position that cannot be read
   */
  lowest(
    shard: ShardId,
  ): Promise<{ readonly applied: number; readonly floor: number | undefined } | undefined>;
  /** Removes all floors: the log went back, and what sessions needed of it is gone. Needs the owner token. */
  clearFloors(shard: ShardId, token: OwnerToken): Promise<CommitResult>;
  /** Removes a position that cannot be read. Needs the owner token. */
  clearPosition(shard: ShardId, token: OwnerToken): Promise<CommitResult>;
  /**
   * Sessions of which the store does not agree with itself: record and version, what is pending, the
   * length of the conversation. Reads all of the shard.
   */
  disagreeing(shard: ShardId): Promise<SessionId[]>;
  /** Removes all of a session, so that it can be built again from the log. Needs the owner token as a commit does. */
  discard(shard: ShardId, token: OwnerToken, session: SessionId): Promise<CommitResult>;
  /** The number of shards fixed at install; the first caller fixes it. */
  fixShards(shards: number): Promise<number>;
}

export interface Claim {
  /** The prompt's. */
  readonly entries: Entry[];
  /** Tries that were noted before this one. */
  readonly triesBefore: number;
}

/** What a gateway asks of the store before it calls a model. */
export interface ModelCalls {
  /**
   * Claim a model call for `holder`, for `durationMs` without renewal, and note its first try: what
   * was noted may have been made, and paid for, whatever became of who noted it.
   *
   * @returns 'settled' when nobody waits for the answer any more; 'held' while another calls
   */
  claim(
    call: { shard: ShardId; session: SessionId; effect: EffectId; from: number; to: number },
    holder: string,
    durationMs: number,
  ): Promise<Claim | 'settled' | 'held'>;
  /**
   * Note one more try, before it is made; it must not be made unless 'noted': whoever stood still may
   * find the call in other hands, or answered, and nobody would count what it pays.
   *
   * @param tries  that are known to have been made: they are noted again, where the store lost them
   * @throws Unavailable; then it must not be made either
   */
  noteTry(
    shard: ShardId,
    effect: EffectId,
    holder: string,
    durationMs: number,
    tries: number,
  ): Promise<'settled' | 'held' | 'noted'>;
  /**
   * Another may make the call at once.
   *
   * @param free  how many of the tries that were noted were not made, or cost nothing; 1 by default
   */
  letGo(shard: ShardId, effect: EffectId, holder: string, free?: number): Promise<void>;
  /**
   * For longer, also where the store has lost the claim meanwhile; not where another holds it now.
   *
   * @param tries  that are known to have been made: they are noted again, where the store lost them
   * @returns whether it is `holder`'s, and how many tries are noted
   */
  renew(
    shard: ShardId,
    effect: EffectId,
    holder: string,
    durationMs: number,
    tries: number,
  ): Promise<{ readonly isOurs: boolean; readonly tries: number }>;
}
