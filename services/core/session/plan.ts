/**
 * What a message means to an agent, before its machine has chosen: a plan. Pure functions from context and message.
 *
 * The machine's guards read the plan and choose; its actions take what they need from it. Every id and
 * every time in a plan comes from the envelope, so the same message makes the same plan again.
 */
import {
  type AgentName,
  type EffectId,
  effectIdOf,
  type Revision,
  type SessionId,
  type TenantId,
} from '../ids.ts';
import { isEmpty } from '../keyed.ts';
import type { AgentContext } from './agent-context.ts';
import { bytesOf, type Entry } from './conversation.ts';
import type { Effect } from './effects.ts';
import type { Bundle } from './specs.ts';

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

export const nextId = (around: Surroundings): EffectId =>
  effectIdOf(around.session, around.version, around.ids.count++);

export const addressOf = (around: Surroundings, deadlineMs: number) => ({
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

export const toolEntry = (call: string, tool: string, content: unknown): Entry => ({
  role: 'tool',
  call,
  tool,
  content: JSON.stringify(content),
});

const hasOpen = (context: AgentContext) => !isEmpty(context.calls) || !isEmpty(context.approvals);

/** When the last call of a turn is back, count whether the turn got anywhere. */
export function closeTurn(plan: Plan): Plan {
  if (hasOpen(plan.context)) return plan;
  return {
    ...plan,
    context: {
      ...plan.context,
      failures: plan.context.succeeded > 0 ? 0 : plan.context.failures + 1,
    },
  };
}
