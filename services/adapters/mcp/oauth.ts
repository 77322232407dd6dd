/**
 * Tokens of MCP servers for programs: client credentials with a secret or a signing key (RFC 6749,
 * 4.4; RFC 7523). No person is needed, so any executor may get a token of its own.
 *
 * O1  Credentials go to the issuer that their document names, whatever the server says its own is.
 * O2  No request leaves for a host that is neither the server's nor the issuer's: a server that names
 *     another has no say in where an executor looks.
 */
import {
  ClientCredentialsProvider,
  OAuthClientFlowError,
  type OAuthClientProvider,
  OAuthError,
  PrivateKeyJwtProvider,
} from '@modelcontextprotocol/client';
import { z } from 'zod';
import { messageOf, Refused, Unavailable, UnderstudyError } from '../../core/errors.ts';
import { jsonOf } from '../../core/json.ts';
import type { McpOauth } from '../../core/tools/mcp-run.ts';

/** @param expand  puts variables in; throws for one that is not set */
export function providerOf(
  { issuer, clientId, clientSecret, privateKey, algorithm, scope }: McpOauth,
  expand: (text: string) => string,
): OAuthClientProvider {
  const own = {
    clientId: expand(clientId ?? ''),
    expectedIssuer: expand(issuer),
    clientName: 'understudy-executor',
    ...(scope === undefined ? {} : { scope }),
  };
  return privateKey === undefined
    ? new ClientCredentialsProvider({ ...own, clientSecret: expand(clientSecret ?? '') })
    : new PrivateKeyJwtProvider({ ...own, privateKey: expand(privateKey), algorithm });
}

const issuerMs = 15_000;

export type Fetch = (url: string | URL, init?: RequestInit) => Promise<Response>;

/** As `fetch`, to the hosts of these addresses only, and where no answer sends on. */
export function withinHosts(server: string, issuers: readonly string[], fetch: Fetch): Fetch {
  const own = new URL(server).origin;
  const others = new Set(issuers.map((issuer) => new URL(issuer).origin));
  return async (url, init) => {
    const { origin, host } = new URL(url);
    if (origin !== own && !others.has(origin))
      throw new Refused(
        'MCP_UNAUTHORIZED',
        `its server sends for a token to ${host.slice(0, 100)}, which its document does not name`,
      );
    const isServer = new URL(url).href === server;
    // Whoever is asked for a token answers soon, or not at all; a server's stream stays open.
    const limit = isServer ? undefined : AbortSignal.timeout(issuerMs);
    const signals = [init?.signal, limit].filter((one) => one != null);
    const response = await fetch(url, {
      ...init,
      redirect: 'error',
      ...(signals.length > 0 ? { signal: AbortSignal.any(signals) } : {}),
    });
    const isIssuer = others.has(origin) && !isServer;
    return isIssuer && !response.ok ? withoutWords(response) : response;
  };
}

const codeSchema = z.object({ error: z.string().regex(/^[\w.-]{1,64}$/) });

/** Of a refusal its code: the package writes an issuer's own words to the console, whatever they quote. */
async function withoutWords(response: Response): Promise<Response> {
  const told = codeSchema.safeParse(jsonOf(await response.text()));
  const { status } = response;
  return told.success
    ? Response.json({ error: told.data.error }, { status })
    : new Response('', { status });
}

/** Codes of RFC 6749, 5.2, after which the same credentials fare no better. */
const final: ReadonlySet<string> = new Set([
  'invalid_client',
  'unauthorized_client',
  'invalid_scope',
  'unsupported_grant_type',
  'invalid_request',
  'invalid_target',
]);

/** Nobody has signed in, or what was granted is not enough. */
export class SignInNeeded extends Error {
  constructor(why = 'a person must sign in') {
    super(`${why}: understudy mcp login <McpServer>`);
    this.name = 'SignInNeeded';
  }
}

/** Why no token was had; undefined for an error of another kind. */
export function whyNoToken(
  error: unknown,
): { readonly isFinal: boolean; readonly message: string } | undefined {
  if (error instanceof SignInNeeded) return { isFinal: true, message: error.message };
  if (error instanceof UnderstudyError && error.code === 'MCP_UNAUTHORIZED')
    return { isFinal: !(error instanceof Unavailable), message: error.message };
  if (error instanceof OAuthError)
    return {
      isFinal: final.has(String(error.code)),
      message: `its issuer refused: ${error.code}`,
    };
  if (error instanceof OAuthClientFlowError)
    return { isFinal: true, message: messageOf(error).slice(0, 300) };
  return undefined;
}
