/**
 * Budgets as pure arithmetic: reserve before the call, settle after it.
 *
 * Money is whole micro-dollars, prices are micro-dollars per million tokens. A reservation is an
 * upper bound, so `spent + reserved <= limit` before a call means `spent <= limit` after it.
 */
import { z } from 'zod';

export const priceSchema = z
  .object({
    inputMicrosPerMillion: z
      .number()
      .int()
      .nonnegative()
      .describe('micro-dollars for a million prompt tokens'),
    outputMicrosPerMillion: z
      .number()
      .int()
      .nonnegative()
      .describe('micro-dollars for a million completion tokens'),
    cachedMicrosPerMillion: z
      .number()
      .int()
      .nonnegative()
      .optional()
      .describe('for prompt tokens served from the provider cache'),
    cacheWriteMicrosPerMillion: z
      .number()
      .int()
      .nonnegative()
      .optional()
      .describe(
        'for prompt tokens that were written to its cache; default: 1.25 times the input, as Anthropic asks',
      ),
  })
  .strict();
export type Price = z.infer<typeof priceSchema>;

export interface Usage {
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly cachedTokens: number;
  /** Of the prompt, written to the provider's cache. */
  readonly cacheWriteTokens?: number | undefined;
}

export const limitsSchema = z
  .object({
    stepsMax: z
      .number()
      .int()
      .positive()
      .default(40)
      .describe('model calls; a session that needs more goes in circles'),
    toolCallsMax: z
      .number()
      .int()
      .nonnegative()
      .default(100)
      .describe('tool calls, delegations included'),
    tokensMax: z
      .number()
      .int()
      .positive()
      .default(500_000)
      .describe('prompt and completion tokens together'),
    costMicrosMax: z.number().int().positive().default(2_000_000).describe('micro-dollars'),
    wallClockMs: z
      .number()
      .int()
      .positive()
      .default(86_400_000)
      .describe('milliseconds from the task to its end'),
  })
  .strict();
export type BudgetLimits = z.infer<typeof limitsSchema>;

const narrower = z.number().int().positive().optional();
/** Limits that a single task may set for itself: no defaults, so that nothing it does not name is touched. */
export const narrowerLimitsSchema = z
  .object({
    stepsMax: narrower,
    toolCallsMax: z.number().int().nonnegative().optional(),
    tokensMax: narrower,
    costMicrosMax: narrower,
    wallClockMs: narrower,
  })
  .strict();

/** What a task asks for itself: less than its agent allows, never more. */
export const narrowed = (
  allowed: BudgetLimits,
  asked: Partial<BudgetLimits>,
): Partial<BudgetLimits> =>
  Object.fromEntries(
    Object.entries(asked).map(([name, value]) => [
      name,
      Math.min(value, allowed[name as keyof BudgetLimits]),
    ]),
  );

/** Of what a parent has left, for all the children that one turn begins: it must go on after them. */
const childrenShareMax = 0.5;

export interface Spending {
  readonly steps: number;
  readonly toolCalls: number;
  readonly tokens: number;
  readonly costMicros: number;
}
export const nothing: Spending = { steps: 0, toolCalls: 0, tokens: 0, costMicros: 0 };

export function add(left: Spending, right: Spending): Spending {
  return {
    steps: left.steps + right.steps,
    toolCalls: left.toolCalls + right.toolCalls,
    tokens: left.tokens + right.tokens,
    costMicros: left.costMicros + right.costMicros,
  };
}

/** Rounds up: a fraction of a micro-dollar is never given away. */
export function costMicrosOf(price: Price, usage: Usage): number {
  const cached = Math.min(usage.cachedTokens, usage.promptTokens);
  const cachedPrice = price.cachedMicrosPerMillion ?? price.inputMicrosPerMillion;
  const written = Math.min(usage.cacheWriteTokens ?? 0, usage.promptTokens - cached);
  const sum =
    (usage.promptTokens - cached - written) * price.inputMicrosPerMillion +
    cached * cachedPrice +
    written * (price.cacheWriteMicrosPerMillion ?? price.inputMicrosPerMillion * 1.25) +
    usage.completionTokens * price.outputMicrosPerMillion;
  return Math.ceil(sum / 1_000_000);
}

