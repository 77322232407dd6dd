/** What people decided, for the record and for the events: who, what, and why. */
import { behaviourOf } from './behaviour.ts';
import type { Draft } from './draft.ts';
import type { MessageOf } from './messages.ts';

type Decision = MessageOf<'approve' | 'reject'>;

const kept = 20; // decisions of a session that its record remembers; EVENTS has all of them
const reasonMax = 500; // characters

export const decisionOf = (
  { kind, approval, actor, reason }: Decision,
  tool: string | undefined,
): Record<string, unknown> => ({
  approval,
  actor,
  decision: kind,
  tool,
  ...(reason ? { reason: reason.slice(0, reasonMax) } : {}),
});

export function recordDecision(draft: Draft, decision: Decision, what: string, at: number): void {
  if (behaviourOf(draft.definition.bundle) < 2) return;
  const { kind, approval, actor, reason } = decision;
  const made = {
    approval,
    what: what.slice(0, 200),
    decision: kind,
    actor,
    reason: reason.slice(0, reasonMax),
    at,
  };
  draft.record = {
    ...draft.record,
    decisions: [...(draft.record.decisions ?? []), made].slice(-kept),
  };
}
