/**
 * Tokens of MCP servers that a person signed in for: authorization code with PKCE (OAuth 2.1), and
 * refresh tokens. Any executor of the pool begins, finishes, uses and refreshes them.
 *
 * S1  One refreshes, others wait for what it stores: a refresh token is good once.
 * S2  A sign-in that is open stays so while its person is at it, whatever calls fail meanwhile.
 * S3  Its callback counts once, with the state that this sign-in began with.
 * S4  An issuer that is away costs no credential.
 */
import { randomUUID } from 'node:crypto';
import {
  type AuthProvider,
  auth,
  computeScopeUnion,
  extractWWWAuthenticateParams,
  type InsufficientScopeError,
  type OAuthClientProvider,
} from '@modelcontextprotocol/client';
import { z } from 'zod';
import { Refused, Unavailable } from '../../core/errors.ts';
import type { McpOauth } from '../../core/tools/mcp-run.ts';
import type { Credentials } from '../../ports/credentials.ts';
import { type Fetch, SignInNeeded } from './oauth.ts';

const openMs = 600_000; // how long a person may be at it
const refreshMs = 30_000; // how long one executor may be refreshing before another takes over
const lookMs = 250;

const storedSchema = z.object({
  client: z.looseObject({ client_id: z.string() }).optional(),
  tokens: z
    .looseObject({
      access_token: z.string(),
      token_type: z.string(),
      refresh_token: z.string().optional(),
      scope: z.string().optional(),
    })
    .optional(),
  discovery: z.looseObject({ authorizationServerUrl: z.string() }).optional(),
  /** Waits for its person. */
  open: z
    .object({ url: z.string(), verifier: z.string(), state: z.string(), at: z.number() })
    .optional(),
  refreshing: z.object({ by: z.string(), until: z.number() }).optional(),
});
type State = z.infer<typeof storedSchema>;

export interface SignInSettings {
  readonly oauth: McpOauth;
  readonly serverUrl: URL;
  readonly credentials: Credentials;
  /** Where they are kept. */
  readonly key: string;
  readonly fetch: Fetch;
  /** Puts variables in; throws for one that is not set. */
  readonly expand: (text: string) => string;
}

/** One question to the issuer: what it begins with, so that nothing of meanwhile is lost. */
interface Attempt {
  /** Tokens that are to be refreshed: what it comes to counts for these alone. */
  readonly from?: State['tokens'];
  /** Of the sign-in that a code came back for. */
  readonly verifier?: string;
  /** What is kept under another key is replaced, for a person signs in anew. */
  readonly isAnew?: boolean;
  /** Of the page that it led to. */
  opened: string;
  /** The issuer takes its tokens no more. */
  isOver: boolean;
}

interface AuthOptions {
  readonly scope?: string | undefined;
  readonly resourceMetadataUrl?: URL | undefined;
  readonly authorizationCode?: string;
  readonly iss?: string | undefined;
  readonly forceReauthorization?: boolean;
}

export class SignIn implements AuthProvider {
  readonly #settings: SignInSettings;
  readonly #self = randomUUID();
  /** By the token that was refused. */
  readonly #refreshing = new Map<string | undefined, Promise<void>>();
  readonly #sent = new WeakMap<Response, string | undefined>();
  #known: State | undefined;

  constructor(settings: SignInSettings) {
    this.#settings = settings;
  }

  /** As `fetch`; remembers which token an answer is to. */
  readonly fetch: Fetch = async (url, init) => {
    const sent = new Headers(init?.headers).get('authorization')?.replace(/^Bearer /i, '');
    const response = await this.#settings.fetch(url, init);
    this.#sent.set(response, sent);
    return response;
  };

  /** The last that was seen: whoever was sent it may say it again. */
  get lastToken(): string | undefined {
    return this.#known?.tokens?.access_token;
  }

  async token(): Promise<string | undefined> {
    this.#known ??= (await this.#read()).state;
    return this.lastToken;
  }

  onUnauthorized({ response }: { readonly response: Response }): Promise<void> {
    const used = this.#sent.get(response);
    let refreshing = this.#refreshing.get(used);
    if (!refreshing) {
      refreshing = this.#refreshed(response, used).finally(() => this.#refreshing.delete(used));
      this.#refreshing.set(used, refreshing);
    }
    return refreshing;
  }

