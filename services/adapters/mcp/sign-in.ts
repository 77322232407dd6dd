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

export class SignIn implements AuthProvider {
  readonly #settings: SignInSettings;
  readonly #self = randomUUID();
  readonly #provider: OAuthClientProvider;
  #known: State | undefined;
  #refreshing: Promise<void> | undefined;
  /** What is kept under another key is replaced, for a person signs in anew. */
  #isAnew = false;

  constructor(settings: SignInSettings) {
    this.#settings = settings;
    this.#provider = this.#providerOf();
  }

  /** The last that was seen: whoever was sent it may say it again. */
  get lastToken(): string | undefined {
    return this.#known?.tokens?.access_token;
  }

  async token(): Promise<string | undefined> {
    this.#known ??= (await this.#read()).state;
    return this.lastToken;
  }

  onUnauthorized({ response }: { readonly response: Response }): Promise<void> {
    const used = this.lastToken;
    this.#refreshing ??= this.#refreshed(response, used).finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  /** A call needs more than was granted: the next sign-in asks for that as well. */
  async widen({ requiredScope, resourceMetadataUrl }: InsufficientScopeError): Promise<void> {
    const { state } = await this.#read();
    const scope = computeScopeUnion(this.#scope(), state.tokens?.scope, requiredScope);
    if (!isOpen(state) || !asksFor(state.open?.url, scope))
      await this.#auth({ scope, resourceMetadataUrl, forceReauthorization: true });
  }

  /** @returns where a person signs in */
  async begin(): Promise<string> {
    this.#isAnew = true;
    try {
      return await this.#begun();
    } finally {
      this.#isAnew = false;
    }
  }

  async #begun(): Promise<string> {
    let { state } = await this.#read();
    if (!isOpen(state)) {
      const scope = computeScopeUnion(this.#scope(), state.tokens?.scope);
      await this.#auth({ scope, forceReauthorization: true });
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
    const { state } = await this.#read();
    if (!isOpen(state) || params.get('state') !== state.open?.state)
      throw new Refused('SIGN_IN_STALE', 'this is not the sign-in that is open now: begin again');
    const code = params.get('code');
    if (!code) {
      await this.#update(({ open: _, ...rest }) => rest);
      const why = params.get('error') ?? 'no code came back';
      throw new Refused('SIGN_IN_REFUSED', `its issuer says: ${why.slice(0, 100)}`);
    }
    const iss = params.get('iss') ?? undefined;
    try {
      await this.#auth({ authorizationCode: code, ...(iss === undefined ? {} : { iss }) });
    } catch (error) {
      // The package drops the tokens with a code that is refused: they were good before.
      const { tokens } = state;
      if (tokens) await this.#update((now) => ({ ...now, tokens: now.tokens ?? tokens }));
      throw error;
    }
    await this.#update(({ open: _, ...rest }) => rest);
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
      if (refreshing && refreshing.until > Date.now()) {
        await new Promise((resolve) => setTimeout(resolve, lookMs));
        continue;
      }
      const claim = { by: this.#self, until: Date.now() + refreshMs };
      if (await this.#write({ ...state, refreshing: claim }, version))
        return this.#refreshNow(state, resourceMetadataUrl, scope);
    }
    throw new Unavailable('MCP_UNAUTHORIZED', 'another executor is refreshing its token');
  }

  async #refreshNow(
    before: State,
    resourceMetadataUrl: URL | undefined,
    scope: string | undefined,
  ): Promise<void> {
    try {
      if ((await this.#auth({ resourceMetadataUrl, scope })) === 'AUTHORIZED') return;
    } finally {
      await this.#update(({ refreshing: _, ...rest }) => rest);
    }
    const { state } = await this.#read();
    // The package has opened another sign-in: one that a person is at stays (S2).
    const open = isOpen(before) ? before.open : state.tokens ? undefined : state.open;
    await this.#update(({ open: _, ...rest }) => (open ? { ...rest, open } : rest));
    if (!state.tokens) throw new SignInNeeded('what was granted is no longer good');
    // It was not refused, and is kept (S4).
    throw new Unavailable('MCP_UNAUTHORIZED', 'its issuer could not be asked for the next token');
  }

  #auth(options: {
    scope?: string | undefined;
    resourceMetadataUrl?: URL | undefined;
    authorizationCode?: string;
    iss?: string;
    forceReauthorization?: boolean;
  }) {
    const { serverUrl, fetch } = this.#settings;
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    return auth(this.#provider, { serverUrl, fetchFn: fetch, ...Object.fromEntries(given) });
  }

  async #read(): Promise<{ state: State; version: number }> {
    const { credentials, key } = this.#settings;
    const found = await credentials.read(key);
    if (found && found.value === undefined && !this.#isAnew)
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

  async #update(change: (state: State) => State): Promise<void> {
    for (;;) {
      const { state, version } = await this.#read();
      if (await this.#write(change(state), version)) return;
    }
  }

  /** What the package asks for and stores. */
  #providerOf(): OAuthClientProvider {
    const { oauth, expand } = this.#settings;
    const redirectUrl = oauth.redirectUrl ?? defaultRedirectUrl;
    const issuer = () => withoutSlash(expand(oauth.issuer));
    let opening = { state: '', verifier: '' };
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
        if (clientId !== undefined)
          return {
            client_id: expand(clientId),
            ...(clientSecret ? { client_secret: expand(clientSecret) } : {}),
            issuer: (await this.#read()).state.discovery?.authorizationServerUrl,
          } as never;
        return (await this.#read()).state.client as never;
      },
      saveClientInformation: async (client) => {
        if (oauth.clientId === undefined)
          await this.#update((state) => ({ ...state, client: { ...client } }));
      },
      tokens: async () => (await this.#read()).state.tokens as never,
      saveTokens: (tokens) =>
        this.#update(({ refreshing: _, ...rest }) => ({
          ...rest,
          tokens: {
            ...tokens,
            // An issuer that sends no other means the same one on.
            refresh_token: tokens.refresh_token ?? rest.tokens?.refresh_token,
          },
        })),
      state: () => {
        opening = { state: randomUUID(), verifier: '' };
        return opening.state;
      },
      saveCodeVerifier: (verifier) => {
        opening = { ...opening, verifier };
      },
      codeVerifier: async () => (await this.#read()).state.open?.verifier ?? '',
      redirectToAuthorization: (url) =>
        this.#update((state) => ({
          ...state,
          open: { url: url.href, ...opening, at: Date.now() },
        })),
      discoveryState: async () => (await this.#read()).state.discovery as never,
      saveDiscoveryState: async (discovery) => {
        const named =
          discovery.authorizationServerMetadata?.issuer ?? discovery.authorizationServerUrl;
        if (withoutSlash(String(named)) !== issuer())
          throw new Refused(
            'MCP_UNAUTHORIZED',
            `its server names another issuer than its document: ${String(named).slice(0, 200)}`,
          );
        await this.#update((state) => ({ ...state, discovery: { ...discovery } as never }));
      },
      invalidateCredentials: (what) =>
        this.#update((state) => {
          if (what === 'all') return {};
          const { tokens, client, open, discovery, refreshing } = state;
          return {
            ...(what === 'tokens' || !tokens ? {} : { tokens }),
            ...(what === 'client' || !client ? {} : { client }),
            ...(what === 'verifier' || !open ? {} : { open }),
            ...(what === 'discovery' || !discovery ? {} : { discovery }),
            ...(refreshing ? { refreshing } : {}),
          };
        }),
    };
  }
}

/** Where `understudy mcp login` listens. */
export const defaultRedirectUrl = 'http://127.0.0.1:33418/callback';

const withoutSlash = (url: string): string => url.replace(/\/$/, '');

const isOpen = ({ open }: State): boolean => open !== undefined && Date.now() - open.at < openMs;

function asksFor(url: string | undefined, scope: string | undefined): boolean {
  const asked = url ? (new URL(url).searchParams.get('scope') ?? '').split(' ') : [];
  return (scope ?? '').split(' ').every((one) => asked.includes(one));
}
