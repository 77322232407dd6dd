/** Tools of MCP servers, over stdio or streamable HTTP, through the official client. One connection per server, made when it is first needed. */
import {
  Client,
  InsufficientScopeError,
  ProtocolError,
  SdkErrorCode,
  SdkHttpError,
  StreamableHTTPClientTransport,
  UnauthorizedError,
} from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { messageOf, Refused } from '../../core/errors.ts';
import { failed, type Outcome } from '../../core/tools/job.ts';
import {
  mcpFailed,
  mcpMeta,
  mcpResultSchema,
  outcomeOfMcp,
  outcomeOfMcpError,
} from '../../core/tools/mcp-result.ts';
import { wasNeverMade } from '../../core/tools/never-made.ts';
import {
  expandEnvironment,
  headerNameProblem,
  isHeaderValue,
  originOf,
  secretsIn,
  withoutSecrets,
} from '../../core/tools/placeholders.ts';
import { type ToolRun, textsOf } from '../../core/tools/tool-spec.ts';
import type { ToolJob, ToolRunner } from '../../ports/performers.ts';
import { CappedLines } from './capped-lines.ts';
import { providerOf, whyNoToken, withinHosts } from './oauth.ts';

type McpRun = Extract<ToolRun, { kind: 'mcp' }>;

const wedgedSlackMs = 50;
const probeMs = 2_000; // a server over HTTP that says nothing to a probe is spoken to the older way
const lastWordsMax = 2_048; // of what a program says on stderr
const pingMs = 2_000;

/** A connection, and how many calls are on it. */
interface Line {
  readonly client: Promise<Client>;
  /** Also one that is not connected yet: who says nothing is not waited for. */
  readonly hangUp: () => Promise<void>;
  /** Its server is not there any more: who waits for an answer waits in vain. */
  readonly broken: AbortSignal;
  calls: number;
  /** When it said something last, by `performance.now()`. */
  heardAt: number;
  /** It broke: who is on it finishes, nobody else begins. */
  isRetired: boolean;
}

