/**
 * What a message means to an agent: pure functions from context and message to a plan.
 *
 * The machine's guards read the plan and choose; its actions take what they need from it. Every id and
 * every time in a plan comes from the envelope, so the same message makes the same plan again.
 */
import canonicalize from 'canonicalize';
import { z } from 'zod';
import { add, carve, costMicrosOf, dearest, exceeded, nothing, promptTokensBound, reservationOf, type Spending } from '../budget/budget.ts';
import { issuesOf } from '../errors.ts';
import { type AgentName, type EffectId, effectIdOf, type Revision, type SessionId, sessionIdOf, sha256, type TenantId } from '../ids.ts';
import { limits } from '../limits.ts';
import type { AgentContext, OpenApproval, OpenCall } from './agent-context.ts';
import { bytesOf, type Entry } from './conversation.ts';
import type { CallModel, Effect } from './effects.ts';
import type { ModelReply, ToolCall } from './messages.ts';
import type { ApprovalRule, Bundle } from './specs.ts';

/** What a step is given besides context and message. */
export interface Surroundings {
  readonly tenant: TenantId;
  readonly session: SessionId;
  readonly agent: AgentName;
  readonly revision: Revision;
  readonly traceparent?: string | undefined;
  readonly version: number;
  readonly at: number;
  readonly bundle: Bundle;
  /** Counts the effects of this step. */
  readonly ids: { count: number };
}

export interface Plan {
  readonly context: AgentContext;
  readonly entries: readonly Entry[];
  readonly effects: readonly Effect[];
  /** Why the session must stop here, if it must. */
  readonly stop?: { readonly code: string; readonly reason: string } | undefined;
  readonly isLooping?: string | undefined;
  readonly answer?: string | undefined;
}

export const nextId = (around: Surroundings): EffectId => effectIdOf(around.session, around.version, around.ids.count++);

const addressOf = (around: Surroundings, deadlineMs: number) => ({
  tenant: around.tenant,
  session: around.session,
  agent: around.agent,
  revision: around.revision,
  deadlineAt: around.at + deadlineMs,
  ...(around.traceparent ? { traceparent: around.traceparent } : {}),
});

/** Append entries: the bytes count as unseen until the provider has counted them. */
export function append(context: AgentContext, entries: readonly Entry[]): AgentContext {
  let bytes = 0;
  for (const entry of entries) bytes += bytesOf(entry);
  return {
    ...context,
    length: context.length + entries.length,
    bytesAfter: context.bytesAfter + bytes,
    messagesAfter: context.messagesAfter + entries.length,
  };
}

// ---- the next model call ----------------------------------------------------------------------

const fixedBytes = new WeakMap<Bundle, number>();

/** Instructions and tool definitions are part of every prompt. */
export function fixedBytesOf(bundle: Bundle): number {
  const known = fixedBytes.get(bundle);
  if (known !== undefined) return known;
  const tools = Object.entries(bundle.tools).map(([name, tool]) => [name, tool.description, tool.input]);
  const bytes = Buffer.byteLength(bundle.agent.instructions) + Buffer.byteLength(JSON.stringify([tools, bundle.agents])) + 64;
  fixedBytes.set(bundle, bytes);
  return bytes;
}

/** Upper bound of the next prompt, tokens. */
export function promptBound(context: AgentContext, around: Surroundings): number {
  const tokens = context.seenTokens > 0 ? context.seenTokens : fixedBytesOf(around.bundle);
  return promptTokensBound({ tokens, bytesAfter: context.bytesAfter, messagesAfter: context.messagesAfter });
}

export type ModelCallPlan =
  | { readonly ok: true; readonly context: AgentContext; readonly effect: CallModel }
  | { readonly ok: false; readonly code: string; readonly reason: string };

