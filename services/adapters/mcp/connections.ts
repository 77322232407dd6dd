/** Connections to MCP servers, made when they are first needed: one per server, or one per session. */
import { createHash } from 'node:crypto';
import {
  Client,
  type OAuthClientProvider,
  ProtocolError,
  StreamableHTTPClientTransport,
} from '@modelcontextprotocol/client';
import { Refused, Unavailable } from '../../core/errors.ts';
import type { McpOauth, McpRun } from '../../core/tools/mcp-run.ts';
import { expandEnvironment, secretsIn, withoutSecrets } from '../../core/tools/placeholders.ts';
import { textsOf } from '../../core/tools/tool-spec.ts';
import type { Credentials } from '../../ports/credentials.ts';
import { providerOf, withinHosts } from './oauth.ts';
import { SignIn } from './sign-in.ts';
import { addressOf, cappedFetch, headerOf, programOf } from './transports.ts';

const probeMs = 2_000; // a server over HTTP that says nothing to a probe is spoken to the older way

const idleMs = 600_000; // that the connection of a session is kept without a call
const sessionLines = 200; // connections of sessions in one executor
const sweepMs = 30_000;

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
  /** Of a session alone; undefined for one that all share. */
  readonly session: string | undefined;
  /** When somebody left it last, by `performance.now()`. */
  leftAt: number;
  /** The session that alone has called on it; null after a second one has. */
  caller: string | undefined | null;
  /** The last warning of its server, without secrets. */
  warned: string | undefined;
  /** That which its server was sent. */
  token: (() => string | undefined) | undefined;
  /** The end of what its program says on stderr, without secrets. */
  printed: (() => string) | undefined;
}

export interface ConnectionSettings {
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** For the environment of servers that are programs. */
  readonly mark?: Readonly<Record<string, string>>;
  /** What people signed in for; absent where nobody can. */
  readonly credentials?: Credentials | undefined;
  /** Connections of sessions at a time. */
  readonly sessionLinesMax?: number;
  /** Hears that a server logs something: how grave, and under which name. */
  readonly onLog?: (level: string, logger: string) => void;
}

export class Connections {
  readonly #settings: ConnectionSettings;
  readonly #lines = new Map<string, Line>();
  /** Errors of servers: the client judges answers itself, and throws the same class. */
  readonly #answered = new WeakSet<ProtocolError>();
  /** Also those that are retired, and have a call under way. */
  readonly #living = new Set<Line>();
  readonly #signIns = new Map<string, SignIn>();
  readonly #sweeping: NodeJS.Timeout;

  constructor(settings: ConnectionSettings) {
    this.#settings = settings;
    this.#sweeping = setInterval(() => this.#sweep(performance.now() - idleMs), sweepMs);
    this.#sweeping.unref();
  }

