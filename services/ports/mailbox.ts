import type { ShardId } from '../core/ids.ts';
import type { Envelope, ParsedEnvelope } from '../core/wire/envelopes.ts';

/** One stream message of a shard: one envelope or several, in order. */
export interface MailBatch {
  readonly shard: ShardId;
  readonly sequence: number;
  /** The broker's timestamp, epoch ms: the time of every step that comes of it. */
  readonly at: number;
  readonly items: readonly ParsedEnvelope[];
}

export interface Reading {
  /** Read no further until `resume`; what is under way still arrives. */
  pause(): void;
  resume(): void;
  stop(): Promise<void>;
}

/** First and last sequence of the log; last is 0 for one that never held anything. `created` names its life (epoch ms). */
export interface LogBounds {
  readonly first: number;
  readonly last: number;
  readonly created: number;
}

/**
 * The log of everything that sessions hear.
 *
 * Guarantee: what `deliver` has resolved for is stored, and every reader of its shard sees it, in one
 *            order, the same for all. Envelopes of one call for one shard keep their order.
 * Errors:    Unavailable when nobody can say whether it was stored; deliver again, the fold drops repeats.
 */
export interface Mailbox {
  /** @param company  how many more the caller will deliver soon: this one may wait for them, 2 ms at most beyond what is under way */
  deliver(shard: ShardId, envelope: Envelope, company?: number): Promise<void>;
  /**
   * Read a shard from after a sequence, without end and without gaps, over restarts of the broker too.
   *
   * @param onReset  the log went back or was made anew: nothing more is read, and positions in it mean nothing now
   */
  read(
    shard: ShardId,
    afterSequence: number,
    onBatch: (batch: MailBatch) => void,
    onReset?: () => void,
  ): Promise<Reading>;
  /** Read what a shard holds from after a sequence up to another, and end; what was trimmed meanwhile is not waited for. */
  readTo(
    shard: ShardId,
    afterSequence: number,
    upTo: number,
    onBatch: (batch: MailBatch) => void,
  ): Promise<void>;
  bounds(): Promise<LogBounds>;
  /** When a message was stored by the broker's clock, epoch ms; undefined when the log does not have it (any more). */
  timeOf(sequence: number): Promise<number | undefined>;
  /** The last sequence that a shard has, 0 if none: how far a fold must come to know everything. */
  lastOf(shard: ShardId): Promise<number>;
  /** Does the log answer within so long? Never throws. */
  answers(withinMs: number): Promise<boolean>;
  /** Why nothing that this process gives the broker is stored, or an empty string. A broker may answer questions, and its disk may be full. */
  trouble(): string;
  /** Forget what lies before a sequence. */
  trim(beforeSequence: number): Promise<void>;
}