/** The most that any of several prices asks: a call may fall back to another provider. */
export function dearest(prices: readonly Price[]): Price {
  return {
    inputMicrosPerMillion: Math.max(
      0,
      ...prices.map((price) =>
        Math.max(
          price.inputMicrosPerMillion,
          price.cachedMicrosPerMillion ?? 0,
          price.cacheWriteMicrosPerMillion ?? 0,
        ),
      ),
    ),
    outputMicrosPerMillion: Math.max(0, ...prices.map((price) => price.outputMicrosPerMillion)),
  };
}

/**
 * Upper bound of a prompt's tokens: what the provider counted for the part it has seen, and one token
 * a byte for the rest (a byte-level BPE never makes more tokens than bytes), 16 per message for framing.
 */
export function promptTokensBound(seen: {
  tokens: number;
  bytesAfter: number;
  messagesAfter: number;
}): number {
  return seen.tokens + seen.bytesAfter + 16 * seen.messagesAfter;
}

export type LimitName = 'steps' | 'toolCalls' | 'tokens' | 'costMicros';

/** Which limit a further reservation would break, if any. */
export function exceeded(
  limits: BudgetLimits,
  spent: Spending,
  reserved: Spending,
  further: Spending,
): LimitName | undefined {
  const sum = add(add(spent, reserved), further);
  if (sum.steps > limits.stepsMax) return 'steps';
  if (sum.toolCalls > limits.toolCallsMax) return 'toolCalls';
  if (sum.tokens > limits.tokensMax) return 'tokens';
  if (sum.costMicros > limits.costMicrosMax) return 'costMicros';
  return undefined;
}

export const subtract = (left: Spending, right: Spending): Spending => ({
  steps: left.steps - right.steps,
  toolCalls: left.toolCalls - right.toolCalls,
  tokens: left.tokens - right.tokens,
  costMicros: left.costMicros - right.costMicros,
});

/** What is neither spent nor reserved. */
export const leftOf = (limits: BudgetLimits, spent: Spending, reserved: Spending): Spending =>
  subtract(reservationOf(limits), add(spent, reserved));

/** One of `count` children that a turn begins together: what it asks for, never more than its share. */
export function shareOf(left: Spending, count: number, wanted: BudgetLimits): BudgetLimits {
  const part = (have: number, want: number) =>
    Math.max(0, Math.min(want, Math.floor((have * childrenShareMax) / count)));
  return {
    stepsMax: part(left.steps, wanted.stepsMax),
    toolCallsMax: part(left.toolCalls, wanted.toolCallsMax),
    tokensMax: part(left.tokens, wanted.tokensMax),
    costMicrosMax: part(left.costMicros, wanted.costMicrosMax),
    wallClockMs: wanted.wallClockMs,
  };
}

/** A child's budget: what it asks for, never more than what its parent has left (behaviour 1). */
export function carve(
  limits: BudgetLimits,
  spent: Spending,
  reserved: Spending,
  wanted: BudgetLimits,
): BudgetLimits {
  const taken = add(spent, reserved);
  const left = (limit: number, used: number, want: number) =>
    Math.max(0, Math.min(want, limit - used));
  return {
    stepsMax: left(limits.stepsMax, taken.steps, wanted.stepsMax),
    toolCallsMax: left(limits.toolCallsMax, taken.toolCalls, wanted.toolCallsMax),
    tokensMax: left(limits.tokensMax, taken.tokens, wanted.tokensMax),
    costMicrosMax: left(limits.costMicrosMax, taken.costMicros, wanted.costMicrosMax),
    wallClockMs: wanted.wallClockMs,
  };
}

export function reservationOf(limits: BudgetLimits): Spending {
  return {
    steps: limits.stepsMax,
    toolCalls: limits.toolCallsMax,
    tokens: limits.tokensMax,
    costMicros: limits.costMicrosMax,
  };
}
