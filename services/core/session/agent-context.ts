/** What the default agent machine remembers between messages. Small: the conversation is kept elsewhere. */
import type { BudgetLimits, Spending } from '../budget/budget.ts';
import type { SessionId, TaskId } from '../ids.ts';
import type { TaskOutcome } from './effects.ts';
import type { Parent } from './messages.ts';

export interface OpenCall {
  /** The id that the model gave to its tool call. */
  readonly call: string;
  readonly tool: string;
  /** What a delegation holds back from its parent's budget. */
  readonly reserved?: Spending;
  readonly child?: SessionId;
}

export interface OpenApproval {
  readonly kind: 'tool' | 'escalation';
  readonly call: string;
  readonly tool: string;
  /** Canonical JSON: exactly what will run. */
  readonly arguments: string;
  /** Over tool, arguments and expiry: a decision about anything else is refused. */
  readonly hash: string;
  readonly expiresAt: number;
  readonly reason?: string;
}

export interface QueuedTask {
  readonly task: TaskId;
  readonly input: string;
  readonly parent?: Parent | undefined;
  /** What it asked for, narrower than its agent's. */
  readonly limits?: Partial<BudgetLimits> | undefined;
  readonly at: number;
}

export interface AgentContext {
  readonly task: TaskId;
  readonly parent?: Parent | undefined;
  readonly queue: readonly QueuedTask[];
  readonly limits: BudgetLimits;
  readonly spent: Spending;
  readonly reserved: Spending;
  /** Conversation entries; the prompt begins at `from`. */
  readonly from: number;
  readonly length: number;
  /** Prompt tokens that the provider has counted, and the bytes and messages that came after. */
  readonly seenTokens: number;
  readonly bytesAfter: number;
  readonly messagesAfter: number;
  /** The last turns: where each begins, and its bytes but for what came after the last answer. */
  readonly turns?: readonly { readonly at: number; readonly bytes: number }[] | undefined;
  /** A model refused the prompt for its length, and it was compacted for that. */
  readonly isShortened?: boolean | undefined;
  readonly calls: Readonly<Record<string, OpenCall>>;
  readonly approvals: Readonly<Record<string, OpenApproval>>;
  readonly repeats: Readonly<Record<string, number>>;
  /** Calls of the turn under way that came back well, and turns in a row without any. */
  readonly succeeded: number;
  readonly failures: number;
  readonly malformed: number;
  /** A model call failed for good and the session is paused: what to ask again on resume. */
  readonly retry?: 'turn' | 'summary' | undefined;
  readonly outcome?: TaskOutcome | undefined;
  readonly output?: string | undefined;
  readonly reason?: string | undefined;
}
