/** A tool as data: what the model sees, what the executor does, and what may happen after a death. */

import { z } from 'zod';
import { limits } from '../limits.ts';
import { modelPool, toolPool } from '../pools.ts';
import { compiledSchema } from '../schema/json-schema.ts';
import { headers, mcpRunSchema } from './mcp-run.ts';
import {
  extendsHost,
  hasCredentials,
  hasPlaceholderInFragment,
  hasPlaceholderInOrigin,
  headerNameProblem,
  isHeaderValue,
  placeholdersOf,
  variableProblems,
} from './placeholders.ts';

/**
 * What an executor may do when its predecessor died after the start record:
 * pure, keyed and workspace run again; queryable asks first; opaque never runs again (outcome unknown).
 */
export const effectClassSchema = z.enum(['pure', 'keyed', 'queryable', 'opaque', 'workspace']);
export type EffectClass = z.infer<typeof effectClassSchema>;

const jsonSchema = z.record(z.string(), z.unknown()).describe('a JSON Schema object');

const builtin = z
  .object({
    kind: z.literal('builtin'),
    name: z.string().min(1).describe('the function in services/executor/builtin'),
  })
  .strict();

const http = z
  .object({
    kind: z.literal('http'),
    method: z.enum(['GET', 'POST', 'PUT', 'DELETE']).default('POST'),
    url: z
      .string()
      .min(1)
      .describe(
        'may contain ${env:NAME} and {argument}; GET puts the other arguments in the query',
      ),
    headers,
    query: z
      .object({
        method: z.enum(['GET', 'POST']).default('GET'),
        url: z.string().min(1),
        settledAfterMs: z
          .number()
          .int()
          .positive()
          .max(3_600_000)
          .optional()
          .describe(
            'how long after its request an effect may still come: "it did not happen" counts only then; default: twice timeoutMs',
          ),
      })
      .strict()
      .optional()
      .describe(
        'class queryable: answers 200 with the result if the effect {idempotencyKey} happened, 404 if it did not',
      ),
  })
  .strict();

const processKind = z
  .object({
    kind: z.literal('process'),
    command: z
      .array(z.string())
      .min(1)
      .describe(
        'program and arguments; JSON on stdin, JSON on stdout; ${sandbox} is our own job runner',
      ),
    memoryMiB: z
      .number()
      .int()
      .positive()
      .default(512)
      .describe('address space of the program, MiB'),
  })
  .strict();

const sandbox = z
  .object({
    kind: z.literal('sandbox'),
    language: z
      .enum(['javascript', 'shell', 'python'])
      .default('javascript')
      .describe('of the code; python where the sandbox image has it'),
    code: z
      .string()
      .optional()
      .describe(
        'fixed code, which gets the arguments as input; else the argument "code" is run, with the argument "input"',
      ),
    mcp: z
      .object({
        command: z
          .array(z.string().min(1))
          .min(1)
          .describe(
            'program and arguments of a server in the sandbox image, or in the workspace; spoken to over stdio, started for each call',
          ),
        tool: z.string().optional().describe('the name at the server, when it differs'),
      })
      .strict()
      .optional()
      .describe('a tool of an MCP server instead of code'),
    memoryMiB: z.number().int().min(16).default(128).describe('of all its processes together, MiB'),
    diskMiB: z.number().int().positive().default(64).describe('what it may write, MiB'),
    processesMax: z.number().int().positive().default(64),
    egress: z
      .array(
        z
          .string()
          .regex(/^(\*\.)?([a-z0-9-]+\.)*[a-z0-9-]+(:\d{1,5})?$/i, 'host:port, or *.domain:port'),
      )
      .max(64)
      .default([])
      .describe(
        'what its jobs may reach, through a proxy of the executor: host:port or *.domain:port, 443 without a port; nothing else is reached at all',
      ),
  })
  .strict()
  .refine(({ code, mcp }) => code === undefined || mcp === undefined, 'give either code or mcp');

/** Of each call, also of those of a server's tools. */
export const callLimits = {
  timeoutMs: z.number().int().positive().max(3_600_000).default(limits.toolTimeoutMs),
  outputBytesMax: z
    .number()
    .int()
    .positive()
    .max(limits.toolOutputBytesMax)
    .default(32_000)
    .describe('bytes kept of the result'),
};

export const toolSpecSchema = z
  .object({
    description: z.string().min(1).describe('what the model reads'),
    class: effectClassSchema.default('opaque'),
    pool: z
      .string()
      .regex(/^[a-z0-9-]+$/)
      .default(toolPool)
      .describe('which executors run it'),
    input: jsonSchema.default({ type: 'object', properties: {} }),
    output: jsonSchema.optional().describe('a result that breaks it is an error'),
    timeoutMs: callLimits.timeoutMs,
    retry: z
      .object({
        attempts: z
          .number()
          .int()
          .min(1)
          .max(20)
          .default(4)
          .describe(
            'tries for transient failures; an opaque tool is tried again only if nothing had begun',
          ),
        backoffMs: z
          .number()
          .int()
          .positive()
          .default(200)
          .describe('first wait; doubles, with jitter, up to backoffMaxMs'),
        backoffMaxMs: z.number().int().positive().default(5_000),
      })
      .strict()
      .prefault({}),
    outputBytesMax: callLimits.outputBytesMax,
    run: z.discriminatedUnion('kind', [builtin, http, mcpRunSchema, processKind, sandbox]),
  })
  .strict()
  .refine(
    ({ class: effectClass, run }) =>
      effectClass !== 'workspace' || run.kind !== 'sandbox' || run.egress.length === 0,
    {
      path: ['run', 'egress'],
      message:
        'a workspace call is run again after a death, and what it reaches would hear it twice: use class pure (for reading), keyed or opaque',
    },
  );
