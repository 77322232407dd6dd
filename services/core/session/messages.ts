/** What a session can hear: a closed union, the same for the default agent and for users' own machines. */
import { z } from 'zod';
import { narrowerLimitsSchema } from '../budget/budget.ts';
import {
  agentNameSchema,
  effectIdSchema,
  revisionSchema,
  sessionIdSchema,
  taskIdSchema,
  tenantIdSchema,
} from '../ids.ts';
import { failureSchema } from '../tools/job.ts';

export const toolCallSchema = z.object({
  id: z.string(),
  name: z.string(),
  arguments: z.string().describe('as the model wrote it: JSON, one hopes'),
});
export type ToolCall = z.infer<typeof toolCallSchema>;

/** Reasoning that a provider wants back beside the calls that it led to. */
export const thoughtSchema = z.object({
  text: z.string(),
  by: z.string().describe('the Model whose provider it is: no other is sent it'),
});

/** What all tries of a model call cost together: what is not known to be free has been paid. */
export const paidSchema = z.object({ tokens: z.number(), costMicros: z.number() });
export type Paid = Readonly<z.infer<typeof paidSchema>>;

export const modelReplySchema = z.object({
  content: z.string(),
  calls: z.array(toolCallSchema),
  finish: z.string().describe('the provider word: stop, tool_calls, length, content_filter'),
  usage: z.object({
    promptTokens: z.number(),
    completionTokens: z.number(),
    cachedTokens: z.number(),
    cacheWriteTokens: z.number().optional(),
  }),
  costMicros: z.number(),
  model: z.string(),
  latencyMs: z.number(),
  attempts: z.number(),
  spent: paidSchema.optional(),
  thought: thoughtSchema.optional(),
  checks: z
    .array(z.object({ call: z.number(), code: z.string().optional(), problem: z.string() }))
    .optional()
    .describe('arguments that are too costly to be checked in a step: what their gateway found'),
});
export type ModelReply = z.infer<typeof modelReplySchema>;

export const parentSchema = z.object({
  tenant: tenantIdSchema,
  session: sessionIdSchema,
  effect: effectIdSchema,
});
export type Parent = z.infer<typeof parentSchema>;

/** What a task came to. Costs in micro-dollars. */
export const spentSchema = z.object({
  steps: z.number(),
  toolCalls: z.number(),
  tokens: z.number(),
  costMicros: z.number(),
});

/** An event for a user's own machine; XState's own names are not for others to use. */
export const eventSchema = z
  .object({
    type: z
      .string()
      .min(1)
      .max(200)
      .refine((type) => type !== '*' && !type.startsWith('xstate.'), 'is a name of XState itself'),
  })
  .loose();
export type OutsideEvent = z.infer<typeof eventSchema>;

const by = { actor: z.string().min(1).max(128), reason: z.string().max(2_000).default('') };

export const messageSchema = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('task'),
    task: taskIdSchema,
    agent: agentNameSchema,
    revision: revisionSchema,
    input: z.string(),
    isKeyed: z.boolean().default(false),
    limits: narrowerLimitsSchema.optional(),
    parent: parentSchema.optional(),
    traceparent: z.string().optional(),
  }),
  z.object({ kind: z.literal('modelReplied'), effect: effectIdSchema, reply: modelReplySchema }),
  z.object({
    kind: z.literal('modelFailed'),
    effect: effectIdSchema,
    failure: failureSchema,
    attempts: z.number().default(1),
    spent: paidSchema.optional(),
  }),
  z.object({
    kind: z.literal('toolReturned'),
    effect: effectIdSchema,
    value: z.unknown(),
    bytes: z.number(),
    truncated: z.boolean().default(false),
    latencyMs: z.number(),
    attempts: z.number(),
    executor: z.string(),
  }),
  z.object({
    kind: z.literal('toolFailed'),
    effect: effectIdSchema,
    failure: failureSchema,
    latencyMs: z.number(),
    attempts: z.number(),
    executor: z.string(),
  }),
  z.object({
    kind: z.literal('agentEnded'),
    effect: effectIdSchema,
    outcome: z.enum(['completed', 'failed', 'halted']),
    output: z.string(),
    spent: spentSchema,
  }),
  z.object({
    kind: z.literal('event'),
    id: z.string().min(1).max(256).describe('the same event again has the same id'),
    from: tenantIdSchema.describe('whose subject it came on: only its own sessions hear it'),
    event: eventSchema,
  }),
  z.object({ kind: z.literal('wake') }),
  z.object({
    kind: z.literal('approve'),
    approval: effectIdSchema,
    hash: z.string(),
    arguments: z.string().optional(),
    ...by,
  }),
  z.object({ kind: z.literal('reject'), approval: effectIdSchema, hash: z.string(), ...by }),
  z.object({ kind: z.literal('pause'), ...by }),
  z.object({ kind: z.literal('resume'), ...by }),
  z.object({
    kind: z.literal('halt'),
    ...by,
    child: z
      .object({
        agent: agentNameSchema,
        revision: revisionSchema,
        task: taskIdSchema,
        parent: parentSchema,
      })
      .optional()
      .describe('from the parent of a session that may not exist yet: then it begins halted'),
  }),
]);
export type Message = z.infer<typeof messageSchema>;
export type MessageOf<Kind extends Message['kind']> = Extract<Message, { kind: Kind }>;
