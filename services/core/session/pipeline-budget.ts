/**
 * What a session with a user's own machine may spend and has spent (since behaviour 2): the same
 * limits as those of the default agent, held back before a call and settled after it.
 */
import {
  add,
  type BudgetLimits,
  costMicrosOf,
  dearest,
  exceeded,
  leftOf,
  nothing,
  reservationOf,
  type Spending,
  shareOf,
} from '../budget/budget.ts';
import { having, without } from '../keyed.ts';
import type { PendingEffect } from './effects.ts';
import type { SessionRecord } from './record.ts';
import type { Bundle } from './specs.ts';

export type PipelineBudget = NonNullable<SessionRecord['budget']>;

export const freshBudget = (limits: BudgetLimits): PipelineBudget => ({
  limits,
  spent: nothing,
  held: {},
});

export type Reserved =
  | {
      readonly ok: true;
      readonly budget: PipelineBudget;
      readonly effects: readonly PendingEffect[];
    }
  | { readonly ok: false; readonly reason: string };

const heldOf = ({ held }: PipelineBudget): Spending => Object.values(held).reduce(add, nothing);

/** Hold back what the effects of one step may cost, or say which limit forbids them. */
export function reserve(
  before: PipelineBudget,
  wanted: readonly PendingEffect[],
  bundle: Bundle,
): Reserved {
  const calls = wanted.filter(({ kind }) => kind === 'runTool' || kind === 'startAgent').length;
  const { limits } = before;
  let budget: PipelineBudget = {
    ...before,
    spent: add(before.spent, { ...nothing, toolCalls: calls }),
  };
  const count = wanted.filter(({ kind }) => kind === 'startAgent').length;
  const left = leftOf(limits, budget.spent, heldOf(budget));
  if (left.toolCalls < 0) return refusal('TOOLCALLS', `${calls} calls wanted`);
  const effects: PendingEffect[] = [];
  for (const effect of wanted) {
    if (effect.kind === 'startAgent') {
      const share = shareOf(left, count, effect.limits);
      if (share.stepsMax < 1 || share.tokensMax < 1 || share.costMicrosMax < 1) {
        return refusal('DELEGATION', 'no budget is left to delegate');
      }
      effects.push({ ...effect, limits: share });
      budget = holding(budget, effect.id, reservationOf(share));
    } else if (effect.kind === 'callModel') {
      const completionTokens = effect.outputTokensMax;
      const promptTokens = effect.tokensReserved - completionTokens;
      const costMicros = costMicrosOf(dearest(bundle.models.map(({ price }) => price)), {
        promptTokens,
        completionTokens,
        cachedTokens: 0,
      });
      const further = { steps: 1, toolCalls: 0, tokens: effect.tokensReserved, costMicros };
      const limit = exceeded(limits, budget.spent, heldOf(budget), further);
      if (limit) return refusal(limit.toUpperCase(), `a model call would exceed it`);
      const tries = bundle.models.reduce((sum, model) => sum + model.attempts, 0);
      const now = leftOf(limits, budget.spent, heldOf(budget));
      const all = {
        tokens: Math.min(now.tokens, further.tokens * tries),
        costMicros: Math.min(now.costMicros, costMicros * tries),
      };
      effects.push({ ...effect, budget: all });
      budget = holding(budget, effect.id, { steps: 1, toolCalls: 0, ...all });
    } else effects.push(effect);
  }
  return { ok: true, budget, effects };
}

const refusal = (limit: string, why: string): Reserved => ({
  ok: false,
  reason: `LIMIT_${limit}: ${why}`,
});

const holding = (budget: PipelineBudget, id: string, held: Spending): PipelineBudget => ({
  ...budget,
  held: having(budget.held, id, held),
});

/** An effect is over. @param paid  what it cost; undefined where nobody knows: all that was held */
export function settled(
  budget: PipelineBudget,
  id: string,
  paid: Spending | undefined,
): PipelineBudget {
  const held = budget.held[id] ?? nothing;
  return { ...budget, spent: add(budget.spent, paid ?? held), held: without(budget.held, id) };
}
