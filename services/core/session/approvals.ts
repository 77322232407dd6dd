/** What needs a person: asked with a seal over exactly what will run, decided once. */

import { leftOf } from '../budget/budget.ts';
import { sha256 } from '../ids.ts';
import { canonicalText } from '../json.ts';
import { having, without } from '../keyed.ts';
import { limits } from '../limits.ts';
import type { AgentContext, OpenApproval } from './agent-context.ts';
import { behaviourOf } from './behaviour.ts';
import type { Entry } from './conversation.ts';
import type { Effect } from './effects.ts';
import type { ToolCall } from './messages.ts';
import {
  addressOf,
  append,
  closeTurn,
  nextId,
  type Plan,
  type Surroundings,
  toolEntry,
} from './plan.ts';
import type { ApprovalRule } from './specs.ts';
import { type Children, checkCall, checkedBefore, isDelegation, startCall } from './tool-calls.ts';

export function ruleFor(
  rules: readonly ApprovalRule[],
  tool: string,
  args: Record<string, unknown>,
): ApprovalRule | undefined {
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

export function askApproval(
  context: AgentContext,
  around: Surroundings,
  call: ToolCall,
  args: Record<string, unknown>,
  expiresMs: number,
) {
  const id = nextId(around);
  const expiresAt = around.at + expiresMs;
  const canonical = canonicalText(args);
  const hash = approvalHash(call.name, canonical, expiresAt);
  const approval: OpenApproval = {
    kind: 'tool',
    call: call.id,
    tool: call.name,
    arguments: canonical,
    hash,
    expiresAt,
  };
  return {
    context: {
      ...context,
      approvals: having(context.approvals, id, approval),
    } satisfies AgentContext,
    effect: {
      kind: 'askHuman',
      id,
      ...addressOf(around, expiresMs),
      tool: call.name,
      hash,
    } satisfies Effect,
  };
}

/** The session goes in circles: ask a person instead of failing. */
export function planEscalation(
  context: AgentContext,
  around: Surroundings,
  reason: string,
): { context: AgentContext; effect: Effect } {
  const id = nextId(around);
  const expiresAt = around.at + limits.approvalExpiryMs;
  const hash = approvalHash('escalation', canonicalText({ reason }), expiresAt);
  const approval: OpenApproval = {
    kind: 'escalation',
    call: '',
    tool: 'escalation',
    arguments: canonicalText({ reason }),
    hash,
    expiresAt,
    reason,
  };
  return {
    context: { ...context, approvals: having(context.approvals, id, approval) },
    effect: {
      kind: 'askHuman',
      id,
      ...addressOf(around, limits.approvalExpiryMs),
      tool: 'escalation',
      hash,
    },
  };
}

export function planApproval(
  before: AgentContext,
  around: Surroundings,
  decision: {
    id: string;
    approved: boolean;
    actor: string;
    reason: string;
    edited?: string | undefined;
  },
): Plan {
  const approval = before.approvals[decision.id];
  if (!approval) return { context: before, entries: [], effects: [] };
  let context: AgentContext = { ...before, approvals: without(before.approvals, decision.id) };
  if (approval.kind === 'escalation') {
    if (!decision.approved)
      return {
        context,
        entries: [],
        effects: [],
        stop: {
          code: 'ESCALATION_REJECTED',
          reason: `${decision.actor}: ${decision.reason || 'stop'}`,
        },
      };
    const note: Entry = {
      role: 'user',
      content: `A person looked at this and says: ${decision.reason || 'go on, and try another way.'}`,
    };
    context = append({ ...context, repeats: {}, failures: 0, malformed: 0 }, [note]);
    return { context, entries: [note], effects: [] };
  }
  if (!decision.approved) {
    const entry = toolEntry(approval.call, approval.tool, {
      rejected: true,
      by: decision.actor,
      reason: decision.reason,
    });
    // A rejection is an answer, not a failure of the tool.
    return closeTurn({
      context: append({ ...context, succeeded: context.succeeded + 1 }, [entry]),
      entries: [entry],
      effects: [],
    });
  }
  const call: ToolCall = {
    id: approval.call,
    name: approval.tool,
    arguments: decision.edited ?? approval.arguments,
  };
  // As it was asked for it has been checked.
  const known = decision.edited === undefined ? checkedBefore : undefined;
  const checked = checkCall(call, around.bundle, known);
  if (!checked.ok) {
    const entry = toolEntry(approval.call, approval.tool, {
      error: { class: 'semantic', code: checked.code, message: checked.message },
    });
    return closeTurn({ context: append(context, [entry]), entries: [entry], effects: [] });
  }
  const started = startCall(context, around, checked, childrenOf(context, call, around));
  if ('refusal' in started) {
    const entry = toolEntry(approval.call, approval.tool, {
      error: { class: 'permanent', code: 'BUDGET', message: started.refusal },
    });
    return closeTurn({ context: append(context, [entry]), entries: [entry], effects: [] });
  }
  return { context: started.context, entries: [], effects: [started.effect] };
}

/** Delegations of one turn share what is left, also those that still wait for a person. */
function childrenOf(
  context: AgentContext,
  { name }: ToolCall,
  { bundle }: Surroundings,
): Children | undefined {
  if (behaviourOf(bundle) < 3 || !isDelegation(name, bundle)) return undefined;
  const waiting = Object.values(context.approvals).filter(({ tool }) => isDelegation(tool, bundle));
  const left = leftOf(context.limits, context.spent, context.reserved);
  return { count: 1 + waiting.length, left };
}