export function mcpRunner(
  environment: Readonly<Record<string, string | undefined>>,
  /** For the environment of servers that are programs. */
  mark: Readonly<Record<string, string>> = {},
): ToolRunner<McpRun> {
  const lines = new Map<string, Line>();
  /** Errors of servers: the client judges answers itself, and throws the same class. */
  const answered = new WeakSet<ProtocolError>();
  const expand = (text: string): string => {
    const expanded = expandEnvironment(text, environment);
    if (!expanded.ok)
      throw new Refused(
        'TOOL_ENV_MISSING',
        `${expanded.missing.join(', ')} is not set for this executor`,
      );
    return expanded.text;
  };

  /** By line: whoever was sent a token may say it again. */
  const tokens = new Map<string, () => string | undefined>();
  const secretsOf = (run: McpRun): string[] => {
    const token = tokens.get(keyOf(run))?.();
    const texts = textsOf(run).map(([, text]) => text);
    return [...secretsIn(environment, ...texts), ...(token === undefined ? [] : [token])];
  };

  const clientFor = (run: McpRun): Client =>
    new Client(
      { name: 'understudy-executor', version: '0.1.0' },
      // Over stdio a probe costs a second start of the server, and each of them speaks the older way.
      {
        versionNegotiation: run.command
          ? { mode: 'legacy' }
          : { mode: 'auto', probe: { timeoutMs: probeMs } },
      },
    );
  const connect = async (
    client: Client,
    run: McpRun,
    onClose: () => void,
    onDead: (why: Error) => void,
  ): Promise<Client> => {
    client.onclose = onClose;
    client.onerror = (error) => {
      if (/Maximum reconnection attempts/.test(error.message)) onDead(error);
    };
    const request = client.request.bind(client) as (...given: unknown[]) => Promise<unknown>;
    client.request = ((...given: unknown[]) =>
      request(...given).catch((error: unknown) => {
        if (error instanceof ProtocolError) answered.add(error);
        throw error;
      })) as Client['request'];
    if (run.command) {
      await connectProgram(client, run.command, run);
    } else {
      const headers = Object.fromEntries(
        Object.entries(run.headers).map(([name, value]) => [name, headerOf(name, expand(value))]),
      );
      const url = addressOf(expand(run.url ?? ''));
      const { oauth } = run;
      const authProvider = oauth && providerOf(oauth, expand);
      if (authProvider)
        tokens.set(keyOf(run), () => {
          const known = authProvider.tokens();
          return known && 'access_token' in known ? known.access_token : undefined;
        });
      await client.connect(
        new StreamableHTTPClientTransport(url, {
          requestInit: { headers },
          ...(authProvider
            ? {
                authProvider,
                fetch: withinHosts(url.href, addressOf(expand(oauth.issuer)).href, cappedFetch),
              }
            : { fetch: cappedFetch }),
        }),
      );
    }
    return client;
  };
  const connectProgram = async (
    client: Client,
    [program = '', ...args]: readonly string[],
    run: McpRun,
  ): Promise<void> => {
    const { env: wanted, cwd } = run;
    // Its environment is what its document says, and a path: secrets of the executor are not the server's.
    const own = Object.fromEntries(
      Object.entries(wanted ?? {}).map(([name, value]) => [name, expand(value)]),
    );
    const transport = new StdioClientTransport({
      command: program,
      args,
      env: { PATH: '/usr/local/bin:/usr/bin:/bin', ...own, ...mark },
      stderr: 'pipe',
      ...(cwd ? { cwd } : {}),
    });
    const said = lastWords(transport, secretsOf(run));
    (transport as unknown as { _readBuffer: CappedLines })._readBuffer = new CappedLines(
      answerBytesMax,
    );
    try {
      await client.connect(transport);
    } catch (error) {
      // It has said why, and perhaps a moment later than it ended.
      await new Promise((resolve) => setTimeout(resolve, 20));
      const words = said();
      throw words ? new Error(`${messageOf(error)}; it said: ${words}`, { cause: error }) : error;
    }
  };
  const retire = (key: string, line: Line): void => {
    line.isRetired = true;
    if (lines.get(key) === line) lines.delete(key);
  };
  const lineFor = (run: McpRun): { key: string; line: Line } => {
    const key = keyOf(run);
    let line = lines.get(key);
    if (!line) {
      const broken = new AbortController();
      const own = clientFor(run);
      const made: Line = {
        hangUp: () => own.close().catch(() => undefined),
        client: connect(
          own,
          run,
          () => retire(key, made),
          (why) => {
            retire(key, made);
            broken.abort(why);
          },
        ),
        broken: broken.signal,
        calls: 0,
        heardAt: 0,
        isRetired: false,
      };
      made.client.catch(() => retire(key, made));
      lines.set(key, made);
      line = made;
    }
    return { key, line };
  };
  const call = async (
    job: ToolJob,
    run: McpRun,
    signal: AbortSignal,
  ): Promise<Outcome<unknown>> => {
    const { key, line } = lineFor(run);
    line.calls += 1;
    const from = performance.now();
    let client: Client | undefined;
    try {
      try {
        client = await orAborted(line.client, signal);
      } catch (error) {
        if (error instanceof Refused)
          return notBegun('permanent', error.code, `tool ${job.tool}: ${error.message}`);
        const untold = tokenRefusalOf(job.tool, error);
        if (untold) return untold;
        const why = whyNotReached(error);
        return notBegun(
          'transient',
          'MCP_UNREACHABLE',
          `tool ${job.tool}: its MCP server could not be reached: ${why}`,
        );
      }
      if (signal.aborted)
        return notBegun('transient', 'MCP_UNREACHABLE', `tool ${job.tool}: it was stopped`);
      const meta = mcpMeta(job.idempotencyKey, job.traceparent);
      const result = await client.callTool(
        { name: run.tool ?? job.tool, arguments: { ...job.arguments }, _meta: meta },
        { signal: AbortSignal.any([signal, line.broken]), timeout: job.spec.timeoutMs },
      );
      line.heardAt = performance.now();
      return outcomeOfMcp(job.tool, mcpResultSchema.parse(result));
    } catch (error) {
      if (error instanceof ProtocolError) {
        line.heardAt = performance.now();
        return answered.has(error)
          ? outcomeOfMcpError(job.tool, error)
          : mcpFailed(job.tool, error.message);
      }
      // A server over HTTP that was started again knows no old session: the next try begins anew.
      const isBroken = !signal.aborted && run.url;
      if (isBroken) retire(key, line);
      const refusal = refusalOf(job.tool, error, line.heardAt > 0);
      if (refusal) return refusal;
      // One call that is late says nothing of the others. Where no other was answered either, the server is asked whether it hears at all.
      const isLate = performance.now() - from > job.spec.timeoutMs - wedgedSlackMs;
      if (isLate && line.heardAt < from)
        await client?.ping({ timeout: pingMs }).catch(() => retire(key, line));
      return failed(
        'transient',
        'MCP_BROKEN',
        `tool ${job.tool}: the call broke off: ${messageOf(error).slice(0, 200)}`,
      );
    } finally {
      line.calls -= 1;
      if (line.isRetired && line.calls === 0) void line.hangUp();
    }
  };

  return {
    kind: 'mcp',
    async run(job, run, signal) {
      const outcome = await call(job, run, signal);
      if (outcome.ok) return outcome;
      // A server that refuses may quote what it was sent.
      const message = withoutSecrets(outcome.failure.message, secretsOf(run));
      return { ok: false, failure: { ...outcome.failure, message } };
    },
    async close() {
      const open = [...lines.values()];
      lines.clear();
      for (const line of open) await line.hangUp();
    },
  };
}

