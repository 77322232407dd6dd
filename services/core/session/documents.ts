/**
 * Agents, tools, models and tenants as data: YAML documents with the Kubernetes envelope.
 *
 * A bundle is an agent with everything it names, and its revision is a hash of that: a session runs on
 * the bundle that it began with.
 */
import canonicalize from 'canonicalize';
import { z } from 'zod';
import { limitsSchema } from '../budget/budget.ts';
import { agentNameSchema, type Revision, sha256 } from '../ids.ts';
import { limits } from '../limits.ts';
import { mcpServerSpecSchema, serverName, serverTools } from '../tools/mcp-server.ts';
import { toolDocumentSchema, toolSpecSchema } from '../tools/tool-spec.ts';
import { modelSpecSchema } from './model-spec.ts';

export { type ModelSpec, modelSpecSchema } from './model-spec.ts';

/** Names that every object has: a map would find them without having them. */
const isInherited = (name: string): boolean => name in {};

const toolName = z
  .string()
  .regex(
    /^[a-zA-Z0-9_-]{1,64}$/,
    'a tool name has letters, digits, _ and - only, as model APIs ask',
  );

const approvalRuleSchema = z
  .object({
    tool: toolName,
    when: z
      .object({ argument: z.string(), above: z.number() })
      .strict()
      .optional()
      .describe(
        'only when this number among the arguments is above the value (or is no number); default: always',
      ),
    expiresMs: z
      .number()
      .int()
      .positive()
      .default(limits.approvalExpiryMs)
      .describe('an answer that comes later counts as a rejection'),
  })
  .strict();
export type ApprovalRule = z.infer<typeof approvalRuleSchema>;

export const agentSpecSchema = z
  .object({
    description: z.string().default(''),
    instructions: z.string().default('').describe('the system message'),
    model: z.string().default('default').describe('a Model'),
    tools: z.array(toolName).default([]),
    agents: z.array(agentNameSchema).default([]).describe('agents that it may delegate to'),
    temperature: z
      .number()
      .min(0)
      .max(2)
      .nullable()
      .default(0)
      .describe('null: not sent; the provider has its own'),
    outputTokensMax: z
      .number()
      .int()
      .positive()
      .default(1_024)
      .describe('completion tokens of one model call; also what is reserved for it'),
    contextTokensMax: z
      .number()
      .int()
      .positive()
      .default(120_000)
      .describe('prompt tokens beyond which the conversation is compacted'),
    limits: limitsSchema.prefault({}),
    approvals: z.array(approvalRuleSchema).default([]),
    loop: z
      .object({
        sameCallMax: z
          .number()
          .int()
          .min(2)
          .default(4)
          .describe('the same tool with the same arguments so often is a loop'),
        failuresMax: z
          .number()
          .int()
          .min(1)
          .default(5)
          .describe('so many turns in a row in which every call failed are no progress'),
        verdict: z.enum(['fail', 'escalate']).default('fail'),
      })
      .strict()
      .prefault({}),
    onModelFailure: z
      .enum(['fail', 'pause'])
      .default('fail')
      .describe('when every try and fallback has failed'),
    machine: z
      .string()
      .optional()
      .describe('path of a module that exports an XState machine, for a fixed pipeline'),
  })
  .strict();
export type AgentSpec = z.infer<typeof agentSpecSchema>;

/** An agent as it is written: its tools may be those of McpServers, by their names there. */
const toolReference = z.union([toolName, serverTools], {
  error: 'give the name of a Tool, or <McpServer>/<tool> with * for any characters',
});
export const agentDocumentSchema = agentSpecSchema.extend({
  tools: z.array(toolReference).default([]),
  approvals: z.array(approvalRuleSchema.extend({ tool: toolReference })).default([]),
});

export const tenantSpecSchema = z
  .object({
    agents: z.array(z.string()).default(['*']).describe('agents its tasks may name; * is all'),
    requestsPerMinute: z.number().int().positive().optional().describe('model calls'),
    tokensPerMinute: z
      .number()
      .int()
      .positive()
      .optional()
      .describe('prompt and completion tokens'),
  })
  .strict();
export type TenantSpec = z.infer<typeof tenantSpecSchema>;

const documentOf = <Kind extends string, Spec extends z.ZodType>(
  kind: Kind,
  spec: Spec,
  name: z.ZodType<string>,
) =>
  z
    .object({
      apiVersion: z.literal('understudy.dev/v1'),
      kind: z.literal(kind),
      metadata: z.object({ name, labels: z.record(z.string(), z.string()).optional() }).strict(),
      spec,
    })
    .strict();

export const documentSchema = z.discriminatedUnion('kind', [
  documentOf('Agent', agentDocumentSchema, agentNameSchema),
  documentOf(
    'Tool',
    toolDocumentSchema.refine(({ run }) => run.kind !== 'mcp' || !run.oauth?.login, {
      path: ['run', 'oauth'],
      message: 'people sign in to an McpServer (understudy mcp login <server>), not to a Tool',
    }),
    toolName.refine((name) => !isInherited(name), 'is a name that every object has'),
  ),
  documentOf(
    'McpServer',
    mcpServerSpecSchema,
    serverName.refine((name) => !isInherited(name), 'is a name that every object has'),
  ),
  documentOf('Model', modelSpecSchema, z.string().min(1)),
  documentOf('Tenant', tenantSpecSchema, agentNameSchema),
]);
export type SpecDocument = z.infer<typeof documentSchema>;

/** Everything a session of an agent needs to run, on whichever host. */
export const bundleSchema = z.object({
  name: agentNameSchema,
  agent: agentSpecSchema,
  tools: z.record(z.string(), toolSpecSchema),
  models: z
    .array(modelSpecSchema.extend({ name: z.string() }))
    .describe('the model, then its fallbacks in order'),
  agents: z.record(
    z.string(),
    z.object({ description: z.string(), limits: limitsSchema, revision: z.string() }),
  ),
  machineHash: z.string().optional().describe('of its file, where its module is not stored'),
  machineModule: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional()
    .describe('SHA-256 of the module that is stored beside the bundle'),
  behaviour: z
    .number()
    .int()
    .positive()
    .optional()
    .describe('what its steps decide (behaviour.ts); absent: 1'),
});
export type Bundle = z.infer<typeof bundleSchema>;

export function revisionOf(bundle: Bundle): Revision {
  return sha256(canonicalize(bundle) ?? '').slice(0, 16) as Revision;
}