  /** A call needs more than was granted: the next sign-in asks for that as well. */
  async widen({ requiredScope, resourceMetadataUrl }: InsufficientScopeError): Promise<void> {
    const { state } = await this.#read();
    const scope = computeScopeUnion(this.#scope(), state.tokens?.scope, requiredScope);
    if (!isOpen(state))
      await this.#auth({ scope, resourceMetadataUrl, forceReauthorization: true });
  }

  /** @returns where a person signs in */
  async begin(): Promise<string> {
    let { state } = await this.#read(true);
    if (!isOpen(state)) {
      const scope = computeScopeUnion(this.#scope(), state.tokens?.scope);
      await this.#auth({ scope, forceReauthorization: true }, { isAnew: true });
      ({ state } = await this.#read());
    }
    if (!state.open) throw new Refused('SIGN_IN_REFUSED', 'its issuer asks nobody to sign in');
    return state.open.url;
  }

  /**
   * @param callback  the address that the person was sent back to
   * @throws Refused (SIGN_IN_STALE, SIGN_IN_REFUSED)
   */
  async finish(callback: string): Promise<void> {
    const params = URL.canParse(callback) ? new URL(callback).searchParams : new URLSearchParams();
    const { state, version } = await this.#read();
    const { open, ...rest } = state;
    const stale = new Refused(
      'SIGN_IN_STALE',
      'this is not the sign-in that is open now: begin again',
    );
    if (!open || !isOpen(state) || params.get('state') !== open.state) throw stale;
    // Whoever takes it redeems its code, and nobody else (S3).
    if (!(await this.#write(rest, version))) throw stale;
    const code = params.get('code');
    if (!code) {
      const why = params.get('error') ?? 'no code came back';
      throw new Refused('SIGN_IN_REFUSED', `its issuer says: ${why.slice(0, 100)}`);
    }
    const iss = params.get('iss') ?? undefined;
    await this.#auth({ authorizationCode: code, iss }, { verifier: open.verifier });
  }

  #scope(): string | undefined {
    return this.#settings.oauth.scope;
  }

  async #refreshed(response: Response, used: string | undefined): Promise<void> {
    const { resourceMetadataUrl, scope } = extractWWWAuthenticateParams(response);
    const until = Date.now() + 2 * refreshMs;
    while (Date.now() < until) {
      const { state, version } = await this.#read();
      const { tokens, refreshing } = state;
      // Another has refreshed, or somebody has signed in (S1).
      if (tokens && tokens.access_token !== used) return;
      if (!tokens?.refresh_token) {
        if (!isOpen(state)) await this.#auth({ resourceMetadataUrl, scope });
        throw new SignInNeeded();
      }
      if (refreshing && refreshing.by !== this.#self && refreshing.until > Date.now()) {
        await new Promise((resolve) => setTimeout(resolve, lookMs));
        continue;
      }
      const claim = { by: this.#self, until: Date.now() + refreshMs };
      if (await this.#write({ ...state, refreshing: claim }, version))
        return this.#refreshNow(tokens, { resourceMetadataUrl, scope });
    }
    throw new Unavailable('MCP_UNAUTHORIZED', 'another executor is refreshing its token');
  }

  async #refreshNow(from: NonNullable<State['tokens']>, options: AuthOptions): Promise<void> {
    const attempt: Attempt = { from, opened: '', isOver: false };
    try {
      if ((await this.#auth(options, attempt)) === 'AUTHORIZED') return;
    } finally {
      await this.#update(({ refreshing, ...rest }) =>
        refreshing && refreshing.by !== this.#self ? { ...rest, refreshing } : rest,
      );
    }
    const { state } = await this.#read();
    if (!state.tokens) throw new SignInNeeded('what was granted is no longer good');
    // They were not refused, or others are there: the page that the package led to is nobody's (S4).
    await this.#update(({ open, ...rest }) =>
      open && open.state !== attempt.opened ? { ...rest, open } : rest,
    );
    if (!isSame(state.tokens, from)) return;
    throw new Unavailable('MCP_UNAUTHORIZED', 'its issuer could not be asked for the next token');
  }

  #auth(options: AuthOptions, attempt: Partial<Attempt> = {}) {
    const { serverUrl, fetch } = this.#settings;
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    const own = Object.assign(attempt, { opened: '', isOver: false }) as Attempt;
    return auth(this.#providerFor(own), {
      serverUrl,
      fetchFn: fetch,
      ...Object.fromEntries(given),
    });
  }

  async #read(isAnew = false): Promise<{ state: State; version: number }> {
    const { credentials, key } = this.#settings;
    const found = await credentials.read(key);
    if (found && found.value === undefined && !isAnew)
      throw new Refused(
        'MCP_UNAUTHORIZED',
        'what was signed in for is kept under another key: give this executor that of its pool, or sign in again',
      );
    const { data = {} } = storedSchema.safeParse(found?.value ?? {});
    this.#known = data;
    return { state: data, version: found?.version ?? 0 };
  }

  async #write(state: State, version: number): Promise<boolean> {
    const { credentials, key } = this.#settings;
    const isOurs = await credentials.write(key, state, version);
    if (isOurs) this.#known = state;
    return isOurs;
  }

