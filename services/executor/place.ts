/**
 * Who may perform an effect: one executor at a time, by create-only start records.
 *
 * E1  Of all that would begin it, one created the record of the effect's own id; each take-over has
 *     a record of its own, with the next number.
 * E2  A record of `cancelled` ends it: nobody begins it any more. Who gives an effect up writes it
 *     before that is told: one that only stood still must not go on afterwards.
 * E3  An executor counts as dead only if nobody listens under its name. If it does not answer, it
 *     is slow, and the call waits. A dead one is replaced as the class of the tool allows.
 * E4  An executor that was paused between its record and its request creates a new record, or
 *     stops; so it does before every further try.
 * E5  Its own record does not stop an executor that has made no request in that place.
 */
import type { EffectId } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import type { EffectClass } from '../core/tools/tool-spec.ts';
import type { Clock } from '../ports/clock.ts';
import { cancelledBy, placeOf, type Starts } from '../ports/starts.ts';

/** How long a place is good for a request without another look at the records, ms. */
export const placeMs = limits.effectAckWaitMs / 2;
const askMs = 1_000; // how long an executor may take to say that it holds an effect
const askAgainMs = 300; // one that reconnects to the broker is not there for a moment

/** `first`: who began it before and is gone; it may have taken effect. */
export type Begun =
  | {
      readonly kind: 'run';
      readonly first: string | undefined;
      readonly number: number;
      /** When the record was asked for: it may have been stored long before we heard of it. */
      readonly since: number;
    }
  | { readonly kind: 'elsewhere' }
  | { readonly kind: 'done' }
  /** `first`: who had begun it before. */
  | { readonly kind: 'cancelled'; readonly first: string | undefined }
  | { readonly kind: 'lost'; readonly first: string };

export interface PlacePorts {
  readonly starts: Starts;
  readonly clock: Clock;
}

/**
 * @param mine  the place that this executor had, and gave back
 * @throws Unavailable when the records cannot be asked
 */
export async function begin(
  executor: string,
  effect: EffectId,
  toolClass: EffectClass,
  { starts, clock }: PlacePorts,
  mine?: Place,
): Promise<Begun> {
  if (toolClass === 'pure') return { kind: 'run', first: undefined, number: 1, since: clock.now() };
  let first: string | undefined;
  const before = new Set<string>();
  for (let number = 1; ; number += 1) {
    const since = clock.now();
    const start = await starts.create(placeOf(effect, number), executor, toolClass);
    if (start.created) return { kind: 'run', first, number, since };
    const { performer } = start.first;
    if (performer === cancelledBy) return { kind: 'cancelled', first };
    if (performer === executor && mine && !mine.mayHaveRun && number <= mine.number) {
      if (number < mine.number) continue;
      // As old as can be: it looks at the records again before its first request.
      return { kind: 'run', first, number, since: Number.NEGATIVE_INFINITY };
    }
    const holding =
      performer === executor ? 'unknown' : await asked(performer, effect, starts, clock);
    if (holding === 'holding' || holding === 'slow') return { kind: 'elsewhere' };
    if (holding === 'done') return { kind: 'done' };
    first ??= performer;
    // One that lives and knows nothing of it has handed it back.
    if (holding !== 'unknown') before.add(performer);
    // It was in hand when so many executors died: it would probably kill the next one too.
    if (before.size < limits.lostMax && toolClass !== 'opaque') continue;
    const seal = await starts.create(placeOf(effect, number + 1), cancelledBy, toolClass);
    if (seal.created || seal.first.performer === cancelledBy) return { kind: 'lost', first };
    // Somebody has a later place: whoever it is, is asked as well.
  }
}

async function asked(performer: string, effect: EffectId, starts: Starts, clock: Clock) {
  const holding = await starts.holds(performer, effect, askMs);
  if (holding !== 'gone') return holding;
  await clock.sleep(askAgainMs);
  return starts.holds(performer, effect, askMs);
}

/** The right to make a request for an effect, and how old it is. */
export class Place {
  readonly #executor: string;
  readonly #effect: EffectId;
  readonly #class: EffectClass;
  readonly #ports: PlacePorts;
  /** Some request of this place may have taken effect. */
  mayHaveRun = false;
  #number: number;
  #since: number;

  constructor(
    executor: string,
    effect: EffectId,
    toolClass: EffectClass,
    { number, since }: { readonly number: number; readonly since: number },
    ports: PlacePorts,
  ) {
    this.#executor = executor;
    this.#effect = effect;
    this.#class = toolClass;
    this.#number = number;
    this.#ports = ports;
    this.#since = since;
  }

  get number(): number {
    return this.#number;
  }
  get since(): number {
    return this.#since;
  }

  /**
   * May a request be made now? Asked right before it (E4).
   *
   * @param isFurther  it is not the first of this place
   * @returns why not, if not: another has taken over, or it was cancelled
   * @throws Unavailable when the records cannot be asked
   */
  async whyNot(isFurther = false): Promise<'elsewhere' | 'cancelled' | undefined> {
    if (this.#class === 'pure') return undefined;
    const { starts, clock } = this.#ports;
    for (let isOld = isFurther; isOld || clock.now() - this.#since > placeMs; isOld = false) {
      const next = placeOf(this.#effect, this.#number + 1);
      const asked = clock.now();
      const start = await starts.create(next, this.#executor, this.#class);
      const { performer } = start.created ? { performer: this.#executor } : start.first;
      if (performer === cancelledBy) return 'cancelled';
      // Its own: stored, and then nobody could say so.
      if (performer !== this.#executor) return 'elsewhere';
      this.#number += 1;
      this.#since = asked;
    }
    return undefined;
  }
}
