/** Connections to MCP servers: one per server, made when it is first needed, and shared. */
import { Client, ProtocolError, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { messageOf, Refused } from '../../core/errors.ts';
import type { McpRun } from '../../core/tools/mcp-run.ts';
import { expandEnvironment, secretsIn } from '../../core/tools/placeholders.ts';
import { textsOf } from '../../core/tools/tool-spec.ts';
import { providerOf, withinHosts } from './oauth.ts';
import { addressOf, cappedFetch, headerOf, programOf } from './transports.ts';

const probeMs = 2_000; // a server over HTTP that says nothing to a probe is spoken to the older way

/** A connection, and how many calls are on it. */
export interface Line {
  readonly client: Promise<Client>;
  /** Also one that is not connected yet: who says nothing is not waited for. */
  readonly hangUp: () => Promise<void>;
  /** Its server is not there any more: who waits for an answer waits in vain. */
  readonly broken: AbortSignal;
  /** It is not to be used again: who is on it finishes, nobody else begins. */
  readonly retire: () => void;
  calls: number;
  /** When it said something last, by `performance.now()`. */
  heardAt: number;
  isRetired: boolean;
}

export class Connections {
  readonly #environment: Readonly<Record<string, string | undefined>>;
  readonly #mark: Readonly<Record<string, string>>;
  readonly #lines = new Map<string, Line>();
  /** Errors of servers: the client judges answers itself, and throws the same class. */
  readonly #answered = new WeakSet<ProtocolError>();
  /** By line: whoever was sent a token may say it again. */
  readonly #tokens = new Map<string, () => string | undefined>();

  /** @param mark  for the environment of servers that are programs */
  constructor(
    environment: Readonly<Record<string, string | undefined>>,
    mark: Readonly<Record<string, string>>,
  ) {
    this.#environment = environment;
    this.#mark = mark;
  }

  /** Whoever takes it counts itself among its calls, and leaves it by `left`. */
  lineOf(run: McpRun): Line {
    const key = keyOf(run);
    const known = this.#lines.get(key);
    if (known) return known;
    const broken = new AbortController();
    const own = clientFor(run);
    const retire = () => {
      line.isRetired = true;
      if (this.#lines.get(key) === line) this.#lines.delete(key);
    };
    const line: Line = {
      hangUp: () => own.close().catch(() => undefined),
      client: this.#connected(own, run, retire, (why) => {
        retire();
        broken.abort(why);
      }),
      broken: broken.signal,
      retire,
      calls: 0,
      heardAt: 0,
      isRetired: false,
    };
    line.client.catch(retire);
    this.#lines.set(key, line);
    return line;
  }

  left(line: Line): void {
    line.calls -= 1;
    if (line.isRetired && line.calls === 0) void line.hangUp();
  }

  /** Did the server say it, or the client of its answer? */
  isAnswered(error: ProtocolError): boolean {
    return this.#answered.has(error);
  }

  /** What must not be told of a server's words. */
  secretsOf(run: McpRun): string[] {
    const token = this.#tokens.get(keyOf(run))?.();
    const texts = textsOf(run).map(([, text]) => text);
    return [...secretsIn(this.#environment, ...texts), ...(token === undefined ? [] : [token])];
  }

  async close(): Promise<void> {
    const open = [...this.#lines.values()];
    this.#lines.clear();
    for (const line of open) await line.hangUp();
  }

  #expand(text: string): string {
    const expanded = expandEnvironment(text, this.#environment);
    if (!expanded.ok)
      throw new Refused(
        'TOOL_ENV_MISSING',
        `${expanded.missing.join(', ')} is not set for this executor`,
      );
    return expanded.text;
  }

  async #connected(
    client: Client,
    run: McpRun,
    onClose: () => void,
    onDead: (why: Error) => void,
  ): Promise<Client> {
    client.onclose = onClose;
    client.onerror = (error) => {
      if (/Maximum reconnection attempts/.test(error.message)) onDead(error);
    };
    const request = client.request.bind(client) as (...given: unknown[]) => Promise<unknown>;
    client.request = ((...given: unknown[]) =>
      request(...given).catch((error: unknown) => {
        if (error instanceof ProtocolError) this.#answered.add(error);
        throw error;
      })) as Client['request'];
    if (run.command) await this.#connectProgram(client, run);
    else await this.#connectHttp(client, run);
    return client;
  }

  async #connectHttp(client: Client, run: McpRun): Promise<void> {
    const expand = (text: string) => this.#expand(text);
    const headers = Object.fromEntries(
      Object.entries(run.headers).map(([name, value]) => [name, headerOf(name, expand(value))]),
    );
    const url = addressOf(expand(run.url ?? ''));
    const { oauth } = run;
    const authProvider = oauth && providerOf(oauth, expand);
    if (authProvider)
      this.#tokens.set(keyOf(run), () => {
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

  async #connectProgram(client: Client, run: McpRun): Promise<void> {
    const expand = (text: string) => this.#expand(text);
    const { transport, said } = programOf(run, expand, this.#mark, this.secretsOf(run));
    try {
      await client.connect(transport);
    } catch (error) {
      // It has said why, and perhaps a moment later than it ended.
      await new Promise((resolve) => setTimeout(resolve, 20));
      const words = said();
      throw words ? new Error(`${messageOf(error)}; it said: ${words}`, { cause: error }) : error;
    }
  }
}

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

/** Tools with one of these share a connection. */
const keyOf = ({ command, url, headers, env, cwd, oauth }: McpRun): string =>
  JSON.stringify([command, url, headers, env, cwd, oauth]);