/** The end of what a program says on stderr, on one line. */
function lastWords(transport: StdioClientTransport, secrets: readonly string[]): () => string {
  let said = '';
  transport.stderr?.on('data', (chunk: Buffer) => {
    said = (said + chunk.toString('utf8')).slice(-lastWordsMax);
  });
  return () => withoutSecrets(said.replaceAll(/\s+/g, ' ').trim(), secrets).slice(-300);
}

/** A connection takes its time: who waits for it may be stopped meanwhile. */
function orAborted<Value>(value: Promise<Value>, signal: AbortSignal): Promise<Value> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(new Error('the call was stopped before the server was reached'));
    if (signal.aborted) return stop();
    signal.addEventListener('abort', stop, { once: true });
    value.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}

const addressOf = (url: string): URL => {
  const origin = originOf(url);
  if (!origin.ok) throw new Refused('TOOL_URL_INVALID', `its url ${origin.problem}`);
  if (!URL.canParse(url)) throw new Refused('TOOL_URL_INVALID', 'its url is not an address');
  return new URL(url);
};

const headerOf = (name: string, value: string): string => {
  const problem = headerNameProblem(name);
  if (problem) throw new Refused('TOOL_REQUEST_INVALID', problem);
  if (!isHeaderValue(value))
    throw new Refused(
      'TOOL_REQUEST_INVALID',
      `the header ${name} has characters that no header can carry`,
    );
  return value;
};

const notBegun = (
  failureClass: 'transient' | 'semantic' | 'permanent',
  code: string,
  message: string,
): Outcome<never> => ({
  ok: false,
  failure: { class: failureClass, code, message, hasBegun: false },
});

/** Without a token the call was refused as a whole. */
function tokenRefusalOf(tool: string, error: unknown): Outcome<never> | undefined {
  const why = whyNoToken(error);
  return why
    ? notBegun(
        why.isFinal ? 'permanent' : 'transient',
        'MCP_UNAUTHORIZED',
        `tool ${tool}: no token for its MCP server: ${why.message}`,
      )
    : undefined;
}

/** Where nobody takes a first request there is no streamable HTTP, or not yet. */
function whyNotReached(error: unknown): string {
  const { status } = (error instanceof SdkHttpError ? error.data : {}) as { status?: number };
  return status === 404 || status === 405
    ? `it answered ${status} to the first request: is this its address for streamable HTTP? The older HTTP+SSE is not spoken`
    : messageOf(error).slice(0, 600);
}

/** Tools with one of these share a connection. */
const keyOf = ({ command, url, headers, env, cwd, oauth }: McpRun): string =>
  JSON.stringify([command, url, headers, env, cwd, oauth]);

/** Status of a complete HTTP answer to a call; undefined for none. */
function statusOf(error: unknown): number | undefined {
  if (error instanceof UnauthorizedError) return 401;
  if (error instanceof InsufficientScopeError) return 403;
  // Other codes are of other requests: a stream that is opened again, say.
  if (!(error instanceof SdkHttpError) || error.code !== SdkErrorCode.ClientHttpNotImplemented)
    return undefined;
  const { status, text } = error.data as { status: number; text?: string | null };
  return text === null ? undefined : status;
}

/**
 * What never reached the tool: the server refused the request as a whole, or was not there.
 *
 * @param hasWorked  the session has answered before
 */
function refusalOf(tool: string, error: unknown, hasWorked: boolean): Outcome<never> | undefined {
  const status = statusOf(error);
  const untold = tokenRefusalOf(tool, error);
  if (untold) return untold;
  if (wasNeverMade(error))
    return notBegun('transient', 'MCP_UNREACHABLE', `tool ${tool}: its MCP server is not there`);
  if (status === 401 || status === 403)
    return notBegun('permanent', 'MCP_REFUSED', `tool ${tool}: its MCP server answered ${status}`);
  // It forgot our session (some say so with 400), or has no room now: the next try begins anew.
  const isGone = status === 404 || (status === 400 && hasWorked);
  if (isGone || status === 425 || status === 429)
    return notBegun(
      'transient',
      isGone ? 'MCP_SESSION_GONE' : 'MCP_BUSY',
      `tool ${tool}: its MCP server answered ${status}`,
    );
  // 408 may be of a call under way, and 303 leads to the result of one that was made.
  if (status === undefined || status < 300 || status > 499 || status === 303 || status === 408)
    return undefined;
  const why = messageOf(error).slice(0, 300);
  return notBegun(
    [400, 409, 422].includes(status) ? 'semantic' : 'permanent',
    'MCP_REFUSED',
    `tool ${tool}: its MCP server answered ${status}: ${why}`,
  );
}

const answerBytesMax = 4 * 1024 * 1024; // of one answer, or of one event of a stream

/** As `fetch`; an answer that is larger than an executor should hold breaks off. */
const cappedFetch = async (url: string | URL, init?: RequestInit): Promise<Response> => {
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
