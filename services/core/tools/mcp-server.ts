/** An MCP server as a document: which of its tools there are, and what may happen to their calls. */
import canonicalize from 'canonicalize';
import { z } from 'zod';
import { issuesOf } from '../errors.ts';
import { sha256 } from '../ids.ts';
import { limits } from '../limits.ts';
import { modelPool, toolPool } from '../pools.ts';
import { compiledSchema } from '../schema/json-schema.ts';
import type { ListedTool, Listing } from './mcp-listing.ts';
import { connection, connectionProblems, type McpRun } from './mcp-run.ts';
import {
  callLimits,
  type EffectClass,
  type ToolSpec,
  textProblems,
  toolSpecSchema,
} from './tool-spec.ts';

export const serverName = z
  .string()
  .regex(
    /^[a-zA-Z0-9_-]{1,40}$/,
    'an McpServer has letters, digits, _ and - in its name, up to 40',
  );

/** `github/create_issue`, `github/*`: tools of an McpServer, by the names that it gives them. */
export const serverTools = z
  .string()
  .regex(
    /^[a-zA-Z0-9_-]{1,40}\/[^\s]{1,128}$/,
    'tools of a server are given as <McpServer>/<tool>, where * stands for any characters',
  );

/** @returns undefined for the name of a Tool */
export function serverToolsOf(
  reference: string,
): { readonly server: string; readonly pattern: string } | undefined {
  const at = reference.indexOf('/');
  return at < 0 ? undefined : { server: reference.slice(0, at), pattern: reference.slice(at + 1) };
}

/** Does a name fit a pattern, whose `*` stands for any characters? In time of their lengths only. */
export function fits(pattern: string, name: string): boolean {
  const [first = '', ...parts] = pattern.split('*');
  const last = parts.pop();
  if (last === undefined) return name === pattern;
  if (!name.startsWith(first) || !name.endsWith(last)) return false;
  let from = first.length;
  for (const part of parts) {
    const at = name.indexOf(part, from);
    if (at < 0) return false;
    from = at + part.length;
  }
  return from + last.length <= name.length;
}

const ruleSchema = z
  .object({
    match: z.string().min(1).max(128).describe('names at the server; * stands for any characters'),
    class: z.enum(['pure', 'keyed', 'opaque']).optional(),
    approval: z
      .enum(['always', 'never'])
      .optional()
      .describe('of a person, for each call; an agent may say more precisely when'),
    timeoutMs: z.number().int().positive().max(3_600_000).optional(),
    outputBytesMax: z.number().int().positive().max(limits.toolOutputBytesMax).optional(),
    hidden: z.boolean().default(false).describe('no agent has it'),
  })
  .strict();

export const mcpServerSpecSchema = z
  .object({
    ...connection,
    pool: z
      .string()
      .regex(/^[a-z0-9-]+$/)
      .refine((pool) => pool !== modelPool, `${modelPool} is the pool of model calls`)
      .default(toolPool)
      .describe('whose executors have its command, its secrets and its network'),
    ...callLimits,
    trustHints: z
      .boolean()
      .default(false)
      .describe(
        'believe what it says of its tools: one that only reads is pure, an idempotent one keyed',
      ),
    changes: z
      .enum(['hold', 'accept'])
      .default('hold')
      .describe('when its tools change: wait for understudy mcp accept, or take them up'),
    tools: z
      .array(ruleSchema)
      .default([])
      .describe('what holds for tools that fit; the first that fits counts, also over hints'),
  })
  .strict()
  .superRefine((spec, context) => {
    for (const message of connectionProblems(spec)) context.addIssue({ code: 'custom', message });
    for (const { field, message } of textProblems(runOf(spec)))
      context.addIssue({ code: 'custom', path: [field], message });
  });
export type McpServerSpec = z.infer<typeof mcpServerSpecSchema>;

/** What its tools have in common: how it is reached. */
export const runOf = ({
  command,
  url,
  headers,
  env,
  cwd,
  oauth,
  sessionful,
}: Omit<McpRun, 'kind' | 'tool'>): McpRun => ({
  kind: 'mcp',
  ...(command ? { command } : {}),
  ...(url === undefined ? {} : { url }),
  headers,
  ...(env ? { env } : {}),
  ...(cwd === undefined ? {} : { cwd }),
  ...(oauth ? { oauth } : {}),
  ...(sessionful ? { sessionful } : {}),
});

