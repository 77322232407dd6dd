/** The ways to an MCP server: a program's standard streams, or streamable HTTP. */
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { Refused } from '../../core/errors.ts';
import type { McpRun } from '../../core/tools/mcp-run.ts';
import {
  headerNameProblem,
  isHeaderValue,
  originOf,
  withoutSecrets,
} from '../../core/tools/placeholders.ts';
import { CappedLines } from './capped-lines.ts';

/** Of programs, where their documents say no other. */
export const programPath = '/usr/local/bin:/usr/bin:/bin';

const lastWordsMax = 16_384; // of what a program says on stderr: runtimes print a stack after the reason

/**
 * A program that is not started yet.
 *
 * @returns with the end of what it says on stderr, without secrets
 */
export function programOf(
  { command = [], env: wanted = {}, cwd }: McpRun,
  expand: (text: string) => string,
  mark: Readonly<Record<string, string>>,
  secrets: readonly string[],
): { readonly transport: StdioClientTransport; readonly said: () => string } {
  const [program = '', ...args] = command;
  // Its environment is what its document says, and a path: secrets of the executor are not the server's.
  const own = Object.fromEntries(
    Object.entries(wanted).map(([name, value]) => [name, expand(value)]),
  );
  const transport = new StdioClientTransport({
    command: program,
    args,
    env: { PATH: programPath, ...own, ...mark },
    stderr: 'pipe',
    ...(cwd ? { cwd } : {}),
  });
  (transport as unknown as { _readBuffer: CappedLines })._readBuffer = new CappedLines(
    answerBytesMax,
  );
  return { transport, said: lastWords(transport, secrets) };
}

/** The end of what a program says on stderr, on one line. */
function lastWords(transport: StdioClientTransport, secrets: readonly string[]): () => string {
  let said = '';
  transport.stderr?.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString('utf8')).slice(-lastWordsMax);
  });
  return () => {
    const lines = said.split(/\r?\n/).filter((line) => !isFrame(line));
    return withoutSecrets(lines.join(' ').replaceAll(/\s+/g, ' ').trim(), secrets).slice(-300);
  };
}

/** Where something was thrown, as Node prints it: after what was. */
const isFrame = (line: string): boolean =>
  /^\s+at \S|^\s*\^+\s*$|^node:internal\/|^Node\.js v\d|^\s*[{}],?\s*$/.test(line);

export const addressOf = (url: string): URL => {
  const origin = originOf(url);
  if (!origin.ok) throw new Refused('TOOL_URL_INVALID', `its url ${origin.problem}`);
  if (!URL.canParse(url)) throw new Refused('TOOL_URL_INVALID', 'its url is not an address');
  return new URL(url);
};

export const headerOf = (name: string, value: string): string => {
  const problem = headerNameProblem(name);
  if (problem) throw new Refused('TOOL_REQUEST_INVALID', problem);
  if (!isHeaderValue(value))
    throw new Refused(
      'TOOL_REQUEST_INVALID',
      `the header ${name} has characters that no header can carry`,
    );
  return value;
};

const answerBytesMax = 4 * 1024 * 1024; // of one answer, or of one event of a stream

/** As `fetch`; an answer that is larger than an executor should hold breaks off. */
export const cappedFetch = async (url: string | URL, init?: RequestInit): Promise<Response> => {
  const response = await fetch(url, init);
  if (!response.body) return response;
  const isStream = /event-stream/i.test(response.headers.get('content-type') ?? '');
  let bytes = 0;
  const counted = response.body.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        bytes += chunk.length;
        if (bytes > answerBytesMax) {
          controller.error(new Error(`the answer is larger than ${answerBytesMax} bytes`));
          return;
        }
        // An empty line ends an event: the next is counted anew.
        if (isStream && /\n\r?\n/.test(Buffer.from(chunk).toString('latin1'))) bytes = 0;
        controller.enqueue(chunk);
      },
    }),
  );
  return new Response(counted, response);
};