/**
 * How long after its request an effect may still take place, ms: only then "it did not happen" is
 * true. Where a tool says nothing it is the time-out, once more.
 */
export const settledAfterMsOf = ({ run, timeoutMs }: Pick<ToolSpec, 'run' | 'timeoutMs'>): number =>
  (run.kind === 'http' ? run.query?.settledAfterMs : undefined) ?? 2 * timeoutMs;

/** The longest that a performer is at a call, ms: each try, the wait before the next, and what a query waits for. */
export function performedWithinMs(tool: Omit<ToolSpec, 'description'>, behaviour: number): number {
  const { attempts, backoffMaxMs } = tool.retry;
  const settles = behaviour >= 2 && tool.class === 'queryable' ? settledAfterMsOf(tool) : 0;
  return attempts * (tool.timeoutMs + backoffMaxMs + settles);
}

/**
 * A Tool as it is loaded: what would only show at its first call is refused here. Tools that are
 * stored in bundles are read as they were.
 */
export const toolDocumentSchema = toolSpecSchema.superRefine((spec, context) => {
  const { pool, run, input, output } = spec;
  for (const [field, schema] of [['input', input] as const, ['output', output] as const]) {
    const compiled = schema && compiledSchema(schema);
    if (compiled && !compiled.ok)
      context.addIssue({ code: 'custom', path: [field], message: compiled.problem });
  }
  if (pool === modelPool)
    context.addIssue({
      code: 'custom',
      path: ['pool'],
      message: `${modelPool} is the pool of model calls: tools need another`,
    });
  const refuse = (field: string, message: string) =>
    context.addIssue({ code: 'custom', path: ['run', field], message });
  for (const { field, message } of textProblems(run)) refuse(field, message);
  if (run.kind === 'mcp' && (spec.class === 'queryable' || spec.class === 'workspace'))
    context.addIssue({
      code: 'custom',
      path: ['class'],
      message:
        spec.class === 'queryable'
          ? 'queryable needs a question that an MCP server cannot be asked; keyed works where the server reads the key, else opaque'
          : 'workspace needs a folder of the session, which an MCP server has not; sandbox runs servers in one',
    });
  if (run.kind !== 'http') return;
  const { required = [] } = input as { required?: unknown };
  const isRequired = (name: string) =>
    name === 'idempotencyKey' || (Array.isArray(required) && required.includes(name));
  for (const [field, url] of [
    ['url', run.url] as const,
    ['query', run.query?.url ?? ''] as const,
  ]) {
    if (hasPlaceholderInOrigin(url))
      refuse(field, 'an argument may stand in the path and the query of a url, not before them');
    if (extendsHost(url))
      refuse(field, 'a variable at the beginning must be followed by /, ? or the end of the url');
    if (hasPlaceholderInFragment(url))
      refuse(field, 'an argument behind # is not sent: it may stand in the path and the query');
    for (const name of placeholdersOf(url).filter((one) => !isRequired(one)))
      refuse(field, `{${name}} must be one of input.required: a call without it has no address`);
    // What a variable holds is seen where it is set.
    if (url && !url.startsWith('${env:') && !/^https?:\/\/[^/?#]+/i.test(url))
      refuse(field, 'must begin with http:// or https://, or with ${env:NAME}');
  }
});

/** What is wrong with variables, addresses and headers wherever they are set, with the field. */
export function textProblems(run: ToolRun): { field: string; message: string }[] {
  const found: { field: string; message: string }[] = [];
  const refuse = (field: string, message: string) => found.push({ field, message });
  for (const [field, text] of textsOf(run)) {
    for (const problem of variableProblems(text)) refuse(field, problem);
    if (field !== 'headers' && hasCredentials(text))
      refuse(field, 'names a user or a password: give them in a header, as ${env:NAME}');
    if (field === 'headers' && !isHeaderValue(text))
      refuse(field, 'a value has characters that no header can carry');
  }
  for (const name of 'headers' in run ? Object.keys(run.headers) : []) {
    const problem = headerNameProblem(name);
    if (problem) refuse('headers', problem);
  }
  return found;
}

/** Texts of a tool that may name variables, with the field that they stand in. */
export function textsOf(run: ToolRun): (readonly [string, string])[] {
  const headers = 'headers' in run ? Object.values(run.headers) : [];
  const urls = 'url' in run && run.url ? [run.url] : [];
  const query = run.kind === 'http' && run.query ? [run.query.url] : [];
  const { env = {}, oauth } = run.kind === 'mcp' ? run : {};
  const { clientId, clientSecret, privateKey, issuer } = oauth ?? {};
  const secrets = [clientId, clientSecret, privateKey].filter((text) => text !== undefined);
  return [
    ...Object.values(env).map((text) => ['env', text] as const),
    ...secrets.map((text) => ['oauth', text] as const),
    ...(issuer === undefined ? [] : [['oauth.issuer', issuer] as const]),
    ...headers.map((text) => ['headers', text] as const),
    ...urls.map((text) => ['url', text] as const),
    ...query.map((text) => ['query', text] as const),
  ];
}

export type ToolSpec = z.infer<typeof toolSpecSchema>;
export type ToolRun = ToolSpec['run'];
