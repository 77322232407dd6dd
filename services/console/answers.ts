/** What runtimes answer, as far as the page shows it. What is not named here does not reach a browser: no prompt, no result. */
import { z } from 'zod';
import { entrySchema } from '../core/session/conversation.ts';
import type { UnderstudyEvent } from '../core/wire/cloud-event.ts';
import { approvalSchema, summarySchema, verdictSchema } from '../core/wire/control-answers.ts';

const noteSchema = z.object({
  kind: z.string(),
  what: z.string(),
  since: z.number(),
  deadlineAt: z.number(),
});
const limitsSchema = z.object({
  stepsMax: z.number(),
  toolCallsMax: z.number(),
  tokensMax: z.number(),
  costMicrosMax: z.number(),
  wallClockMs: z.number(),
});

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
  .transform(({ record: { context, ...record }, ...rest }) => ({
    ...rest,
    ...record,
    limits: context.limits,
  }));

/** What was said, for those who ask for it: as much of its end as fits. */
export const conversationSchema = z
  .object({
    record: z.object({ output: z.string().optional() }),
    conversation: z.array(entrySchema),
    conversationFrom: z.number(),
  })
  .transform(({ record, conversation, conversationFrom }) => ({
    output: record.output,
    conversation,
    conversationFrom,
  }));

export const verdictViewSchema = verdictSchema.pick({
  isEqual: true,
  version: true,
  messages: true,
  isArchived: true,
});

/** Of an event what the page draws. The answer to whoever published the task is theirs: it is not in it. */
export const eventViewOf = ({ id, type, time, data }: UnderstudyEvent) => {
  const { version, from, to, status, decisions, effects, details, reason } = data;
  return {
    id,
    type,
    time,
    data: { version, from, to, status, decisions, effects, details, ...(reason ? { reason } : {}) },
  };
};
export type EventView = ReturnType<typeof eventViewOf>;

export const bodySchema = z
  .tuple([z.object({ body: z.string() })])
  .transform(([{ body }]) => ({ body }));
export type VerdictView = z.output<typeof verdictViewSchema>;
export type SessionView = z.output<typeof sessionSchema>;
export type ConversationView = z.output<typeof conversationSchema>;
