/** What runtimes answer, as far as the page shows it. What is not named here does not reach a browser: no prompt, no result. */
import { z } from 'zod';
import { entrySchema } from '../core/session/conversation.ts';
import type { UnderstudyEvent } from '../core/wire/cloud-event.ts';

export const summarySchema = z.object({
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
export const approvalSchema = z.object({
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
const noteSchema = z.object({ kind: z.string(), what: z.string(), since: z.number(), deadlineAt: z.number() });
const limitsSchema = z.object({ stepsMax: z.number(), toolCallsMax: z.number(), tokensMax: z.number(), costMicrosMax: z.number(), wallClockMs: z.number() });

/** One session. Of its record only what says how it stands. */
export const sessionSchema = z
  .object({
    summary: summarySchema,
    shard: z.number(),
    owner: z.string().nullable(),
    isArchived: z.boolean(),
    hash: z.string(),
    approvals: z.array(approvalSchema),
    record: z.object({
      revision: z.string(),
      machine: z.string(),
      machineVersion: z.number(),
      length: z.number(),
      traceparent: z.string().optional(),
      pending: z.record(z.string(), noteSchema),
      context: z.object({ limits: limitsSchema.optional().catch(undefined) }).catch({}),
    }),
  })
  .transform(({ record: { context, ...record }, ...rest }) => ({ ...rest, ...record, limits: context.limits }));

/** What was said, for those who ask for it: as much of its end as fits. */
export const conversationSchema = z
  .object({ record: z.object({ output: z.string().optional() }), conversation: z.array(entrySchema), conversationFrom: z.number() })
  .transform(({ record, conversation, conversationFrom }) => ({ output: record.output, conversation, conversationFrom }));

export const verdictSchema = z.object({ isEqual: z.boolean(), version: z.number(), messages: z.number(), isArchived: z.boolean() });

/** Of an event what the page draws. The answer to whoever published the task is theirs: it is not in it. */
export const eventViewOf = ({ id, type, time, data }: UnderstudyEvent) => {
  const { version, from, to, status, decisions, effects, details, reason } = data;
  return { id, type, time, data: { version, from, to, status, decisions, effects, details, ...(reason ? { reason } : {}) } };
};
export type EventView = ReturnType<typeof eventViewOf>;

/** Without its body, which may be anything. */
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
export const bodySchema = z.tuple([z.object({ body: z.string() })]).transform(([{ body }]) => ({ body }));
export const requeuedSchema = z.object({ requeued: z.number(), tasks: z.array(z.string()), refused: z.array(z.string()) });

export const healthSchema = z.object({
  shards: z.number(),
  owned: z.number(),
  orphans: z.array(z.number()),
  hosts: z.array(z.string()),
  owners: z.record(z.string(), z.string()),
  mail: z.object({ first: z.number(), last: z.number() }),
  oldestMailNeeded: z.number(),
  deadLetters: z.number(),
  pools: z.array(z.object({ pool: z.string(), asking: z.number(), queued: z.number(), inHand: z.number() })),
  agents: z.array(z.object({ name: z.string(), revision: z.string(), tools: z.number() })),
  problems: z.array(z.object({ file: z.string(), field: z.string(), message: z.string() })),
});

export type VerdictView = z.output<typeof verdictSchema>;
export type SessionView = z.output<typeof sessionSchema>;
export type LetterView = z.output<typeof letterSchema>;
export type HealthView = z.output<typeof healthSchema>;
export type ApprovalView = z.output<typeof approvalSchema>;
export type ConversationView = z.output<typeof conversationSchema>;