/** Which document a listing is of: its name, what is reached, and by whom. */
export const serverHashOf = (name: string, spec: McpServerSpec): string =>
  sha256(canonicalize({ name, run: runOf(spec), pool: spec.pool }) ?? '');

/** A tool of a server as agents have it. */
export interface ServerTool {
  /** At the server. */
  readonly tool: string;
  /** For models: `github__create_issue`. */
  readonly name: string;
  readonly spec: ToolSpec;
  readonly asksPerson: boolean;
  /** What its hints speak for. */
  readonly proposed: { readonly class: EffectClass; readonly asksPerson: boolean };
}

const nameMax = 64; // characters that model APIs take

/** A name that models may call, of a server's own, which may have any characters. */
function modelNameOf(server: string, tool: string): string {
  const name = `${server}__${tool.replaceAll(/[^a-zA-Z0-9_-]/g, '_')}`;
  return name.length <= nameMax
    ? name
    : `${name.slice(0, nameMax - 9)}_${sha256(name).slice(0, 8)}`;
}

/** Hints that are not given count as the protocol says: it may change things, and not only add. */
function proposalOf({ readOnly, destructive, idempotent }: ListedTool['hints']) {
  if (readOnly) return { class: 'pure', asksPerson: false } as const;
  return { class: idempotent ? 'keyed' : 'opaque', asksPerson: destructive === true } as const;
}

/** The tools of a server, and why others of its listing are left out. */
export interface ServerTools {
  readonly tools: readonly ServerTool[];
  readonly refused: readonly { readonly tool: string; readonly why: string }[];
}

/** Documents are looked at whenever one of them changes. */
const made = new WeakMap<Listing, { readonly key: string; readonly found: ServerTools }>();

export function toolsOf(server: string, spec: McpServerSpec, listing: Listing): ServerTools {
  const key = JSON.stringify([server, spec]);
  const known = made.get(listing);
  if (known?.key === key) return known.found;
  const found = judged(server, spec, listing);
  made.set(listing, { key, found });
  return found;
}

const schemaLengthMax = 65_536; // characters, as JSON: to compile it takes tens of milliseconds

/** Why the schema of a tool cannot be enforced; asked again, it costs nothing. */
export function schemaProblem({ input }: ListedTool): string | undefined {
  const { length } = JSON.stringify(input);
  if (length > schemaLengthMax) return `the schema has ${length} characters, of ${schemaLengthMax}`;
  const compiled = compiledSchema(input);
  return compiled.ok ? undefined : compiled.problem;
}

function judged(server: string, spec: McpServerSpec, listing: Listing): ServerTools {
  const tools = new Map<string, ServerTool>();
  const refused: { tool: string; why: string }[] = [];
  for (const listed of listing.tools) {
    const rule = spec.tools.find(({ match }) => fits(match, listed.name));
    if (rule?.hidden) continue;
    const proposed = proposalOf(listed.hints);
    const problem = schemaProblem(listed);
    if (problem) {
      refused.push({ tool: listed.name, why: `input: ${problem}` });
      continue;
    }
    const parsed = toolSpecSchema.safeParse({
      description: listed.description,
      class: rule?.class ?? (spec.trustHints ? proposed.class : 'opaque'),
      pool: spec.pool,
      input: listed.input,
      timeoutMs: rule?.timeoutMs ?? spec.timeoutMs,
      outputBytesMax: rule?.outputBytesMax ?? spec.outputBytesMax,
      run: { ...runOf(spec), tool: listed.name },
    });
    if (!parsed.success) {
      refused.push({ tool: listed.name, why: issuesOf(parsed.error) });
      continue;
    }
    const name = modelNameOf(server, listed.name);
    const other = tools.get(name);
    if (other) {
      refused.push({
        tool: listed.name,
        why: `models would know it as ${name}, like ${other.tool}`,
      });
      continue;
    }
    const asksPerson = rule?.approval ? rule.approval === 'always' : proposed.asksPerson;
    tools.set(name, { tool: listed.name, name, spec: parsed.data, asksPerson, proposed });
  }
  return { tools: [...tools.values()], refused };
}
