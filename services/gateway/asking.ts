/**
 * Asks provider after provider, each with its own bounded tries, and keeps count of what they cost: what is not
 * known to be free has been paid.
 *
 * A1  A try that left the process and brought no usage costs the most that it could come to.
 * A2  Free are a connection that was never made and a complete refusal (4xx, 503) before any
 *     output.
 * A3  A further try is made only while the session's budget covers the most that it can come to.
 * A4  Each try is noted before it is made: whoever follows a gateway that died counts them all.
 * A5  A provider that is away, full or wants fewer calls is waited for in the queue, and that costs no
 *     try (doors.ts); what may have been paid for is tried so often as its Model says.
 */
import { backoffMs } from '../core/backoff.ts';
import { costMicrosOf, type Price } from '../core/budget/budget.ts';
import type { CallModel } from '../core/session/effects.ts';
import type { ModelReply, Paid } from '../core/session/messages.ts';
import { patienceMsOf } from '../core/session/model-spec.ts';
import type { Bundle } from '../core/session/specs.ts';
import { type Failure, failed, type Outcome } from '../core/tools/job.ts';
import type { Clock } from '../ports/clock.ts';
import type { Model, Prompt } from '../ports/performers.ts';
import type { ModelDoors } from './doors.ts';
import type { Watched } from './watched.ts';

type Spec = Bundle['models'][number];

/** What the tries of one call have cost, and what they may. */
export class CallSpending {
  readonly #effect: CallModel;
  /** The most that a try of a gateway that tells nothing can have cost. */
  readonly #dearest: Paid;
  #tokens = 0;
  #costMicros = 0;
  #others = 0;
  /** Tries that were made by this process. */
  attempts = 0;
  /** Of them those that certainly cost nothing. */
  freeAttempts = 0;

  /** @param triesOfOthers  that may have been made: before this one, or beside it */
  constructor(effect: CallModel, models: readonly Spec[], triesOfOthers: number) {
    this.#effect = effect;
    const bounds = models.map((spec) => this.#boundOf(spec.price));
    this.#dearest = {
      tokens: effect.tokensReserved,
      costMicros: Math.max(0, ...bounds.map(({ costMicros }) => costMicros)),
    };
    this.othersTried(triesOfOthers);
  }

  /** Never more than the session has put aside for this call. */
  get paid(): Paid {
    const { budget } = this.#effect;
    return {
      tokens: Math.min(this.#tokens, budget?.tokens ?? Number.MAX_SAFE_INTEGER),
      costMicros: Math.min(this.#costMicros, budget?.costMicros ?? Number.MAX_SAFE_INTEGER),
    };
  }

  othersTried(count: number): void {
    this.#others += count;
    const { tokens, costMicros } = this.#dearest;
    this.#add({ tokens: count * tokens, costMicros: count * costMicros });
  }

  /** Tries of all gateways that made this call. */
  get attemptsOfAll(): number {
    return this.#others + this.attempts;
  }

  /** May another try be made at this price? A session of an earlier version sets no bound. */
  allows({ price }: Spec): boolean {
    const { budget } = this.#effect;
    if (!budget) return true;
    const { tokens, costMicros } = this.#boundOf(price);
    return (
      this.#tokens + tokens <= budget.tokens && this.#costMicros + costMicros <= budget.costMicros
    );
  }

  failed({ price }: Spec, { hasBegun }: Pick<Failure, 'hasBegun'>): void {
    if (hasBegun === false) this.freeAttempts += 1;
    else this.#add(this.#boundOf(price));
  }

  /**
   * @returns the usage that counts, and its cost: the most it can be where the provider told none
   */
  answered(
    { price }: Spec,
    told: ModelReply['usage'] | undefined,
  ): { usage: ModelReply['usage']; costMicros: number } {
    const { tokensReserved, outputTokensMax } = this.#effect;
    const usage = told ?? {
      promptTokens: Math.max(0, tokensReserved - outputTokensMax),
      completionTokens: outputTokensMax,
      cachedTokens: 0,
    };
    const costMicros = costMicrosOf(price, usage);
    this.#add({ tokens: usage.promptTokens + usage.completionTokens, costMicros });
    return { usage, costMicros };
  }

  #boundOf(price: Price): Paid {
    const { tokensReserved, outputTokensMax: completionTokens } = this.#effect;
    const promptTokens = Math.max(0, tokensReserved - completionTokens);
    const costMicros = costMicrosOf(price, { promptTokens, completionTokens, cachedTokens: 0 });
    return { tokens: tokensReserved, costMicros };
  }

  #add({ tokens, costMicros }: Paid): void {
    this.#tokens += tokens;
    this.#costMicros += costMicros;
  }
}

export interface Asked {
  readonly outcome: Outcome<Omit<ModelReply, 'attempts' | 'spent'>>;
  /** The provider that was asked last. */
  readonly model: string;
  /** Nobody waits for it any more. */
  readonly isSettled?: boolean;
}

