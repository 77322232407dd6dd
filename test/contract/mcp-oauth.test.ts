/** Tokens of MCP servers: whose credentials go where, and what becomes of a call that has none. */
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { parseSpecs } from '../../services/adapters/files/spec-parser.ts';
import { mcpRunner } from '../../services/adapters/mcp/tool.ts';
import { catalogOf } from '../../services/core/session/specs.ts';
import { questionOf, troublesOf } from '../../services/core/tools/environment-check.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import type { ToolRunner } from '../../services/ports/performers.ts';

const key = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  .privateKey.export({ type: 'pkcs8', format: 'pem' })
  .toString();
const environment = { ID: 'desk', SECRET: 'hunter-22222', KEY: key };

interface Heard {
  readonly path: string;
  readonly authorization: string | undefined;
  readonly body: string;
}
type Answer = (request: Heard, response: ServerResponse) => void;

const open: Server[] = [];
async function listening(answer: Answer): Promise<{ url: string; heard: Heard[] }> {
  const heard: Heard[] = [];
  const server = createServer(async (request: IncomingMessage, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const { authorization } = request.headers;
    const one = { path: request.url ?? '', authorization, body };
    heard.push(one);
    if (request.method === 'GET' && request.url === '/mcp')
      return void response.writeHead(405).end();
    answer(one, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  open.push(server);
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, heard };
}
const json = (response: ServerResponse, status: number, body: object, headers = {}) =>
  response
    .writeHead(status, { 'content-type': 'application/json', ...headers })
    .end(JSON.stringify(body));

/** What the issuer grants, and what the MCP server takes. */
let valid: string;
let granted: number;
let refusal: object | undefined;

async function world(named: { issuer?: string; sendsOnTo?: string } = {}) {
  const issuer = await listening((request, response) => {
    if (request.path.startsWith('/.well-known/'))
      return json(response, 200, {
        issuer: issuer.url,
        authorization_endpoint: `${issuer.url}/authorize`,
        token_endpoint: `${issuer.url}/token`,
        response_types_supported: ['code'],
        grant_types_supported: ['client_credentials'],
        token_endpoint_auth_methods_supported: ['client_secret_basic', 'private_key_jwt'],
      });
    if (request.path !== '/token') return response.writeHead(404).end();
    if (named.sendsOnTo)
      return response.writeHead(307, { location: `${named.sendsOnTo}/token` }).end();
    if (refusal) return json(response, 401, refusal);
    granted += 1;
    valid = `token-number-${granted}`;
    return json(response, 200, { access_token: valid, token_type: 'Bearer', expires_in: 3_600 });
  });
  const server = await listening((request, response) => {
    if (request.path.startsWith('/.well-known/oauth-protected-resource'))
      return json(response, 200, {
        resource: `${server.url}/mcp`,
        authorization_servers: [named.issuer ?? issuer.url],
      });
    if (request.path !== '/mcp') return response.writeHead(404).end();
    if (request.authorization !== `Bearer ${valid}`)
      return json(
        response,
        401,
        {},
        {
          'www-authenticate': `Bearer resource_metadata="${server.url}/.well-known/oauth-protected-resource/mcp"`,
        },
      );
    const { id, method, params } = JSON.parse(request.body);
    if (id === undefined) return response.writeHead(202).end();
    if (method === 'initialize')
      return json(response, 200, {
        jsonrpc: '2.0',
        id,
        result: {
          protocolVersion: params.protocolVersion,
          capabilities: { tools: {} },
          serverInfo: { name: 'x', version: '1' },
        },
      });
    if (method !== 'tools/call')
      return json(response, 200, { jsonrpc: '2.0', id, error: { code: -32_601, message: 'no' } });
    if (params.arguments.odd)
      return json(response, 200, {
        jsonrpc: '2.0',
        id,
        error: { code: -32_602, message: `bad for ${request.authorization}` },
      });
    return json(response, 200, {
      jsonrpc: '2.0',
      id,
      result: { content: [{ type: 'text', text: 'done' }] },
    });
  });
  return { issuer, server };
}

let runner: ToolRunner<never>;
beforeEach(() => {
  [valid, granted, refusal] = ['none', 0, undefined];
  runner = mcpRunner(environment) as unknown as ToolRunner<never>;
});
afterEach(async () => {
  await runner.close?.();
  for (const one of open.splice(0)) {
    one.close();
    one.closeAllConnections();
  }
});

const bySecret = { clientId: '${env:ID}', clientSecret: '${env:SECRET}' };
const byKey = { clientId: 'desk', privateKey: '${env:KEY}', algorithm: 'ES256' };
const specOf = (url: string, oauth: object) =>
  toolSpecSchema.parse({ description: 'x', run: { kind: 'mcp', url: `${url}/mcp`, oauth } });
const call = (url: string, oauth: object, args: object = {}) => {
  const spec = specOf(url, oauth);
  const job = { tool: 'pay', spec, arguments: args, tenant: 'acme', session: 's' };
  const more = { ...job, idempotencyKey: `e${Math.random()}` };
  return runner.run(more as never, spec.run as never, new AbortController().signal);
};

test('a token is had once for a secret, and again when the server takes it no more', async () => {
  const { issuer, server } = await world();
  const oauth = { ...bySecret, issuer: issuer.url, scope: 'orders' };
  expect(await call(server.url, oauth)).toEqual({ ok: true, value: 'done' });
  expect(await call(server.url, oauth)).toEqual({ ok: true, value: 'done' });
  const asked = () => issuer.heard.filter(({ path }) => path === '/token');
  expect(asked()).toHaveLength(1);
  expect(asked()[0]?.authorization).toBe(
    `Basic ${Buffer.from('desk:hunter-22222').toString('base64')}`,
  );
  expect(new URLSearchParams(asked()[0]?.body).get('grant_type')).toBe('client_credentials');
  expect(new URLSearchParams(asked()[0]?.body).get('scope')).toBe('orders');
  valid = 'withdrawn';
  expect(await call(server.url, oauth)).toEqual({ ok: true, value: 'done' });
  expect(asked()).toHaveLength(2);
  expect(JSON.stringify(server.heard)).not.toContain('hunter');
});

test('a key signs, and does not leave', async () => {
  const { issuer, server } = await world();
  expect(await call(server.url, { ...byKey, issuer: issuer.url })).toEqual({
    ok: true,
    value: 'done',
  });
  const { body } = issuer.heard.find(({ path }) => path === '/token')!;
  const assertion = new URLSearchParams(body).get('client_assertion')!;
  const claims = JSON.parse(Buffer.from(assertion.split('.')[1]!, 'base64url').toString());
  expect(claims).toMatchObject({ iss: 'desk', sub: 'desk' });
  expect(JSON.stringify([issuer.heard, server.heard])).not.toContain('PRIVATE');
});

test('a server that names another issuer gets nothing sent there, and nothing has begun', async () => {
  const thief = await listening((_request, response) =>
    json(response, 200, { access_token: 'x', token_type: 'Bearer' }),
  );
  const { issuer, server } = await world({ issuer: thief.url });
  const outcome = await call(server.url, { ...bySecret, issuer: issuer.url });
  expect(outcome).toMatchObject({ ok: false, failure: { hasBegun: false } });
  expect(thief.heard).toEqual([]);
  expect(JSON.stringify(server.heard)).not.toContain('tools/call');
});

test('an issuer, or a server, that sends on is not followed', async () => {
  const thief = await listening((_request, response) =>
    json(response, 200, { access_token: 'x', token_type: 'Bearer' }),
  );
  const { issuer, server } = await world({ sendsOnTo: thief.url });
  for (const oauth of [bySecret, byKey])
    expect(await call(server.url, { ...oauth, issuer: issuer.url })).toMatchObject({
      ok: false,
      failure: { hasBegun: false },
    });
  const moved = await listening((request, response) =>
    response.writeHead(307, { location: `${thief.url}${request.path}` }).end(),
  );
  expect(await call(moved.url, { ...bySecret, issuer: issuer.url })).toMatchObject({ ok: false });
  expect(thief.heard).toEqual([]);
});

test('credentials that the issuer refuses end the call by name, without themselves', async () => {
  const { issuer, server } = await world();
  const said = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
  refusal = { error: 'invalid_client', error_description: 'hunter-22222 is wrong' };
  const outcome = await call(server.url, { ...bySecret, issuer: issuer.url });
  expect(outcome).toEqual({
    ok: false,
    failure: {
      class: 'permanent',
      code: 'MCP_UNAUTHORIZED',
      message: 'tool pay: no token for its MCP server: its issuer refused: invalid_client',
      hasBegun: false,
    },
  });
  refusal = { error: 'temporarily_unavailable' };
  expect(await call(server.url, { ...bySecret, issuer: issuer.url })).toMatchObject({
    failure: { class: 'transient', hasBegun: false },
  });
  expect(JSON.stringify(said.mock.calls)).not.toContain('hunter');
  said.mockRestore();
});

test('a server that says the token again is told without it', async () => {
  const { issuer, server } = await world();
  const outcome = await call(server.url, { ...bySecret, issuer: issuer.url }, { odd: true });
  expect(outcome).toMatchObject({
    failure: { message: expect.stringContaining('bad for Bearer ***') },
  });
});

test('what is not set is named before anything is sent', async () => {
  const { issuer, server } = await world();
  const oauth = { clientId: 'desk', clientSecret: '${env:GONE}', issuer: issuer.url };
  expect(await call(server.url, oauth)).toMatchObject({
    failure: { code: 'TOOL_ENV_MISSING', message: expect.stringContaining('GONE') },
  });
  expect([...issuer.heard, ...server.heard]).toEqual([]);
  const questions = [questionOf('pay', specOf(server.url, { ...oauth, clientId: '${env:ID}' }))];
  expect(troublesOf(questions, environment)).toEqual([
    { tool: 'pay', field: 'run.oauth', message: 'GONE is not set for the executors' },
  ]);
});

test.each([
  ['a secret in plain words', { clientId: 'a', clientSecret: 'plain', issuer: 'https://i' }],
  ['no credentials', { clientId: 'a', issuer: 'https://i' }],
  ['two of them', { ...bySecret, privateKey: '${env:KEY}', issuer: 'https://i' }],
  ['no issuer', bySecret],
  ['neither credentials nor a sign-in', { issuer: 'https://i' }],
  ['a sign-in with a key', { issuer: 'https://i', login: true, privateKey: '${env:KEY}' }],
  ['a secret of nobody', { issuer: 'https://i', login: true, clientSecret: '${env:S}' }],
  ['a way back to elsewhere', { issuer: 'https://i', login: true, redirectUrl: 'http://evil/' }],
  [
    'a way back without a sign-in',
    { ...bySecret, issuer: 'https://i', redirectUrl: 'http://127.0.0.1/' },
  ],
])('%s is refused when the document is loaded', (_what, oauth) => {
  const run = { kind: 'mcp', url: 'https://x/mcp', oauth };
  expect(toolSpecSchema.safeParse({ description: 'x', run }).success).toBe(false);
  const command = { kind: 'mcp', command: ['x'], oauth: { ...bySecret, issuer: 'https://i' } };
  expect(toolSpecSchema.safeParse({ description: 'x', run: command }).success).toBe(false);
});

test('every example of docs/mcp.md is loaded as it stands there', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/mcp.md'), 'utf8');
  const examples = [...page.matchAll(/```yaml\n(.*?)```/gs)].flatMap(([, yaml]) =>
    parseSpecs(yaml!, 'mcp.md'),
  );
  expect(examples.flatMap(({ problems }) => problems)).toEqual([]);
  const documents = examples.map(({ document }) => ({ document: document!, file: 'mcp.md' }));
  expect(documents.map(({ document }) => document.metadata.name)).toEqual([
    'github',
    'shop',
    'maintainer',
    'default',
    'notes',
    'search_issues',
  ]);
  expect(catalogOf(documents).problems).toEqual([]);
});
