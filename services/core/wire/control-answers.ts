/** What the control API answers, where more than one side must know it: runtimes say it, the command line and the console show it. */
import { z } from 'zod';
import { spentSchema } from '../session/messages.ts';
import type { ApprovalSummary, SessionSummary } from '../session/summary.ts';

export const summarySchema: z.ZodType<SessionSummary> = z.object({
  session: z.string(),
  tenant: z.string(),
  agent: z.string(),
  task: z.string(),
  status: z.string(),
  state: z.string(),
  version: z.number(),
  waitingOn: z.string(),
  since: z.number(),
  startedAt: z.number(),
  changedAt: z.number(),
  steps: z.number(),
  toolCalls: z.number(),
  tokens: z.number(),
  costMicros: z.number(),
  reason: z.string().optional(),
});

export const approvalSchema: z.ZodType<ApprovalSummary> = z.object({
  id: z.string(),
  session: z.string(),
  tenant: z.string(),
  agent: z.string(),
  kind: z.string(),
  tool: z.string(),
  /** Shown whole: who decides must see what. */
  arguments: z.string(),
  hash: z.string(),
  since: z.number(),
  expiresAt: z.number(),
  isDecided: z.boolean(),
});

/** How many sessions a list would show, had it no bound. */
export const sessionCountsSchema = z.object({
  total: z.number(),
  byStatus: z.record(z.string(), z.number()),
  waitingForPerson: z.number(),
});
export type SessionCounts = z.infer<typeof sessionCountsSchema>;

/** A dead letter in a list: without its body, which may be anything. */
export const letterSchema = z.object({
  id: z.number(),
  at: z.number(),
  tenant: z.string(),
  agent: z.string(),
  code: z.string(),
  reason: z.string(),
  session: z.string().optional(),
  task: z.string().optional(),
  subject: z.string(),
  isCut: z.boolean().optional(),
});
export type Letter = Readonly<z.infer<typeof letterSchema>>;

/** One dead letter whole, for who names it. */
export const wholeLetterSchema = letterSchema.extend({
  body: z.string(),
  headers: z.record(z.string(), z.string()),
});
export type WholeLetter = Readonly<z.infer<typeof wholeLetterSchema>>;

export const requeuedSchema = z.object({
  requeued: z.number(),
  /** Ids of the tasks that were published. */
  tasks: z.array(z.string()),
  /** A line for each that was not: its number and why. */
  refused: z.array(z.string()),
});
export type Requeued = Readonly<z.infer<typeof requeuedSchema>>;

export const discardedSchema = z.object({ discarded: z.number() });
export type Discarded = Readonly<z.infer<typeof discardedSchema>>;

/** How a task stands, for the tenant that published it. */
export const taskAnswerSchema = z.object({
  task: z.string(),
  agent: z.string(),
  session: z.string(),
  /** running, waiting, paused, parked; completed, failed, halted, dead-lettered; ended where nothing more is known. */
  status: z.string(),
  state: z.string().optional(),
  waitingOn: z.string().optional(),
  reason: z.string().optional(),
  output: z.string().optional(),
  spent: spentSchema.optional(),
  /** When it ended, epoch ms. */
  at: z.number().optional(),
});
export type TaskAnswer = Readonly<z.infer<typeof taskAnswerSchema>>;

export const verdictSchema = z.object({
  session: z.string(),
  isEqual: z.boolean(),
  version: z.number(),
  messages: z.number(),
  /** Hashes of the state: the one in the store, and the one that the log folds to. */
  stored: z.string(),
  computed: z.string(),
  isArchived: z.boolean(),
  /** What disagrees: state, pending effects, wake-up time, conversation length, the end. */
  differences: z.array(z.string()),
  /** What EVENTS says of its end: told, not told yet, no longer kept, none yet, or how it differs. */
  end: z.string(),
});
export type Verdict = Readonly<z.infer<typeof verdictSchema>>;

export const healthSchema = z.object({
  shards: z.number(),
  owned: z.number(),
  /** Shards without an owner. */
  orphans: z.array(z.number()),
  hosts: z.array(z.string()),
  /** Host by shard. */
  owners: z.record(z.string(), z.string()),
  /** Sequences that the mail stream holds. */
  mail: z.object({ first: z.number(), last: z.number() }),
  oldestMailNeeded: z.number(),
  deadLetters: z.number(),
  tasks: z.object({
    /** Not taken in yet. */
    waiting: z.number(),
    /** The broker takes some of them for taken in. */
    stuck: z.boolean(),
    /** Somebody takes them in. */
    isTaken: z.boolean(),
  }),
  /** Sessions that stand still until somebody resumes them, and that failed in the last hour. */
  parked: z.number(),
  failed: z.number(),
  pools: z.array(
    z.object({ pool: z.string(), asking: z.number(), queued: z.number(), inHand: z.number() }),
  ),
  agents: z.array(
    z.object({
      name: z.string(),
      revision: z.string(),
      tools: z.number(),
      /** Its document is broken now: it runs as it did before. */
      isLastGood: z.boolean().default(false),
    }),
  ),
  /** Documents that were refused. */
  problems: z.array(z.object({ file: z.string(), field: z.string(), message: z.string() })),
});
export type Health = Readonly<z.infer<typeof healthSchema>>;