/** Reserve the dearest that the next model call can come to, or say which limit forbids it. */
export function planModelCall(context: AgentContext, around: Surroundings, purpose: 'turn' | 'summary'): ModelCallPlan {
  const { bundle } = around;
  const prompt = promptBound(context, around);
  const completion = bundle.agent.outputTokensMax;
  const costMicros = costMicrosOf(dearest(bundle.models.map((model) => model.price)), { promptTokens: prompt, completionTokens: completion, cachedTokens: 0 });
  const further: Spending = { steps: 1, toolCalls: 0, tokens: prompt + completion, costMicros };
  const limit = exceeded(context.limits, context.spent, context.reserved, further);
  if (limit) {
    return {
      ok: false,
      code: `LIMIT_${limit.toUpperCase()}`,
      reason: `the next model call would exceed the limit of ${limit}: ${context.spent[limit]} spent, ${further[limit]} needed, ${context.limits[`${limit}Max`]} allowed`,
    };
  }
  const attempts = bundle.models.reduce((sum, model) => sum + model.attempts * (model.timeoutMs + model.backoffMs * 8), 0);
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
export function settleModelCall(context: AgentContext, reply: ModelReply | undefined): AgentContext {
  const reservedForCalls = Object.values(context.calls).reduce((sum, call) => (call.reserved ? add(sum, call.reserved) : sum), nothing);
  const spent = reply
    ? add(context.spent, { steps: 1, toolCalls: 0, tokens: reply.usage.promptTokens + reply.usage.completionTokens, costMicros: reply.costMicros })
    : add(context.spent, { ...nothing, steps: 1 });
  return { ...context, spent, reserved: reservedForCalls };
}

// ---- a turn: what the model wants -------------------------------------------------------------

type Checked =
  | { readonly ok: true; readonly call: ToolCall; readonly arguments: Record<string, unknown>; readonly signature: string }
  | { readonly ok: false; readonly call: ToolCall; readonly code: string; readonly message: string };

const validators = new WeakMap<object, z.ZodType | null>();

/** A JSON Schema as a zod schema, compiled once. A schema that zod cannot read checks nothing beyond "an object". */
export function validatorOf(schema: Record<string, unknown>): z.ZodType | null {
  const known = validators.get(schema);
  if (known !== undefined) return known;
  let compiled: z.ZodType | null;
  try {
    compiled = z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]);
  } catch {
    compiled = null;
  }
  validators.set(schema, compiled);
  return compiled;
}

export const delegateTool = 'delegate';
const delegateSchema = z.object({ agent: z.string(), input: z.string() });

function checkCall(call: ToolCall, bundle: Bundle): Checked {
  let parsed: unknown;
  try {
    parsed = JSON.parse(call.arguments === '' ? '{}' : call.arguments);
  } catch (error) {
    return { ok: false, call, code: 'ARGUMENTS_NOT_JSON', message: `the arguments of ${call.name} are not JSON: ${(error as Error).message.slice(0, 120)}` };
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    return { ok: false, call, code: 'ARGUMENTS_NOT_OBJECT', message: `the arguments of ${call.name} must be a JSON object` };
  }
  const isDelegation = call.name === delegateTool && Object.keys(bundle.agents).length > 0;
  const tool = bundle.tools[call.name];
  if (!isDelegation && !tool) {
    return { ok: false, call, code: 'TOOL_UNKNOWN', message: `there is no tool ${call.name}; there are: ${toolNamesOf(bundle).join(', ')}` };
  }
  const schema = isDelegation ? delegateSchema : validatorOf(tool!.input);
  const result = schema?.safeParse(parsed);
  if (result && !result.success) {
    return { ok: false, call, code: 'ARGUMENTS_INVALID', message: `the arguments of ${call.name} are refused: ${issuesOf(result.error)}` };
  }
  if (isDelegation && !bundle.agents[(parsed as { agent: string }).agent]) {
    return { ok: false, call, code: 'AGENT_UNKNOWN', message: `cannot delegate to ${(parsed as { agent: string }).agent}; there are: ${Object.keys(bundle.agents).join(', ')}` };
  }
  return { ok: true, call, arguments: parsed as Record<string, unknown>, signature: sha256(`${call.name}\n${canonicalize(parsed)}`).slice(0, 16) };
}

export const toolNamesOf = (bundle: Bundle): string[] => [...Object.keys(bundle.tools), ...(Object.keys(bundle.agents).length > 0 ? [delegateTool] : [])];

