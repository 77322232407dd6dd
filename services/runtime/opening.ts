/** What an owner makes of the shard that it finds: where it goes on, and what it must not trust. Pure; Shard does what it says. */
import { beginning, type Position } from '../core/session/record.ts';
import type { ShardState } from '../ports/session-store.ts';

/** The mail stream: its life (epoch ms), and the sequences that it holds. */
export interface LogBounds {
  readonly created: number;
  readonly first: number;
  readonly last: number;
}

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
   * Mail from after the position was trimmed: that of other shards, unless the store went back. Baselines of what it had know, and they were written
   * after the last mail that it knows; `since` is its time, epoch ms. If the store lost everything, all of them are asked.
   */
  readonly archive: { readonly since: number | undefined } | undefined;
}

const archiveSlackMs = 10 * 60_000; // clocks of brokers lie less apart

/** @param queue  which life of the effect queue it is, epoch ms */
export function openingOf({ at }: Pick<ShardState, 'at'>, bounds: LogBounds, queue: number): Opening {
  const position = at?.position ?? beginning;
  const isReborn = at !== undefined && (bounds.last < position.sequence || at.log !== bounds.created);
  const isQueueLost = at !== undefined && at.queue !== queue;
  const readAfter = isReborn ? bounds.first - 1 : position.sequence;
  const isMailShort = !isReborn && (at === undefined || readAfter + 1 < bounds.first);
  return {
    position,
    incarnation: isReborn ? position.incarnation + 1 : position.incarnation,
    isReborn,
    readAfter,
    offersAll: isReborn || isQueueLost,
    archive: isMailShort ? { since: at?.at === undefined ? undefined : at.at - archiveSlackMs } : undefined,
  };
}
