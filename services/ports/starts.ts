import type { EffectId, SessionId, ShardId, TenantId } from '../core/ids.ts';

export interface Start {
  readonly effect: EffectId;
  readonly performer: string;
  readonly at: number;
}

/** Stands as its performer in the record of an effect that nobody may begin any more. */
export const cancelledBy = 'cancelled';

/**
 * What a performer says of an effect, or what its silence means.
 *
 * holding  it works on it now
 * done     it has performed it, and its result is in the log
 * unknown  it lives, and knows nothing of it
 * slow     it did not answer in time: it may stand still, and go on
 * gone     nobody listens under its name: it is dead, or cut off from the broker
 */
export type Holding = 'holding' | 'done' | 'unknown' | 'slow' | 'gone';

/**
 * The arbiter of "never twice": one start record per effect, create-only. Each take-over has a record
 * of its own: the effect's id and a number from 2 on.
 *
 * Guarantee: of all callers for one id exactly one gets 'created', for `startsMaxAgeMs`.
 * Errors:    Unavailable when nobody can say; the caller must not start.
 */
export interface Starts {
  create(
    effect: EffectId,
    performer: string,
    toolClass: string,
  ): Promise<{ readonly created: true } | { readonly created: false; readonly first: Start }>;
  /** What does the performer say of this effect? Asked once, for `waitMs` at the most. */
  holds(performer: string, effect: EffectId, waitMs: number): Promise<Holding>;
  /** Answer such questions about this performer. */
  answerHolds(performer: string, holds: (effect: EffectId) => Holding): void;
  /**
   * Does its session still wait for this call, all that is in the log up to now heard?
   *
   * @returns undefined when nobody can say within `waitMs`; 'unheard' when nobody hears such questions
   */
  isWanted(call: WantedCall, waitMs: number): Promise<boolean | 'unheard' | undefined>;
  /** Answer such questions. @param answer  undefined where another must say */
  answerWanted(answer: (call: WantedCall) => Promise<boolean | undefined>): void;
}

/** A call that its session may wait for. */
export interface WantedCall {
  readonly shard: ShardId;
  readonly tenant: TenantId;
  readonly session: SessionId;
  readonly effect: EffectId;
}

/** The record of a take-over: the effect itself, then numbers from 2 on. */
export const placeOf = (effect: EffectId | string, number: number): EffectId =>
  (number === 1 ? effect : `${effect}-${number}`) as EffectId;

/**
 * Nobody may begin this effect any more: `cancelled` is written at its start record, or where it was
 * begun at the next free number, so that nobody takes it over.
 *
 * @returns who had begun it, if anybody had
 * @throws Unavailable when nobody can say; cancel it again
 */
export async function cancelStart(
  starts: Pick<Starts, 'create'>,
  effect: string,
  toolClass: string,
): Promise<string | undefined> {
  let begun: string | undefined;
  for (let number = 1; ; number += 1) {
    const start = await starts.create(placeOf(effect, number), cancelledBy, toolClass);
    if (start.created || start.first.performer === cancelledBy) return begun;
    begun = start.first.performer;
  }
}