function ruleFor(rules: readonly ApprovalRule[], tool: string, args: Record<string, unknown>): ApprovalRule | undefined {
  return rules.find((rule) => {
    if (rule.tool !== tool) return false;
    if (!rule.when) return true;
    const value = args[rule.when.argument];
    // What is no number cannot be shown to be small: it needs a person as well.
    return typeof value !== 'number' || !(value <= rule.when.above);
  });
}

export function approvalHash(tool: string, canonicalArguments: string, expiresAt: number): string {
  return sha256(`${tool}\n${canonicalArguments}\n${expiresAt}`);
}

/** Turn one checked call into the effect that performs it. */
function startCall(context: AgentContext, around: Surroundings, checked: Extract<Checked, { ok: true }>): { context: AgentContext; effect: Effect } | { refusal: string } {
  const { call, arguments: args } = checked;
  const id = nextId(around);
  const { bundle } = around;
  const tool = bundle.tools[call.name];
  if (tool) {
    const tries = tool.retry.attempts * (tool.timeoutMs + tool.retry.backoffMaxMs);
    const open: OpenCall = { call: call.id, tool: call.name };
    return {
      context: { ...context, calls: { ...context.calls, [id]: open } },
      effect: { kind: 'runTool', id, ...addressOf(around, tries + limits.deadlineSlackMs), tool: call.name, class: tool.class, pool: tool.pool, arguments: args },
    };
  }
  const { agent, input } = args as { agent: AgentName; input: string };
  const target = bundle.agents[agent]!;
  const share = carve(context.limits, context.spent, context.reserved, target.limits);
  if (share.stepsMax < 1 || share.tokensMax < 1 || share.costMicrosMax < 1) return { refusal: 'no budget is left to delegate' };
  const child = sessionIdOf(around.tenant, agent, id);
  const reserved = reservationOf(share);
  return {
    context: {
      ...context,
      reserved: add(context.reserved, reserved),
      calls: { ...context.calls, [id]: { call: call.id, tool: `${delegateTool}:${agent}`, reserved, child } },
    },
    effect: {
      kind: 'startAgent',
      id,
      ...addressOf(around, share.wallClockMs + limits.deadlineSlackMs),
      child,
      childAgent: agent,
      childRevision: target.revision as Revision,
      input,
      limits: share,
    },
  };
}

const toolEntry = (call: string, tool: string, content: unknown): Entry => ({ role: 'tool', call, tool, content: JSON.stringify(content) });

/** The model has spoken. */
export function planReply(before: AgentContext, reply: ModelReply, around: Surroundings): Plan {
  const { bundle } = around;
  let context = settleModelCall(before, reply);
  const spoken: Entry = { role: 'assistant', content: reply.content, ...(reply.calls.length > 0 ? { calls: reply.calls } : {}) };
  // The provider has counted everything up to its own answer, and the answer itself.
  context = {
    ...context,
    length: context.length + 1,
    seenTokens: reply.usage.promptTokens + reply.usage.completionTokens,
    bytesAfter: 0,
    messagesAfter: 1,
    succeeded: 0,
  };
  const entries: Entry[] = [spoken];
  if (reply.calls.length === 0) {
    if (reply.content.trim() === '' || reply.finish === 'length') {
      const note: Entry = {
        role: 'user',
        content: reply.finish === 'length' ? 'Your answer was cut off at the length limit. Answer again, shorter.' : 'Your answer was empty. Call a tool or answer.',
      };
      return refusedTurn(append(context, [note]), [...entries, note], []);
    }
    return { context: { ...context, malformed: 0 }, entries, effects: [], answer: reply.content };
  }

  const effects: Effect[] = [];
  const errors: Entry[] = [];
  const toolCallsLeft = context.limits.toolCallsMax - context.spent.toolCalls - context.reserved.toolCalls;
  if (reply.calls.length > toolCallsLeft) {
    const reason = `${reply.calls.length} tool calls wanted, ${Math.max(0, toolCallsLeft)} of ${context.limits.toolCallsMax} left`;
    const unrun = notRun(reply.calls, reason);
    return { context: append(context, unrun), entries: [...entries, ...unrun], effects: [], stop: { code: 'LIMIT_TOOLCALLS', reason } };
  }
  let isLooping: string | undefined;
  for (const checked of reply.calls.map((call) => checkCall(call, bundle))) {
    context = { ...context, spent: add(context.spent, { ...nothing, toolCalls: 1 }) };
    if (!checked.ok) {
      errors.push(toolEntry(checked.call.id, checked.call.name, { error: { class: 'semantic', code: checked.code, message: checked.message } }));
      continue;
    }
    const times = (context.repeats[checked.signature] ?? 0) + 1;
    context = { ...context, repeats: remember(context.repeats, checked.signature, times) };
    if (times >= bundle.agent.loop.sameCallMax) isLooping = `${checked.call.name} was called ${times} times with the same arguments`;
    const rule = ruleFor(bundle.agent.approvals, checked.call.name, checked.arguments);
    if (rule) {
      const asked = askApproval(context, around, checked.call, checked.arguments, rule.expiresMs);
      context = asked.context;
      effects.push(asked.effect);
      continue;
    }
    const started = startCall(context, around, checked);
    if ('refusal' in started) {
      errors.push(toolEntry(checked.call.id, checked.call.name, { error: { class: 'permanent', code: 'BUDGET', message: started.refusal } }));
      continue;
    }
    context = started.context;
    effects.push(started.effect);
  }
  if (isLooping) {
    // Nothing of this turn is begun, and each call is told so: a conversation with unanswered calls is refused by model APIs.
    const unrun = notRun(reply.calls, isLooping);
    return { context: append({ ...context, calls: before.calls, approvals: before.approvals, reserved: nothing }, unrun), entries: [...entries, ...unrun], effects: [], isLooping };
  }
  context = append(context, errors);
  entries.push(...errors);
  if (effects.length === 0) return refusedTurn(context, entries, effects);
  return { context: { ...context, malformed: 0 }, entries, effects };
}

