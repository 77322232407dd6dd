/** What a session can want: a closed union. Effects are described by the step and performed elsewhere, after the commit. */

import { z } from 'zod';
import { limitsSchema } from '../budget/budget.ts';
import {
  agentNameSchema,
  effectIdSchema,
  revisionSchema,
  sessionIdSchema,
  taskIdSchema,
  tenantIdSchema,
} from '../ids.ts';
import { modelPool } from '../pools.ts';
import { effectClassSchema } from '../tools/tool-spec.ts';
import { paidSchema, parentSchema, spentSchema } from './messages.ts';

const addressed = {
  id: effectIdSchema,
  tenant: tenantIdSchema,
  session: sessionIdSchema,
  agent: agentNameSchema,
  revision: revisionSchema,
  deadlineAt: z.number().describe('epoch ms; the session stops waiting then'),
  traceparent: z.string().optional(),
  begun: z.boolean().optional().describe('an earlier copy of it may have been begun'),
  lost: z.number().int().optional().describe('performers that fell silent with it in hand'),
};

export const callModelSchema = z.object({
  kind: z.literal('callModel'),
  ...addressed,
  /** The prompt is conversation entries [from, to), read where they lie: the effect carries an address, never a copy. */
  from: z.number(),
  to: z.number(),
  purpose: z.enum(['turn', 'summary', 'input']),
  isTooLong: z
    .boolean()
    .optional()
    .describe('of a summary: the conversation was refused for its length, whatever its bound'),
  /** Only of a machine of the user's own: the prompt itself. */
  prompt: z.string().optional(),
  outputTokensMax: z.number(),
  tokensReserved: z.number().describe('the most that one try can come to'),
  budget: paidSchema.optional().describe('the most that all tries together may cost'),
  isOfferedAgain: z
    .boolean()
    .optional()
    .describe('the store had lost it: nobody may know any more who has made it'),
});
export type CallModel = z.infer<typeof callModelSchema>;

export const runToolSchema = z.object({
  kind: z.literal('runTool'),
  ...addressed,
  tool: z.string(),
  class: effectClassSchema,
  pool: z.string(),
  arguments: z.record(z.string(), z.unknown()),
});
export type RunTool = z.infer<typeof runToolSchema>;

export const startAgentSchema = z.object({
  kind: z.literal('startAgent'),
  ...addressed,
  child: sessionIdSchema,
  childAgent: agentNameSchema,
  childRevision: revisionSchema,
  input: z.string(),
  limits: limitsSchema,
});
export type StartAgent = z.infer<typeof startAgentSchema>;

/** An approval or a question: nobody performs it, a person answers it with a message. */
export const askHumanSchema = z.object({
  kind: z.literal('askHuman'),
  ...addressed,
  tool: z.string(),
  hash: z.string(),
});
export type AskHuman = z.infer<typeof askHumanSchema>;

/** Effects that stay pending until a message answers them. */
export const pendingEffectSchema = z.discriminatedUnion('kind', [
  callModelSchema,
  runToolSchema,
  startAgentSchema,
  askHumanSchema,
]);
export type PendingEffect = z.infer<typeof pendingEffectSchema>;
/** Effects that gateways and executors take from a pool. */
export type PooledEffect = CallModel | RunTool;

export const outcomeSchema = z.enum(['completed', 'failed', 'halted', 'dead-lettered']);
export type TaskOutcome = z.infer<typeof outcomeSchema>;

/** Effects that are done as soon as they have been sent. */
export const promptEffectSchema = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('reply'),
    task: taskIdSchema,
    outcome: outcomeSchema,
    output: z.string(),
    reason: z.string().optional(),
    parent: parentSchema.optional(),
    spent: spentSchema,
  }),
  z.object({
    kind: z.literal('cancel'),
    effects: z.array(
      z.object({
        id: z.string(),
        pool: z.string(),
        tool: z.string().optional(),
        class: effectClassSchema.optional().describe('of a tool; absent: unknown'),
      }),
    ),
  }),
  z.object({
    kind: z.literal('unheard'),
    id: z.string(),
    from: tenantIdSchema,
    event: z.looseObject({ type: z.string() }),
  }),
  z.object({
    kind: z.literal('haltChild'),
    child: sessionIdSchema,
    actor: z.string(),
    reason: z.string(),
    start: z
      .object({
        agent: agentNameSchema,
        revision: revisionSchema,
        task: taskIdSchema,
        parent: parentSchema,
      })
      .optional()
      .describe('what would have begun it, should it not have begun'),
  }),
]);
export type PromptEffect = z.infer<typeof promptEffectSchema>;

/** What a user's own machine tells: it leaves with the step's event and its log line. */
export type ToldEffect =
  | { readonly kind: 'emit'; readonly event: unknown }
  | { readonly kind: 'log'; readonly line: string };

export type Effect = PendingEffect | PromptEffect | ToldEffect;

export const isTold = (effect: Effect): effect is ToldEffect =>
  effect.kind === 'emit' || effect.kind === 'log';

export const isPending = (effect: Effect): effect is PendingEffect =>
  effect.kind === 'callModel' ||
  effect.kind === 'runTool' ||
  effect.kind === 'startAgent' ||
  effect.kind === 'askHuman';

export const isPooled = (effect: Effect): effect is PooledEffect =>
  effect.kind === 'callModel' || effect.kind === 'runTool';

/** After a loss of the store: what was noted of tries is gone with it. */
export const offeredAgain = (effect: PendingEffect): PendingEffect =>
  effect.kind === 'callModel' ? { ...effect, isOfferedAgain: true } : effect;

export const poolOf = (effect: PooledEffect): string =>
  effect.kind === 'callModel' ? modelPool : effect.pool;
