/** What a tool of an MCP server answered, wherever the server runs. */
import { z } from 'zod';
import { failed, type Outcome } from './job.ts';

export const mcpResultSchema = z.looseObject({
  content: z.array(z.looseObject({ type: z.string(), text: z.string().optional() })).default([]),
  structuredContent: z.unknown().optional(),
  isError: z.boolean().optional(),
});
type McpResult = z.infer<typeof mcpResultSchema>;

/** Structured content, else its only text (as JSON where it is some), else the list of its parts. */
export function outcomeOfMcp(
  tool: string,
  result: Pick<McpResult, 'content' | 'structuredContent' | 'isError'>,
): Outcome<unknown> {
  const value = answerOf(result);
  if (result.isError)
    return failed(
      'semantic',
      'MCP_TOOL_ERROR',
      `tool ${tool}: ${JSON.stringify(value).slice(0, 500)}`,
    );
  return { ok: true, value };
}

/** Structured content says what the text says, or both are told: some servers say more in words. */
function answerOf({
  content,
  structuredContent,
}: Pick<McpResult, 'content' | 'structuredContent'>): unknown {
  if (structuredContent === undefined) return textOf(content);
  const structured = withoutPayloads(structuredContent);
  const told = JSON.stringify(structuredContent);
  const isRead = content.length <= comparedMax && told.length <= comparedLengthMax;
  const more = content.filter(
    ({ type, text }) => type !== 'text' || !(isRead && isTold(text ?? '', told)),
  );
  return more.length === 0 ? structured : { structuredContent: structured, content: textOf(more) };
}

const comparedMax = 8; // parts: who sends more says more than the same again
const comparedLengthMax = 256_000; // characters of structured content that texts are looked for in

/** The same in words: its JSON, or a text that stands in it. */
function isTold(text: string, structured: string): boolean {
  if (structured.includes(JSON.stringify(text))) return true;
  try {
    const told = JSON.stringify(JSON.parse(text));
    // Part of it in words: a list that stands in a field, say.
    return structured.includes(told) || text.trim() === '';
  } catch {
    return text.trim() === '';
  }
}

const payloadMin = 4_096; // characters of base64: no model reads so many

/** Pictures and files in structured content: how large they are, and not as text. */
function withoutPayloads(value: unknown): unknown {
  if (typeof value === 'string')
    return value.length >= payloadMin && /^[A-Za-z0-9+/]+={0,2}$/.test(value)
      ? { type: 'base64', bytes: bytesOf(value) }
      : value;
  if (Array.isArray(value)) return value.map(withoutPayloads);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [name, withoutPayloads(inner)]),
  );
}

type Part = McpResult['content'][number];

const resourceSchema = z.object({
  uri: z.string().optional().catch(undefined),
  mimeType: z.string().optional().catch(undefined),
  text: z.string().optional().catch(undefined),
  blob: z.string().optional().catch(undefined),
});
const mediaSchema = resourceSchema.omit({ text: true, blob: true }).extend({
  data: z.string().optional().catch(undefined),
  name: z.string().optional().catch(undefined),
});
const bytesOf = (base64: string | undefined) =>
  base64 === undefined ? undefined : Buffer.byteLength(base64, 'base64');

/** What a model can read of a part: text, or what there is and how large it is. */
function readable(part: Part): unknown {
  const { type } = part;
  if (type === 'text') return part.text;
  if (type === 'resource') {
    const { uri, mimeType, text, blob } = resourceSchema.catch({}).parse(part.resource);
    return text ?? { type, uri, mimeType, bytes: bytesOf(blob) };
  }
  const { uri, name, mimeType, data } = mediaSchema.catch({}).parse(part);
  return { type, uri, name, mimeType, bytes: bytesOf(data) };
}

function textOf(content: readonly Part[]): unknown {
  const parts = content.map(readable);
  if (parts.length !== 1) return parts;
  const [only] = parts;
  try {
    return typeof only === 'string' ? JSON.parse(only) : only;
  } catch {
    return only;
  }
}

/** What a call travels with: the key that a server may use to do it once, and the trace. */
export const mcpMeta = (
  idempotencyKey: string,
  traceparent: string | undefined,
): Record<string, string> => ({
  'understudy.dev/idempotency-key': idempotencyKey,
  ...(traceparent ? { traceparent } : {}),
});

const mcpRefused = (tool: string, message: string) =>
  failed('semantic', 'MCP_REFUSED', `tool ${tool}: ${message.slice(0, 300)}`);

/** The tool was called, or may have been. */
export const mcpFailed = (tool: string, message: string): Outcome<never> => {
  const { failure } = failed(
    'semantic',
    'MCP_TOOL_ERROR',
    `tool ${tool}: ${message.slice(0, 300)}`,
  );
  return { ok: false, failure: { ...failure, hasBegun: true } };
};

/** Codes of JSON-RPC: not JSON, not a request, no such method, arguments that do not fit. */
const refusalCodes: ReadonlySet<number> = new Set([-32700, -32600, -32601, -32602]);

/** An error that the server answered with; every code but four may come from within the tool. */
export function outcomeOfMcpError(
  tool: string,
  { code, message }: { readonly code: number; readonly message: string },
): Outcome<never> {
  if (!refusalCodes.has(code)) return mcpFailed(tool, message);
  return { ok: false, failure: { ...mcpRefused(tool, message).failure, hasBegun: false } };
}