const notRun = (calls: readonly ToolCall[], reason: string): Entry[] =>
  calls.map((call) => toolEntry(call.id, call.name, { error: { class: 'permanent', code: 'NOT_RUN', message: `not run: ${reason}` } }));

/** Answer what is still open with "not run", so that the conversation can go on. */
export function closeOpenCalls(context: AgentContext): { context: AgentContext; entries: Entry[] } {
  const open = [...Object.values(context.calls), ...Object.values(context.approvals).filter(({ kind }) => kind === 'tool')];
  const entries = notRun(
    open.map(({ call, tool }) => ({ id: call, name: tool, arguments: '' })),
    'the task ended first',
  );
  return { context: append({ ...context, calls: {}, approvals: {}, reserved: nothing }, entries), entries };
}

const repeatsKept = 32;
function remember(repeats: AgentContext['repeats'], signature: string, times: number): AgentContext['repeats'] {
  const { [signature]: _, ...others } = repeats;
  const kept = Object.entries(others).slice(-(repeatsKept - 1));
  return { ...Object.fromEntries(kept), [signature]: times };
}

const malformedMax = 4; // semantic retries in a row: a model that cannot be helped by then will not be
function refusedTurn(context: AgentContext, entries: Entry[], effects: Effect[]): Plan {
  const malformed = context.malformed + 1;
  const next = { ...context, malformed };
  if (malformed <= malformedMax) return { context: next, entries, effects };
  return { context: next, entries, effects, stop: { code: 'MODEL_MALFORMED', reason: `${malformed} answers in a row that could not be used` } };
}

function askApproval(context: AgentContext, around: Surroundings, call: ToolCall, args: Record<string, unknown>, expiresMs: number) {
  const id = nextId(around);
  const expiresAt = around.at + expiresMs;
  const canonical = canonicalize(args) ?? '{}';
  const hash = approvalHash(call.name, canonical, expiresAt);
  const approval: OpenApproval = { kind: 'tool', call: call.id, tool: call.name, arguments: canonical, hash, expiresAt };
  return {
    context: { ...context, approvals: { ...context.approvals, [id]: approval } } satisfies AgentContext,
    effect: { kind: 'askHuman', id, ...addressOf(around, expiresMs), tool: call.name, hash } satisfies Effect,
  };
}

