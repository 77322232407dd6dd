/** An MCP server that wants a person to sign in, and its issuer: refresh tokens are good once. */
import { createHash } from 'node:crypto';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

interface Heard {
  readonly path: string;
  readonly authorization: string | undefined;
  readonly body: string;
}

export class SignInWorld {
  readonly issued: Heard[] = [];
  readonly served: Heard[] = [];
  /** Access tokens that the server takes now. */
  readonly good = new Set<string>();
  /** Scope that calls need. */
  needed = 'read';
  /** The issuer answers so instead of granting. */
  refusal: { status: number; body: object } | undefined;
  /** The server takes no token at all. */
  isShut = false;
  /** How long the issuer takes to grant, ms. */
  grantsAfterMs = 0;
  /** Whom the server names as its issuer, instead of the true one. */
  namedIssuer: string | undefined;
  issuerUrl = '';
  serverUrl = '';
  #refresh = new Map<string, string>();
  #codes = new Map<string, { challenge: string; scope: string }>();
  readonly #scopes = new Map<string, string>();
  #count = 0;
  readonly #open: Server[] = [];

  async start(): Promise<this> {
    this.issuerUrl = await this.#listen(this.issued, (heard, response) =>
      this.#issue(heard, response),
    );
    this.serverUrl = await this.#listen(this.served, (heard, response) =>
      this.#serve(heard, response),
    );
    return this;
  }
  stop(): void {
    for (const server of this.#open) {
      server.close();
      server.closeAllConnections();
    }
  }
  /** Requests for a token with a refresh token. */
  get refreshes(): number {
    return this.issued.filter(({ body }) => body.includes('grant_type=refresh_token')).length;
  }
  /** What a person's browser does. @returns where it is sent back to */
  async browse(url: string): Promise<string> {
    const answer = await fetch(url, { redirect: 'manual' });
    return answer.headers.get('location') ?? '';
  }
  expire(): void {
    this.good.clear();
  }
  forget(): void {
    this.#refresh = new Map();
    this.expire();
  }

  #listen(list: Heard[], answer: (heard: Heard, response: ServerResponse) => void) {
    const server = createServer(async (request, response) => {
      let body = '';
      for await (const chunk of request) body += chunk;
      const heard = {
        path: request.url ?? '',
        authorization: request.headers.authorization,
        body,
      };
      list.push(heard);
      if (request.method === 'GET' && request.url === '/mcp')
        return void response.writeHead(405).end();
      answer(heard, response);
    });
    this.#open.push(server);
    return new Promise<string>((resolve) =>
      server.listen(0, '127.0.0.1', () =>
        resolve(`http://127.0.0.1:${(server.address() as AddressInfo).port}`),
      ),
    );
  }

  #grant(scope: string): object {
    this.#count += 1;
    const access = `access-token-${this.#count}`;
    const refresh = `refresh-token-${this.#count}`;
    this.good.add(access);
    this.#scopes.set(access, scope);
    this.#refresh.set(refresh, scope);
    return {
      access_token: access,
      refresh_token: refresh,
      token_type: 'Bearer',
      expires_in: 60,
      scope,
    };
  }

  #issue({ path, body }: Heard, response: ServerResponse): void {
    const url = new URL(path, this.issuerUrl);
    if (path.startsWith('/.well-known/'))
      return json(response, 200, {
        issuer: this.issuerUrl,
        authorization_endpoint: `${this.issuerUrl}/authorize`,
        token_endpoint: `${this.issuerUrl}/token`,
        registration_endpoint: `${this.issuerUrl}/register`,
        response_types_supported: ['code'],
        grant_types_supported: ['authorization_code', 'refresh_token'],
        code_challenge_methods_supported: ['S256'],
        token_endpoint_auth_methods_supported: ['none'],
      });
    if (url.pathname === '/register')
      return json(response, 201, { ...JSON.parse(body), client_id: 'registered' });
    if (url.pathname === '/authorize') {
      const code = `code-${this.#codes.size + 1}`;
      const { searchParams: asked } = url;
      this.#codes.set(code, {
        challenge: asked.get('code_challenge') ?? '',
        scope: asked.get('scope') ?? '',
      });
      const back = new URL(asked.get('redirect_uri') ?? '');
      back.searchParams.set('code', code);
      back.searchParams.set('state', asked.get('state') ?? '');
      return void response.writeHead(302, { location: back.href }).end();
    }
    if (url.pathname !== '/token') return void response.writeHead(404).end();
    if (this.refusal) return json(response, this.refusal.status, this.refusal.body);
    const given = new URLSearchParams(body);
    const answer = this.#granted(given);
    setTimeout(
      () =>
        answer
          ? json(response, 200, answer)
          : json(response, 400, { error: 'invalid_grant', error_description: 'secret words' }),
      this.grantsAfterMs,
    );
  }

  #granted(given: URLSearchParams): object | undefined {
    if (given.get('grant_type') === 'refresh_token') {
      const old = given.get('refresh_token') ?? '';
      const scope = this.#refresh.get(old);
      this.#refresh.delete(old);
      return scope === undefined ? undefined : this.#grant(scope);
    }
    const code = this.#codes.get(given.get('code') ?? '');
    this.#codes.delete(given.get('code') ?? '');
    const challenge = createHash('sha256')
      .update(given.get('code_verifier') ?? '')
      .digest('base64url');
    return code?.challenge === challenge ? this.#grant(code.scope) : undefined;
  }

  #serve({ path, authorization, body }: Heard, response: ServerResponse): void {
    if (path.startsWith('/.well-known/oauth-protected-resource'))
      return json(response, 200, {
        resource: `${this.serverUrl}/mcp`,
        authorization_servers: [this.namedIssuer ?? this.issuerUrl],
      });
    if (path !== '/mcp') return void response.writeHead(404).end();
    const metadata = `resource_metadata="${this.serverUrl}/.well-known/oauth-protected-resource/mcp"`;
    const token = authorization?.replace('Bearer ', '') ?? '';
    if (this.isShut || !this.good.has(token))
      return json(response, 401, {}, { 'www-authenticate': `Bearer ${metadata}` });
    const { id, method, params } = JSON.parse(body);
    if (id === undefined) return void response.writeHead(202).end();
    const reply = (result: object) => json(response, 200, { jsonrpc: '2.0', id, result });
    if (method === 'initialize')
      return reply({
        protocolVersion: params.protocolVersion,
        capabilities: { tools: {} },
        serverInfo: { name: 'x', version: '1' },
      });
    if (method === 'tools/list')
      return reply({ tools: [{ name: 'note', inputSchema: { type: 'object' } }] });
    if (method !== 'tools/call')
      return json(response, 200, { jsonrpc: '2.0', id, error: { code: -32_601, message: 'no' } });
    if (!this.#scopes.get(token)?.split(' ').includes(this.needed) && this.needed !== 'read')
      return json(
        response,
        403,
        {},
        {
          'www-authenticate': `Bearer error="insufficient_scope", scope="${this.needed}", ${metadata}`,
        },
      );
    if (params.arguments.odd)
      return json(response, 200, {
        jsonrpc: '2.0',
        id,
        error: { code: -32_602, message: `bad for ${authorization}` },
      });
    reply({ content: [{ type: 'text', text: 'done' }] });
  }
}

function json(response: ServerResponse, status: number, body: object, headers = {}): void {
  response
    .writeHead(status, { 'content-type': 'application/json', ...headers })
    .end(JSON.stringify(body));
}