  /**
   * Whoever takes it counts itself among its calls, and leaves it by `left`.
   *
   * @param session  who asks: a server that is `sessionful` has a connection for each
   * @throws Unavailable where there are too many of those
   */
  lineOf(run: McpRun, session: string): Line {
    const ownSession = run.sessionful ? session : undefined;
    const key = ownSession === undefined ? keyOf(run) : `${ownSession} ${keyOf(run)}`;
    const known = this.#lines.get(key);
    if (known) return known;
    if (ownSession !== undefined) this.#makeRoom();
    const broken = new AbortController();
    const own = clientFor(run);
    const retire = () => {
      line.isRetired = true;
      if (this.#lines.get(key) === line) this.#lines.delete(key);
      if (line.calls === 0) this.#living.delete(line);
    };
    const line: Line = {
      hangUp: () => {
        this.#living.delete(line);
        return own.close().catch(() => undefined);
      },
      client: Promise.resolve().then(() =>
        this.#connected(own, run, line, (why) => {
          retire();
          broken.abort(why);
        }),
      ),
      broken: broken.signal,
      retire,
      calls: 0,
      heardAt: 0,
      isRetired: false,
      session: ownSession,
      leftAt: performance.now(),
      caller: undefined,
      warned: undefined,
      token: undefined,
      printed: undefined,
    };
    line.client.catch(retire);
    this.#lines.set(key, line);
    this.#living.add(line);
    return line;
  }

  /**
   * What a server says besides, for the failure of a call: to the only session that has called, for
   * it may be of any call before. Why it did not start is told to everybody.
   *
   * @param session  undefined for whoever asks before any session has called
   */
  saidOn(
    { caller, warned, printed }: Line,
    session: string | undefined,
    isConnected: boolean,
  ): string {
    if (isConnected && caller !== session) return '';
    const words = [warned, printed?.()].filter(Boolean).join('; ');
    return words ? `; it said: ${words}` : '';
  }

  left(line: Line): void {
    line.calls -= 1;
    line.leftAt = performance.now();
    if (line.isRetired && line.calls === 0) void line.hangUp();
  }

  /** Did the server say it, or the client of its answer? */
  isAnswered(error: ProtocolError): boolean {
    return this.#answered.has(error);
  }

  /** What must not be told of a server's words. */
  secretsOf(run: McpRun): string[] {
    const texts = textsOf(run).map(([, text]) => text);
    // Whoever was sent a token may say it again, on whichever connection.
    const tokens = [...this.#living].flatMap(({ token }) => token?.() ?? []);
    return [...secretsIn(this.#settings.environment, ...texts), ...tokens];
  }

  /**
   * Where a person signs in, for a server whose document says `login`.
   *
   * @throws Refused where it says no such thing
   */
  signInOf(run: McpRun): SignIn {
    const { oauth, url } = run;
    if (!oauth?.login || url === undefined)
      throw new Refused('SIGN_IN_REFUSED', 'its document says no oauth.login: nobody signs in');
    const { credentials } = this.#settings;
    if (!credentials)
      throw new Refused('CREDENTIAL_KEY_MISSING', 'there is no place here for what is signed in');
    const key = createHash('sha256')
      .update(JSON.stringify([url, oauth]))
      .digest('hex')
      .slice(0, 32);
    let found = this.#signIns.get(key);
    if (!found) {
      const expand = (text: string) => this.#expand(text);
      const serverUrl = addressOf(expand(url));
      const fetch = withinHosts(serverUrl.href, issuersOf(oauth, expand), cappedFetch);
      found = new SignIn({ oauth, serverUrl, credentials, key, fetch, expand });
      this.#signIns.set(key, found);
    }
    return found;
  }

  async close(): Promise<void> {
    clearInterval(this.#sweeping);
    const open = [...this.#lines.values()];
    this.#lines.clear();
    await Promise.all(open.map((line) => line.hangUp()));
  }

  #expand(text: string): string {
    const expanded = expandEnvironment(text, this.#settings.environment);
    if (!expanded.ok)
      throw new Refused(
        'TOOL_ENV_MISSING',
        `${expanded.missing.join(', ')} is not set for this executor`,
      );
    return expanded.text;
  }

  /** Connections of sessions that nobody has used since then. */
  #sweep(since: number): void {
    for (const line of this.#lines.values())
      if (line.session !== undefined && line.calls === 0 && line.leftAt < since) {
        line.retire();
        void line.hangUp();
      }
  }

  /** For one more session: that which has rested longest goes. */
  #makeRoom(): void {
    const all = [...this.#lines.values()].filter(({ session }) => session !== undefined);
    if (all.length < (this.#settings.sessionLinesMax ?? sessionLines)) return;
    const resting = all.filter(({ calls }) => calls === 0);
    if (resting.length === 0)
      throw new Unavailable('MCP_BUSY', `${all.length} sessions are at their servers here`);
    const [longest] = resting.sort((left, right) => left.leftAt - right.leftAt);
    longest?.retire();
    void longest?.hangUp();
  }

  #hearLog(client: Client, run: McpRun, line: Line): void {
    client.setNotificationHandler(
      'notifications/message',
      ({ params: { level, logger, data } }) => {
        line.heardAt = performance.now();
        this.#settings.onLog?.(level, /^[\w.-]{1,64}$/.test(logger ?? '') ? logger! : '');
        if (!gravely.has(level)) return;
        const words = typeof data === 'string' ? data : (JSON.stringify(data) ?? '');
        line.warned = withoutSecrets(words.replaceAll(/\s+/g, ' '), this.secretsOf(run)).slice(
          -200,
        );
      },
    );
  }

  async #connected(
    client: Client,
    run: McpRun,
    line: Line,
    onDead: (why: Error) => void,
  ): Promise<Client> {
    this.#hearLog(client, run, line);
    client.onclose = line.retire;
    client.onerror = (error) => {
      if (/Maximum reconnection attempts/.test(error.message)) onDead(error);
    };
    const request = client.request.bind(client) as (...given: unknown[]) => Promise<unknown>;
    client.request = ((...given: unknown[]) =>
      request(...given).catch((error: unknown) => {
        if (error instanceof ProtocolError) this.#answered.add(error);
        throw error;
      })) as Client['request'];
    if (run.command) await this.#connectProgram(client, run, line);
    else await this.#connectHttp(client, run, line);
    return client;
  }

  async #connectHttp(client: Client, run: McpRun, line: Line): Promise<void> {
    const expand = (text: string) => this.#expand(text);
    const headers = Object.fromEntries(
      Object.entries(run.headers).map(([name, value]) => [name, headerOf(name, expand(value))]),
    );
    const url = addressOf(expand(run.url ?? ''));
    const { oauth } = run;
    const within = oauth && withinHosts(url.href, issuersOf(oauth, expand), cappedFetch);
    const transport = (authProvider?: OAuthClientProvider | SignIn) =>
      new StreamableHTTPClientTransport(url, {
        requestInit: { headers },
        fetch: authProvider instanceof SignIn ? authProvider.fetch : (within ?? cappedFetch),
        ...(authProvider ? { authProvider } : {}),
      });
    if (!oauth) return client.connect(transport());
    if (oauth.login) {
      const signIn = this.signInOf(run);
      line.token = () => signIn.lastToken;
      return client.connect(transport(signIn));
    }
    const provider = providerOf(oauth, expand);
    line.token = () => {
      const known = provider.tokens();
      return known && 'access_token' in known ? known.access_token : undefined;
    };
    return client.connect(transport(provider));
  }

  async #connectProgram(client: Client, run: McpRun, line: Line): Promise<void> {
    const expand = (text: string) => this.#expand(text);
    const { transport, said } = programOf(
      run,
      expand,
      this.#settings.mark ?? {},
      this.secretsOf(run),
    );
    line.printed = said;
    try {
      await client.connect(transport);
    } catch (error) {
      // It has said why, and perhaps a moment later than it ended.
      await new Promise((resolve) => setTimeout(resolve, 20));
      throw error;
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

/** Levels of a server's log that a failure is told with (RFC 5424). */
const gravely: ReadonlySet<string> = new Set([
  'warning',
  'error',
  'critical',
  'alert',
  'emergency',
]);

const issuersOf = ({ issuer, origins = [] }: McpOauth, expand: (text: string) => string) =>
  [expand(issuer), ...origins].map((one) => addressOf(one).href);

/** Tools with one of these share a connection. */
const keyOf = ({ command, url, headers, env, cwd, oauth }: McpRun): string =>
  JSON.stringify([command, url, headers, env, cwd, oauth]);