/** The session goes in circles: ask a person instead of failing. */
export function planEscalation(context: AgentContext, around: Surroundings, reason: string): { context: AgentContext; effect: Effect } {
  const id = nextId(around);
  const expiresAt = around.at + limits.approvalExpiryMs;
  const hash = approvalHash('escalation', canonicalize({ reason }) ?? '', expiresAt);
  const approval: OpenApproval = { kind: 'escalation', call: '', tool: 'escalation', arguments: canonicalize({ reason }) ?? '', hash, expiresAt, reason };
  return {
    context: { ...context, approvals: { ...context.approvals, [id]: approval } },
    effect: { kind: 'askHuman', id, ...addressOf(around, limits.approvalExpiryMs), tool: 'escalation', hash },
  };
}

// ---- results ----------------------------------------------------------------------------------

/** A call came back: well, badly, or from a child that spent part of our budget. */
export function planResult(before: AgentContext, effect: string, content: unknown, isOk: boolean, spent: Spending = nothing): Plan {
  const open = before.calls[effect];
  if (!open) return { context: before, entries: [], effects: [] };
  const { [effect]: _, ...calls } = before.calls;
  const entry = toolEntry(open.call, open.tool, content);
  const reserved = open.reserved ? subtract(before.reserved, open.reserved) : before.reserved;
  const context = append({ ...before, calls, reserved, spent: add(before.spent, spent), succeeded: before.succeeded + (isOk ? 1 : 0) }, [entry]);
  return closeTurn({ context, entries: [entry], effects: [] });
}

const subtract = (left: Spending, right: Spending): Spending => ({
  steps: left.steps - right.steps,
  toolCalls: left.toolCalls - right.toolCalls,
  tokens: left.tokens - right.tokens,
  costMicros: left.costMicros - right.costMicros,
});

const hasOpen = (context: AgentContext) => Object.keys(context.calls).length > 0 || Object.keys(context.approvals).length > 0;

/** When the last call of a turn is back, count whether the turn got anywhere. */
function closeTurn(plan: Plan): Plan {
  if (hasOpen(plan.context)) return plan;
  return { ...plan, context: { ...plan.context, failures: plan.context.succeeded > 0 ? 0 : plan.context.failures + 1 } };
}

export function planApproval(
  before: AgentContext,
  around: Surroundings,
  decision: { id: string; approved: boolean; actor: string; reason: string; edited?: string | undefined },
): Plan {
  const approval = before.approvals[decision.id];
  if (!approval) return { context: before, entries: [], effects: [] };
  const { [decision.id]: _, ...approvals } = before.approvals;
  let context: AgentContext = { ...before, approvals };
  if (approval.kind === 'escalation') {
    if (!decision.approved) return { context, entries: [], effects: [], stop: { code: 'ESCALATION_REJECTED', reason: `${decision.actor}: ${decision.reason || 'stop'}` } };
    const note: Entry = { role: 'user', content: `A person looked at this and says: ${decision.reason || 'go on, and try another way.'}` };
    context = append({ ...context, repeats: {}, failures: 0, malformed: 0 }, [note]);
    return { context, entries: [note], effects: [] };
  }
  if (!decision.approved) {
    const entry = toolEntry(approval.call, approval.tool, { rejected: true, by: decision.actor, reason: decision.reason });
    // A rejection is an answer, not a failure of the tool.
    return closeTurn({ context: append({ ...context, succeeded: context.succeeded + 1 }, [entry]), entries: [entry], effects: [] });
  }
  const call: ToolCall = { id: approval.call, name: approval.tool, arguments: decision.edited ?? approval.arguments };
  const checked = checkCall(call, around.bundle);
  if (!checked.ok) {
    const entry = toolEntry(approval.call, approval.tool, { error: { class: 'semantic', code: checked.code, message: checked.message } });
    return closeTurn({ context: append(context, [entry]), entries: [entry], effects: [] });
  }
  const started = startCall(context, around, checked);
  if ('refusal' in started) {
    const entry = toolEntry(approval.call, approval.tool, { error: { class: 'permanent', code: 'BUDGET', message: started.refusal } });
    return closeTurn({ context: append(context, [entry]), entries: [entry], effects: [] });
  }
  return { context: started.context, entries: [], effects: [started.effect] };
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
