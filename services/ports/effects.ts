import type { PooledEffect } from '../core/session/effects.ts';

export interface Taken {
  readonly effect: PooledEffect;
  /** Aborted when nobody waits for the result any more, or the taker stops. */
  readonly signal: AbortSignal;
  /** True when somebody may have begun this before. */
  readonly isRedelivered: boolean;
  /** So many performers fell silent while they had it in hand. */
  readonly lost: number;
}

export interface Taking {
  /** Effects in hand. */
  inFlight(): number;
  /** Take nothing new, and wait for what is in hand. */
  drain(): Promise<void>;
  stop(): Promise<void>;
}

/** A pool as the queue sees it. */
export interface PoolState {
  readonly pool: string;
  /** Requests for work that are open now: 0 means that nobody asks. */
  readonly asking: number;
  readonly queued: number;
  readonly inHand: number;
}

/**
 * What sessions want, on its way to those who do it.
 *
 * Guarantee: an offered effect is taken by somebody at least once, as long as the queue lives; one that
 *            is being performed is kept alive, and offered again after its performer has been silent for
 *            `effectAckWaitMs`. The queue itself may be lost: what is pending is in the session store.
 * Errors:    Unavailable from `offer`; offer again.
 */
export interface Effects {
  offer(effect: PooledEffect): Promise<void>;
  /**
   * @param perform  resolves with true when the result is delivered, with false when there was nothing to do (it may be
   *                 offered again, and then there may be); a rejection offers the effect again, unless it was cancelled.
   *                 A `Later` says when, and whether it may have been begun
   * @param isFull  nothing more is begun while it says so; asked again whenever a hand becomes free
   */
  take(
    pool: string,
    concurrency: number,
    perform: (taken: Taken) => Promise<boolean>,
    onRefused: (raw: string, problem: string) => void,
    isFull?: () => boolean,
  ): Promise<Taking>;
  /** Nobody waits for these any more: who has one in hand aborts it, who is offered one does not begin it. Best effort, at once. */
  cancel(pool: string, ids: readonly string[]): void;
  /** Every pool that anybody ever took from, and these. */
  pools(named?: readonly string[]): Promise<PoolState[]>;
  /** Names this life of the queue (epoch ms, never 0): another number means that what was in it is gone. */
  life(): Promise<number>;
  /** Tells when the queue was found empty-handed: what is pending must be offered again. */
  onLost(listener: () => void): void;
}
