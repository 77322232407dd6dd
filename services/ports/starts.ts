import type { EffectId } from '../core/ids.ts';

export interface Start {
  readonly effect: EffectId;
  readonly performer: string;
  readonly at: number;
}

/**
 * The arbiter of "never twice": one start record per effect, create-only.
 *
 * Guarantee: of all callers for one effect exactly one gets 'created', for `startsMaxAgeMs`.
 * Errors:    Unavailable when nobody can say; the caller must not start.
 */
export interface Starts {
  create(
    effect: EffectId,
    performer: string,
    toolClass: string,
  ): Promise<{ readonly created: true } | { readonly created: false; readonly first: Start }>;
  /** Does the performer live and work on this effect now? False too when it does not answer within `waitMs`. */
  isHeld(performer: string, effect: EffectId, waitMs: number): Promise<boolean>;
  /** Answer such questions about this performer. */
  answerHolds(performer: string, holds: (effect: EffectId) => boolean): void;
}