export interface Asking {
  readonly effect: CallModel;
  /** When its session asked, epoch ms. */
  readonly askedAt: number;
  readonly prompt: Prompt;
  readonly models: readonly Spec[];
  readonly spending: CallSpending;
  readonly signal: AbortSignal;
  /** Whoever watches hears the answer as it comes. */
  readonly watched?: Watched | undefined;
  /** Told when a provider is asked, and when it has answered. */
  readonly onAsking: (isAsking: boolean) => void;
  /**
   * Before each try but the first, which was noted with the claim.
   *
   * @returns false when nobody waits any more. @throws Unavailable; Later when another is at it
   */
  readonly noteTry: () => Promise<boolean>;
  /** Before the first try, when nothing else stands in its way. @throws Later; Unavailable */
  readonly charge?: (() => Promise<void>) | undefined;
}

/** Failures of one whose connections break: it may be starting again. */
const away: ReadonlySet<string> = new Set(['MODEL_UNREACHABLE', 'MODEL_STREAM_BROKEN']);

const restartMs = 10_000; // a server that starts again and loads its model

export async function askAll(
  { effect, askedAt, prompt, models, spending, signal, watched, onAsking, noteTry, charge }: Asking,
  {
    model,
    clock,
    doors,
  }: { readonly model: Model; readonly clock: Clock; readonly doors: ModelDoors },
): Promise<Asked> {
  let last: Failure = {
    class: 'permanent',
    code: 'MODEL_MISSING',
    message: `agent ${effect.agent} has no model`,
  };
  let name = 'none';
  let isTooDear = false;
  for (const spec of models) {
    name = spec.name;
    const hasFallback = spec !== models.at(-1);
    const { id: call, tokensReserved: tokens, deadlineAt } = effect;
    const asker = { call: call as string, tokens, askedAt, deadlineAt, hasFallback };
    for (let attempt = 0; attempt < spec.attempts; attempt += 1) {
      isTooDear = !spending.allows(spec);
      if (isTooDear) break;
      const givenUp = await doors.enter(spec, asker, spending.attempts === 0 ? charge : undefined);
      if (givenUp) {
        last = givenUp;
        break;
      }
      let isWaitedFor = true;
      try {
        if (spending.attempts > 0) isWaitedFor = await noteTry();
      } catch (error) {
        await doors.leave(asker);
        throw error;
      }
      if (!isWaitedFor) {
        await doors.leave(asker);
        const outcome = failed('permanent', 'CANCELLED', 'nobody waits for the answer any more');
        return { outcome, model: name, isSettled: true };
      }
      spending.attempts += 1;
      onAsking(true);
      watched?.begin(spending.attemptsOfAll);
      const outcome = await model
        .complete(spec, prompt, { signal, ...(watched ? { onText: watched.text } : {}) })
        .catch((error: unknown) => {
          spending.failed(spec, {}); // for all that anybody knows it was asked, and is paid for
          throw error;
        })
        .finally(async () => {
          onAsking(false);
          await doors.leave(asker);
        });
      watched?.end(outcome.ok);
      if (outcome.ok) {
        await doors.answered(spec);
        const { usage, ...answer } = outcome.value;
        const value = { ...answer, ...spending.answered(spec, usage) };
        return { outcome: { ok: true, value }, model: name };
      }
      last = outcome.failure;
      spending.failed(spec, last);
      if (signal.aborted || last.class !== 'transient') break;
      if (last.hasBegun === false) {
        last = (await doors.refused(spec, asker, last)) ?? last;
        break;
      }
      const { backoffMs: baseMs } = spec;
      const { retryAfterMs } = last;
      const soonMs = backoffMs({
        baseMs,
        maxMs: 20_000,
        attempt,
        retryAfterMs,
        chance: Math.random(),
      });
      // Tries are few, for each may be paid: the last is kept for when a restart is over.
      const isAway = away.has(last.code) && !hasFallback && attempt + 2 === spec.attempts;
      const waitMs = isAway
        ? Math.max(soonMs, Math.min(restartMs, baseMs * 40, patienceMsOf(spec, false) / 2))
        : soonMs;
      // A wait that its session does not survive, or that another model spares, is not waited for.
      if (waitMs >= Math.min(patienceMsOf(spec, hasFallback), deadlineAt - clock.now())) break;
      if (attempt + 1 < spec.attempts) await clock.sleep(waitMs, signal);
    }
    if (signal.aborted) break;
  }
  const { attempts } = spending;
  if (isTooDear && attempts === 0) {
    last = {
      class: 'permanent',
      code: 'MODEL_BUDGET',
      message: 'an earlier try may have been paid for, and the budget does not cover another',
    };
  }
  const tries = `after ${attempts} ${attempts === 1 ? 'try' : 'tries'}`;
  const why = isTooDear ? `${tries}; the budget does not cover another` : tries;
  return {
    outcome: failed(
      last.class === 'transient' ? 'permanent' : last.class,
      last.code,
      `${last.message} (${why})`,
    ),
    model: name,
  };
}
