/** The next model call: what it may cost at the most, reserved before it, settled after it. */
import {
  add,
  costMicrosOf,
  dearest,
  exceeded,
  leftOf,
  nothing,
  promptTokensBound,
  type Spending,
  subtract,
} from '../budget/budget.ts';
import { limits } from '../limits.ts';
import type { AgentContext } from './agent-context.ts';
import { behaviourOf } from './behaviour.ts';
import { bytesOf, type Entry } from './conversation.ts';
import type { CallModel } from './effects.ts';
import type { ModelReply, Paid } from './messages.ts';
import { patienceMsOf, totalMsOf } from './model-spec.ts';
import { addressOf, nextId, type Plan, type Surroundings } from './plan.ts';
import type { Bundle } from './specs.ts';

const fixedBytes = new WeakMap<Bundle, number>();

/** Instructions and tool definitions are part of every prompt. */
export function fixedBytesOf(bundle: Bundle): number {
  const known = fixedBytes.get(bundle);
  if (known !== undefined) return known;
  const tools = Object.entries(bundle.tools).map(([name, tool]) => [
    name,
    tool.description,
    tool.input,
  ]);
  const bytes =
    Buffer.byteLength(bundle.agent.instructions) +
    Buffer.byteLength(JSON.stringify([tools, bundle.agents])) +
    64;
  fixedBytes.set(bundle, bytes);
  return bytes;
}

/** Upper bound of the next prompt, tokens. */
export function promptBound(context: AgentContext, around: Surroundings): number {
  const tokens = context.seenTokens > 0 ? context.seenTokens : fixedBytesOf(around.bundle);
  return promptTokensBound({
    tokens,
    bytesAfter: context.bytesAfter,
    messagesAfter: context.messagesAfter,
  });
}

/** How long all tries of a call may take, ms, and what its providers are waited for. */
export function askedWithinMs({ models, ...bundle }: Pick<Bundle, 'models' | 'behaviour'>): number {
  const tries = models.reduce(
    (sum, model) => sum + model.attempts * (model.timeoutMs + model.backoffMs * 8),
    0,
  );
  if (behaviourOf(bundle) < 4) return tries;
  return models.reduce(
    (sum, model) =>
      sum + totalMsOf(model) - model.timeoutMs + patienceMsOf(model, model !== models.at(-1)),
    tries,
  );
}

export type ModelCallPlan =
  | { readonly ok: true; readonly context: AgentContext; readonly effect: CallModel }
  | { readonly ok: false; readonly code: string; readonly reason: string };

/** Reserve the dearest that the next model call can come to, or say which limit forbids it. */
export function planModelCall(
  context: AgentContext,
  around: Surroundings,
  purpose: 'turn' | 'summary',
): ModelCallPlan {
  const { bundle } = around;
  const prompt = promptBound(context, around);
  const completion = bundle.agent.outputTokensMax;
  const costMicros = costMicrosOf(dearest(bundle.models.map((model) => model.price)), {
    promptTokens: prompt,
    completionTokens: completion,
    cachedTokens: 0,
  });
  const further: Spending = { steps: 1, toolCalls: 0, tokens: prompt + completion, costMicros };
  const limit = exceeded(context.limits, context.spent, context.reserved, further);
  if (limit) {
    return {
      ok: false,
      code: `LIMIT_${limit.toUpperCase()}`,
      reason: `the next model call would exceed the limit of ${limit}: ${context.spent[limit]} spent, ${further[limit]} needed, ${context.limits[`${limit}Max`]} allowed`,
    };
  }
  // A gateway may try again, and what it tries is paid for: held back is what all tries may cost.
  const tries = bundle.models.reduce((sum, model) => sum + model.attempts, 0);
  const left = leftOf(context.limits, context.spent, context.reserved);
  const budget = {
    tokens: Math.min(left.tokens, further.tokens * tries),
    costMicros: Math.min(left.costMicros, costMicros * tries),
  };
  const holdsAll = behaviourOf(bundle) >= 2;
  const reserved = holdsAll ? { ...further, ...budget } : further;
  return {
    ok: true,
    context: { ...context, reserved: add(context.reserved, reserved) },
    effect: {
      kind: 'callModel',
      id: nextId(around),
      ...addressOf(around, askedWithinMs(bundle) + limits.deadlineSlackMs),
      from: context.from,
      to: context.length,
      purpose,
      ...(purpose === 'summary' && context.isShortened ? { isTooLong: true } : {}),
      outputTokensMax: completion,
      tokensReserved: further.tokens,
      ...(holdsAll ? { budget } : {}),
    },
  };
}

/** Tokens of a prompt, so that it and its answer fit every Model of the agent. */
export function contextLimitOf({ agent, models }: Pick<Bundle, 'agent' | 'models'>): number {
  const windows = models.flatMap(({ contextTokens }) =>
    contextTokens === undefined ? [] : [Math.max(1, contextTokens - agent.outputTokensMax)],
  );
  return Math.min(agent.contextTokensMax, ...windows);
}

const bytesPerToken = 3; // of what no provider has counted yet: text of most languages has three to four

/** The prompt has outgrown what the agent allows: summarise before going on. */
export function isContextFull(context: AgentContext, { bundle }: Surroundings): boolean {
  const { length, from, seenTokens, bytesAfter, messagesAfter } = context;
  if (behaviourOf(bundle) < 4)
    return length - from > 4 && seenTokens > bundle.agent.contextTokensMax;
  const limit = contextLimitOf(bundle);
  const next = seenTokens + Math.ceil(bytesAfter / bytesPerToken) + 16 * messagesAfter;
  // So little is summarised only where it has just grown: what a provider took it takes again.
  return next > limit && (length - from > 4 || (length - from > 2 && seenTokens <= limit));
}

