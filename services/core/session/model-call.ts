/** The next model call: what it may cost at the most, reserved before it, settled after it. */
import {
  add,
  costMicrosOf,
  dearest,
  exceeded,
  nothing,
  promptTokensBound,
  type Spending,
} from '../budget/budget.ts';
import { limits } from '../limits.ts';
import type { AgentContext } from './agent-context.ts';
import { bytesOf, type Entry } from './conversation.ts';
import type { CallModel } from './effects.ts';
import type { ModelReply } from './messages.ts';
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
  const attempts = bundle.models.reduce(
    (sum, model) => sum + model.attempts * (model.timeoutMs + model.backoffMs * 8),
    0,
  );
  return {
    ok: true,
    context: { ...context, reserved: add(context.reserved, further) },
    effect: {
      kind: 'callModel',
      id: nextId(around),
      ...addressOf(around, attempts + limits.deadlineSlackMs),
      from: context.from,
      to: context.length,
      purpose,
      outputTokensMax: completion,
      tokensReserved: further.tokens,
    },
  };
}

/** The prompt has outgrown what the agent allows: summarise before going on. */
export const isContextFull = (context: AgentContext, around: Surroundings): boolean =>
  context.length - context.from > 4 && context.seenTokens > around.bundle.agent.contextTokensMax;

/** A model call came back, one way or the other: what was reserved for it is free again, what it cost is spent. */
export function settleModelCall(
  context: AgentContext,
  reply: ModelReply | undefined,
): AgentContext {
  const reservedForCalls = Object.values(context.calls).reduce(
    (sum, call) => (call.reserved ? add(sum, call.reserved) : sum),
    nothing,
  );
  const spent = reply
    ? add(context.spent, {
        steps: 1,
        toolCalls: 0,
        tokens: reply.usage.promptTokens + reply.usage.completionTokens,
        costMicros: reply.costMicros,
      })
    : add(context.spent, { ...nothing, steps: 1 });
  return { ...context, spent, reserved: reservedForCalls };
}

/** After a summary: the prompt begins with it. */
export function planSummary(before: AgentContext, reply: ModelReply, around: Surroundings): Plan {
  const entry: Entry = { role: 'summary', content: reply.content };
  const settled = settleModelCall(before, reply);
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