  async #update(change: (state: State) => State, isAnew = false): Promise<void> {
    for (;;) {
      const { state, version } = await this.#read(isAnew);
      if (await this.#write(change(state), version)) return;
    }
  }

  /** What the package asks for and stores, for one attempt. */
  #providerFor(attempt: Attempt): OAuthClientProvider {
    const { oauth, expand } = this.#settings;
    const { from, verifier, isAnew = false } = attempt;
    const redirectUrl = oauth.redirectUrl ?? defaultRedirectUrl;
    const update = (change: (state: State) => State) => this.#update(change, isAnew);
    const read = async () => (await this.#read(isAnew)).state;
    let ownVerifier = '';
    return {
      redirectUrl,
      ...(oauth.clientMetadataUrl ? { clientMetadataUrl: oauth.clientMetadataUrl } : {}),
      clientMetadata: {
        client_name: 'Understudy',
        redirect_uris: [redirectUrl],
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        ...(oauth.scope ? { scope: oauth.scope } : {}),
      },
      clientInformation: async () => {
        const { clientId, clientSecret } = oauth;
        if (clientId === undefined) return (await read()).client as never;
        return {
          client_id: expand(clientId),
          ...(clientSecret ? { client_secret: expand(clientSecret) } : {}),
          issuer: (await read()).discovery?.authorizationServerUrl,
        } as never;
      },
      saveClientInformation: async (client) => {
        if (oauth.clientId === undefined)
          await update((state) => ({ ...state, client: { ...client } }));
      },
      tokens: async () => (attempt.isOver ? undefined : (from ?? (await read()).tokens)) as never,
      saveTokens: (tokens) =>
        update((state) => {
          if (from && !isSame(state.tokens, from)) return state;
          const { refreshing: _, ...rest } = state;
          // An issuer that sends no other after a refresh means the same one on.
          const refresh = tokens.refresh_token ?? from?.refresh_token;
          return {
            ...rest,
            tokens: { ...tokens, ...(refresh ? { refresh_token: refresh } : {}) },
          };
        }),
      state: () => {
        attempt.opened = randomUUID();
        return attempt.opened;
      },
      saveCodeVerifier: (given) => {
        ownVerifier = given;
      },
      codeVerifier: () => verifier ?? ownVerifier,
      redirectToAuthorization: (url) => {
        const open = {
          url: url.href,
          state: attempt.opened,
          verifier: ownVerifier,
          at: Date.now(),
        };
        return update((state) => (isOpen(state) ? state : { ...state, open }));
      },
      discoveryState: async () => (await read()).discovery as never,
      saveDiscoveryState: async (discovery) => {
        const named =
          discovery.authorizationServerMetadata?.issuer ?? discovery.authorizationServerUrl;
        if (withoutSlash(String(named)) !== withoutSlash(expand(oauth.issuer)))
          throw new Refused(
            'MCP_UNAUTHORIZED',
            `its server names another issuer than its document: ${String(named).slice(0, 200)}`,
          );
        await update((state) => ({ ...state, discovery: { ...discovery } as never }));
      },
      // A code that is refused says nothing of the tokens there are, and a refresh only of its own.
      invalidateCredentials: (what) => {
        attempt.isOver ||= from !== undefined && (what === 'tokens' || what === 'all');
        return update((state) => {
          const { tokens, client, discovery, ...rest } = state;
          const isOver = (what === 'tokens' || what === 'all') && from && isSame(tokens, from);
          const isForgotten = what === 'client' || what === 'all';
          return {
            ...rest,
            ...(isOver || !tokens ? {} : { tokens }),
            ...(isForgotten || !client ? {} : { client }),
            ...(what === 'discovery' || !discovery ? {} : { discovery }),
          };
        });
      },
    };
  }
}

const isSame = (one: State['tokens'], other: State['tokens']): boolean =>
  one?.access_token === other?.access_token && one?.refresh_token === other?.refresh_token;

/** Where `understudy mcp login` listens. */
export const defaultRedirectUrl = 'http://127.0.0.1:33418/callback';

const withoutSlash = (url: string): string => url.replace(/\/$/, '');

const isOpen = ({ open }: State): boolean => open !== undefined && Date.now() - open.at < openMs;