const turnsKept = 3; // stay word for word when the rest is summarised, if they are short

/** With the turn that begins with this answer. */
export function turnsWith(
  { turns = [], length, bytesAfter }: AgentContext,
  spoken: Entry,
): NonNullable<AgentContext['turns']> {
  const before = turns.map((turn, index) =>
    index === turns.length - 1 ? { ...turn, bytes: turn.bytes + bytesAfter } : turn,
  );
  return [...before, { at: length, bytes: bytesOf(spoken) }].slice(-turnsKept);
}

/** The last turns that fit a quarter of the prompt: they need not be told again. */
function keptTurns(
  { turns = [], bytesAfter }: AgentContext,
  bundle: Bundle,
): { readonly at: number; readonly bytes: number } | undefined {
  const bytesMax = (contextLimitOf(bundle) * bytesPerToken) / 4;
  let kept: { at: number; bytes: number } | undefined;
  for (const { at, bytes } of turns.toReversed()) {
    const all = bytes + (kept?.bytes ?? bytesAfter);
    if (all > bytesMax) return kept;
    kept = { at, bytes: all };
  }
  return kept;
}

/** What a reply cost: its own usage, and since behaviour 2 what the tries before it cost. */
export function paidFor(reply: ModelReply, { bundle }: Pick<Surroundings, 'bundle'>): Paid {
  if (behaviourOf(bundle) >= 2 && reply.spent) return reply.spent;
  const { promptTokens, completionTokens } = reply.usage;
  return { tokens: promptTokens + completionTokens, costMicros: reply.costMicros };
}

/** All that the tries of the call under way may cost: it counts where nobody knows that it was free. */
export function heldForModel(context: AgentContext): Paid {
  const { tokens, costMicros } = subtract(context.reserved, heldForCalls(context));
  return { tokens, costMicros };
}

const free: Paid = { tokens: 0, costMicros: 0 };

/** What a call cost that brought no answer. @param told  by its gateway; undefined when none told */
export function paidForFailure(
  context: AgentContext,
  { bundle }: Pick<Surroundings, 'bundle'>,
  told: { readonly spent?: Paid | undefined; readonly attempts: number } | undefined,
): Paid {
  if (behaviourOf(bundle) < 2) return free;
  if (told?.attempts === 0) return told.spent ?? free;
  return told?.spent ?? heldForModel(context);
}

const heldForCalls = (context: AgentContext): Spending =>
  Object.values(context.calls).reduce(
    (sum, call) => (call.reserved ? add(sum, call.reserved) : sum),
    nothing,
  );

/** A model call came back, one way or the other: what was held for it is free again. */
export function settleModelCall(context: AgentContext, paid: Paid): AgentContext {
  const { tokens, costMicros } = paid;
  return {
    ...context,
    spent: add(context.spent, { steps: 1, toolCalls: 0, tokens, costMicros }),
    reserved: heldForCalls(context),
  };
}

/** Half of an answer, or the word that there will be none, must not pass for an answer. */
export function noAnswerIn({
  finish,
  content,
}: ModelReply): { readonly code: string; readonly reason: string } | undefined {
  const words = content.trim().slice(0, 300);
  if (finish === 'content_filter') {
    const began = words ? `; it began: ${words}` : '';
    return { code: 'MODEL_FILTERED', reason: `the provider filtered the answer${began}` };
  }
  if (finish === 'refusal')
    return { code: 'MODEL_REFUSAL', reason: `the model refused: ${words || 'without a word'}` };
  return undefined;
}

/** One that is empty, cut or a call says too little to go on from. */
export const isSummary = ({
  content,
  calls,
  finish,
}: Pick<ModelReply, 'content' | 'calls' | 'finish'>): boolean =>
  content.trim() !== '' &&
  calls.length === 0 &&
  !['length', 'content_filter', 'refusal'].includes(finish);

/** After a summary: the prompt begins with it. */
export function planSummary(before: AgentContext, reply: ModelReply, around: Surroundings): Plan {
  const entry: Entry = { role: 'summary', content: reply.content };
  const settled = settleModelCall(before, paidFor(reply, around));
  // The conversation stays as it is: what was asked and done must not be forgotten.
  if (behaviourOf(around.bundle) >= 3 && !isSummary(reply))
    return { context: settled, entries: [], effects: [] };
  if (behaviourOf(around.bundle) >= 4) return afterSummary(settled, entry, around);
  const context: AgentContext = {
    ...settled,
    from: settled.length,
    length: settled.length + 1,
    seenTokens: fixedBytesOf(around.bundle),
    bytesAfter: bytesOf(entry),
    messagesAfter: 1,
  };
  return { context, entries: [entry], effects: [] };
}

/** The summary, and the last turns as they were; in the prompt it stands before them. */
function afterSummary(settled: AgentContext, entry: Entry, { bundle }: Surroundings): Plan {
  const kept = keptTurns(settled, bundle);
  const from = kept?.at ?? settled.length;
  const context: AgentContext = {
    ...settled,
    from,
    length: settled.length + 1,
    seenTokens: fixedBytesOf(bundle),
    bytesAfter: bytesOf(entry) + (kept?.bytes ?? 0),
    messagesAfter: 1 + settled.length - from,
    turns: [],
  };
  return { context, entries: [entry], effects: [] };
}
