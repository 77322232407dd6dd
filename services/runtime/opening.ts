/** What an owner makes of the shard that it finds: where it goes on, and what it must not trust. Pure; Shard does what it says. */
import { beginning, type Position } from '../core/session/record.ts';
import type { LogBounds } from '../ports/mailbox.ts';
import type { ShardState } from '../ports/session-store.ts';

export interface Opening {
  /** What the store says was applied. */
  readonly position: Position;
  readonly incarnation: number;
  /** The log went back, or is another one: what it holds now are new messages, or none. Never skip them silently. */
  readonly isReborn: boolean;
  readonly readAfter: number;
  /** What is pending may have been offered to a queue that is no more, or to none. */
  readonly offersAll: boolean;
  /**
   * Mail from after the position was trimmed: that of other shards, unless the store went back. What the store had is in baselines then, written after
   * the last mail that it still knows of; `since` is the time of that mail, epoch ms. If the store lost everything, all of them are read.
   */
  readonly archive: { readonly since: number | undefined } | undefined;
}

const archiveSlackMs = 10 * 60_000; // clocks of brokers lie less apart

/**
 * @param queue   which life of the effect queue it is, epoch ms
 * @param readAt  the broker's time of the message at the stored position; undefined when it was trimmed
 */
export function openingOf(
  { at }: Pick<ShardState, 'at'>,
  bounds: LogBounds,
  queue: number,
  readAt?: number,
): Opening {
  const position = at?.position ?? beginning;
  // Not how long the log is, but whether it is the same: it may have gone back and on again.
  const isAnother = at?.at !== undefined && readAt !== undefined && at.at !== readAt;
  const isReborn =
    at !== undefined && (bounds.last < position.sequence || at.log !== bounds.created || isAnother);
  const isQueueLost = at !== undefined && at.queue !== queue;
  const readAfter = isReborn ? bounds.first - 1 : position.sequence;
  const isMailShort = at === undefined || readAfter + 1 < bounds.first;
  return {
    position,
    incarnation: isReborn ? position.incarnation + 1 : position.incarnation,
    isReborn,
    readAfter,
    offersAll: isReborn || isQueueLost,
    archive: isMailShort
      ? { since: at?.at === undefined ? undefined : at.at - archiveSlackMs }
      : undefined,
  };
}
