/** A Model document: where a provider is, what is sent to it, what it costs, how much of it there is. */
import { z } from 'zod';
import { priceSchema } from '../budget/budget.ts';
import { limits } from '../limits.ts';
import { headerNameProblem, variableProblems } from '../tools/placeholders.ts';

/** Fields of a request that are the session's: a document that could change them would change what it says. */
const ownFields: ReadonlySet<string> = new Set([
  'messages',
  'input',
  'instructions',
  'tools',
  'stream',
]);

const expanded = z.string().superRefine((text, context) => {
  for (const message of variableProblems(text)) context.addIssue({ code: 'custom', message });
});

const headersSchema = z.record(z.string(), expanded).superRefine((headers, context) => {
  for (const name of Object.keys(headers)) {
    const message = headerNameProblem(name);
    if (message) context.addIssue({ code: 'custom', path: [name], message });
  }
});

const bodySchema = z.record(z.string(), z.unknown()).superRefine((body, context) => {
  for (const name of Object.keys(body))
    if (ownFields.has(name))
      context.addIssue({
        code: 'custom',
        path: [name],
        message: 'is what the session says; a Model cannot set it',
      });
});

const ms = z.number().int().positive();

export const modelSpecSchema = z
  .object({
    model: expanded
      .min(1)
      .describe('the name the provider knows; may contain ${env:NAME} of the gateway'),
    baseUrl: z
      .string()
      .optional()
      .describe(
        'an OpenAI-compatible address, may contain ${env:NAME}; default: OPENAI_BASE_URL of the gateway',
      ),
    apiKeyEnv: z
      .string()
      .nullable()
      .default('OPENAI_API_KEY')
      .describe(
        'name of the environment variable of the gateway that holds the key; null: a server that wants none',
      ),
    api: z
      .enum(['chat', 'responses'])
      .default('chat')
      .describe('Chat Completions, or the Responses API'),
    stream: z.boolean().default(true),
    headers: headersSchema
      .optional()
      .describe('sent with each request, beside or instead of ours; may contain ${env:NAME}'),
    body: bodySchema
      .optional()
      .describe('merged into each request, over our own fields; texts may contain ${env:NAME}'),
    temperature: z
      .number()
      .min(0)
      .max(2)
      .nullable()
      .optional()
      .describe("instead of the Agent's; null: not sent"),
    maxTokensField: z
      .enum(['max_completion_tokens', 'max_tokens', 'max_output_tokens'])
      .optional()
      .describe('how the provider calls outputTokensMax; default: as the API does'),
    toolChoice: z
      .union([z.enum(['auto', 'none', 'required']), z.object({ name: z.string() }).strict()])
      .optional()
      .describe('whether a turn must call a tool; default: not sent'),
    parallelToolCalls: z.boolean().optional().describe('default: not sent'),
    reasoningEffort: z.string().min(1).max(32).optional().describe('default: not sent'),
    responseFormat: z
      .record(z.string(), z.unknown())
      .optional()
      .describe('response_format of Chat Completions, text.format of the Responses API'),
    price: priceSchema
      .prefault({ inputMicrosPerMillion: 0, outputMicrosPerMillion: 0 })
      .describe('default: nothing, for a server of your own'),
    contextTokens: z
      .number()
      .int()
      .positive()
      .optional()
      .describe(
        'the window: prompt and answer together; what is longer is compacted before it is sent',
      ),
    timeoutMs: ms
      .default(limits.modelTimeoutMs)
      .describe(
        'one attempt: until the first piece of a stream, and between two; without a stream all of it',
      ),
    totalMs: ms
      .optional()
      .describe('one attempt, first byte to last; default: five times timeoutMs'),
    attempts: z
      .number()
      .int()
      .min(1)
      .max(10)
      .default(3)
      .describe(
        'tries that may have been paid for; refusals and connections that were not made do not count',
      ),
    backoffMs: ms.default(250),
    patienceMs: z
      .number()
      .int()
      .nonnegative()
      .optional()
      .describe(
        'how long a provider that restarts, is full or wants fewer calls is waited for; default: five minutes, 20 s where there is a fallback',
      ),
    concurrency: z
      .number()
      .int()
      .positive()
      .max(512)
      .optional()
      .describe('calls at once, of all gateways together'),
    requestsPerMinute: z.number().int().positive().optional().describe('of all gateways together'),
    tokensPerMinute: z
      .number()
      .int()
      .positive()
      .optional()
      .describe('prompt and completion tokens, of all gateways together'),
    fallback: z.string().optional().describe('another Model to ask when this one has failed'),
  })
  .strict();
export type ModelSpec = z.infer<typeof modelSpecSchema>;

/** How long one attempt may take at the most, ms. */
export const totalMsOf = ({
  timeoutMs,
  totalMs,
}: Pick<ModelSpec, 'timeoutMs' | 'totalMs'>): number =>
  Math.max(timeoutMs, totalMs ?? timeoutMs * 5);

/** How long passing failures of a Model are waited out, ms. */
export const patienceMsOf = (
  { patienceMs }: Pick<ModelSpec, 'patienceMs'>,
  hasFallback: boolean,
): number => patienceMs ?? (hasFallback ? limits.fallbackPatienceMs : limits.modelPatienceMs);
