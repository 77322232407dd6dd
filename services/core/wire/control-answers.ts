/** What the control API answers, where more than one side must know it: runtimes say it, the command line and the console show it. */
import { z } from 'zod';
import { spentSchema } from '../session/messages.ts';
import type { ApprovalSummary, SessionSummary } from '../session/summary.ts';
import { effectClassSchema } from '../tools/tool-spec.ts';

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

const proposalSchema = z.object({ class: effectClassSchema, asksPerson: z.boolean() });

/** An MCP server, and how its tools stand. */
export const serverSummarySchema = z.object({
  name: z.string(),
  pool: z.string(),
  /** In force, and left out of the listing. */
  tools: z.number(),
  refused: z.number(),
  /** Of the listing in force: the first, or one that was accepted later. */
  number: z.number().nullable(),
  digest: z.string().nullable(),
  /** Of what it says now, where that waits to be accepted. */
  held: z.string().nullable(),
  trouble: z.string().nullable(),
});
export type ServerSummary = Readonly<z.infer<typeof serverSummarySchema>>;

export const serverDetailSchema = serverSummarySchema.extend({
  list: z.array(
    z.object({
      /** At the server, and as models know it. */
      tool: z.string(),
      name: z.string(),
      class: effectClassSchema,
      asksPerson: z.boolean(),
      /** What its hints speak for. */
      proposed: proposalSchema,
      description: z.string(),
    }),
  ),
  leftOut: z.array(z.object({ tool: z.string(), why: z.string() })).readonly(),
  /** Has it answered to this question? Null where it was not asked. */
  isAsked: z.boolean().nullable(),
  change: z
    .object({
      added: z.array(z.string()).readonly(),
      removed: z.array(z.string()).readonly(),
      changed: z.array(z.string()).readonly(),
    })
    .nullable(),
  /** New and changed tools, whole: who accepts them must see what models will read. */
  heldTools: z.array(
    z.object({
      tool: z.string(),
      description: z.string(),
      input: z.record(z.string(), z.unknown()),
      /** By its hints and its document; null for one that is not there, or left out. */
      before: proposalSchema.nullable(),
      now: proposalSchema.nullable(),
    }),
  ),
});
export type ServerDetail = Readonly<z.infer<typeof serverDetailSchema>>;

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
  problems: z.array(
    z.object({
      file: z.string(),
      field: z.string(),
      message: z.string(),
      /** Worth a look; its document stands. */
      isNote: z.boolean().optional(),
    }),
  ),
});
export type Health = Readonly<z.infer<typeof healthSchema>>;
