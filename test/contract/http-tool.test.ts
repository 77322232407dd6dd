/** HTTP tools against a real server that says what it was asked. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseSpecs } from '../../services/adapters/files/spec-parser.ts';
import { fillUrl } from '../../services/adapters/http/template.ts';
import { httpRunner } from '../../services/adapters/http/tool.ts';
import { troublesOf } from '../../services/core/tools/environment-check.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import type { ToolJob } from '../../services/ports/performers.ts';
import { hasOpenssl, selfSigned } from '../support/tls-servers.ts';

let server: Server;
let base = '';
const asked: { method: string; url: string; body: string }[] = [];
let length: string | undefined;
const answers: Record<string, { status?: number; headers?: object; body?: string | Buffer }> = {
  '/moved': { status: 302, headers: { location: '/elsewhere?token=hidden' } },
  '/moved-for-good': { status: 308, headers: { location: 'http://127.0.0.1:1/other' } },
  '/quotes': {
    status: 400,
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ error: 'no user has the token secret' }),
  },
  '/busy': { status: 429, headers: { 'retry-after': '3' } },
  '/early': { status: 425 },
  '/patient': { status: 429, headers: { 'retry-after': '1e308' } },
  '/past': { status: 429, headers: { 'retry-after': '-1e308' } },
  '/done-elsewhere': { status: 303, headers: { location: '/receipt' } },
  '/number-text': { headers: { 'content-type': 'text/plain' }, body: '00123' },
  '/big-id': { headers: { 'content-type': 'text/plain' }, body: '12345678901234567890' },
  '/mark': { headers: { 'content-type': 'application/json' }, body: '\ufeff{"a":1}' },
  '/latin': {
    headers: { 'content-type': 'text/plain; charset=iso-8859-1' },
    body: Buffer.from([0x66, 0xfc, 0x72]),
  },
  '/problem': { headers: { 'content-type': 'application/vnd.api+json' }, body: '[1]' },
};

beforeAll(async () => {
  server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    length = request.headers['content-length'];
    asked.push({ method: request.method ?? '', url: request.url ?? '', body });
    const answer = answers[request.url?.split('?')[0] ?? ''] ?? {};
    response.writeHead(answer.status ?? 200, { ...answer.headers });
    response.end(answer.body ?? '"done"');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => server.close());

const call = (url: string, args: Record<string, unknown> = {}, run: object = {}, more = {}) => {
  asked.length = 0;
  const spec = toolSpecSchema.parse({
    description: 'x',
    run: { kind: 'http', method: 'GET', url, ...run },
    ...more,
  });
  const job: ToolJob = {
    tool: 'orders',
    spec,
    arguments: args,
    tenant: 'acme',
    session: 's',
    idempotencyKey: 'e_1_0',
  };
  const environment = {
    BASE: base,
    TOKEN: 'secret',
    EMPTY: '',
    EURO: 'hidden €',
    BREAK: 'hidden\nx: y',
    CONTROL: 'hidden\u0001',
    PADDED: ' für \r\n',
    CREDENTIALS: base.replace('//', '//user:hidden@'),
    USER: base.replace('//', '//user@'),
  };
  const runner = httpRunner(environment);
  return runner.run(job, spec.run as never, new AbortController().signal);
};

describe('an argument never leaves the place that the operator named', () => {
  test.each([
    ['..', 'a dot segment'],
    ['.', 'a dot'],
    ['', 'nothing'],
  ])('%j is refused in a path: %s', async (id) => {
    const outcome = await call('${env:BASE}/orders/{id}/refund', { id });
    expect(outcome).toMatchObject({
      failure: { class: 'semantic', code: 'ARGUMENTS_INVALID', hasBegun: false },
    });
    expect(asked).toEqual([]);
  });

  test.each([
    'a/b',
    '../../admin',
    '?x=1',
    '#x',
    '%2e%2e',
    '\\..\\admin',
    'a;b',
    '@other.host/',
    'lone \ud800',
  ])('%j stays one segment', async (id) => {
    await call('${env:BASE}/orders/{id}/refund', { id });
    const segments = new URL(asked[0]!.url, base).pathname.split('/');
    expect(segments).toHaveLength(4);
    expect(segments[1]).toBe('orders');
    expect(segments[3]).toBe('refund');
  });

  test('a name that every object has is no argument', async () => {
    const outcome = await call('${env:BASE}/orders/{constructor}');
    expect(outcome).toMatchObject({ failure: { code: 'ARGUMENTS_INVALID' } });
    expect(asked).toEqual([]);
  });

  test('what the operator wrote into the query stands, and only named arguments go out', async () => {
    const input = { type: 'object', properties: { q: { type: 'string' }, tenant: {} } };
    await call(
      '${env:BASE}/search?tenant=acme',
      { q: 'shoes', tenant: 'globex', admin: true },
      {},
      { input },
    );
    expect(asked[0]!.url).toBe('/search?tenant=acme&q=shoes');
    await call(
      '${env:BASE}/search?tenant=acme',
      { q: 'shoes', admin: true },
      { method: 'POST' },
      { input },
    );
    expect(JSON.parse(asked[0]!.body)).toEqual({ q: 'shoes' });
  });
});

describe('what was not sent is certain', () => {
  test.each(['MISSING', 'EMPTY', 'constructor'])('a variable that is not set: %s', async (name) => {
    for (const outcome of [
      await call(`\${env:BASE}/x`, {}, { headers: { authorization: `Bearer \${env:${name}}` } }),
      await call(`\${env:${name}}/x`),
    ])
      expect(outcome).toMatchObject({
        failure: {
          class: 'permanent',
          code: 'TOOL_ENV_MISSING',
          hasBegun: false,
          message: expect.stringContaining(name),
        },
      });
    expect(asked).toEqual([]);
  });

  test.each(['${env:CREDENTIALS}/x', '${env:USER}/x'])(
    'a url %s with a user is refused and not quoted',
    async (url) => {
      const outcome = await call(url);
      expect(outcome).toMatchObject({
        failure: { class: 'permanent', code: 'TOOL_URL_INVALID', hasBegun: false },
      });
      expect(JSON.stringify(outcome)).toContain('a user or a password');
      expect(JSON.stringify(outcome)).not.toContain('hidden');
      expect(asked).toEqual([]);
    },
  );

  test.each([
    ['x-key', '${env:EURO}', 'x-key has characters'],
    ['x-key', '${env:BREAK}', 'x-key has characters'],
    ['x-key', '${env:CONTROL}', 'x-key has characters'],
    ['x key', 'a', 'is not a header name'],
    ['', 'a', 'is not a header name'],
    ['schlüssel', 'a', 'is not a header name'],
    ['Expect', '100-continue', 'belongs to the connection'],
    ['transfer-encoding', 'chunked', 'belongs to the connection'],
    ['content-length', '7', 'belongs to the connection'],
  ])('a header %j of %j is refused and not quoted', async (name, value, why) => {
    for (const method of ['GET', 'POST']) {
      const outcome = await call('${env:BASE}/x', {}, { method, headers: { [name]: value } });
      expect(outcome).toMatchObject({
        failure: { class: 'permanent', code: 'TOOL_REQUEST_INVALID', hasBegun: false },
      });
      expect(JSON.stringify(outcome)).toContain(why);
      expect(JSON.stringify(outcome)).not.toContain('hidden');
    }
    expect(asked).toEqual([]);
  });

  test('what the sender refuses is named: a blocked port, a header of its own', async () => {
    for (const [url, headers, why] of [
      ['http://127.0.0.1:6000/x', {}, 'port is blocked'],
      ['${env:BASE}/x', { connection: 'a b' }, 'cannot be sent: invalid connection header'],
    ] as const) {
      const outcome = await call(url, {}, { method: 'POST', headers });
      expect(outcome).toMatchObject({
        failure: { class: 'permanent', code: 'TOOL_REQUEST_INVALID', hasBegun: false },
      });
      expect(JSON.stringify(outcome)).toContain(why);
    }
    expect(asked).toEqual([]);
  });

  test('spaces and line breaks around the value of a header are not sent', async () => {
    const headers = { 'x-name': '${env:PADDED}' };
    expect(await call('${env:BASE}/x', { a: 1 }, { method: 'POST', headers })).toEqual({
      ok: true,
      value: '"done"',
    });
    expect(asked[0]!.body).toBe('{"a":1}');
    expect(length).toBe('7');
  });

  test.skipIf(!hasOpenssl)(
    'a host whose certificate or protocol is wrong was not reached',
    async () => {
      const secure = await selfSigned();
      for (const [url, why] of [
        [secure.url, 'DEPTH_ZERO_SELF_SIGNED_CERT'],
        [base.replace('http:', 'https:'), 'ERR_SSL_WRONG_VERSION_NUMBER'],
      ] as const) {
        const outcome = await call(`${url}/x`, {}, { method: 'POST' });
        expect(outcome).toMatchObject({
          failure: { class: 'transient', code: 'HTTP_UNREACHABLE', hasBegun: false },
        });
        expect(JSON.stringify(outcome)).toContain(why);
      }
      expect([asked, secure.asked()]).toEqual([[], 0]);
      secure.close();
    },
  );

  test.each([
    ['run.url', 'http://user:hidden@host/x', 'it names a user or a password'],
    ['run.url', 'http://${env:USER}@host/x', 'it names a user or a password'],
    ['run.headers', 'Bearer ${env:EURO}', 'it has characters that no header can carry'],
  ])('troublesOf names the %s %s', (field, text, why) => {
    const environment = { USER: 'user', EURO: 'hidden €' };
    const troubles = troublesOf([{ tool: 't', texts: [{ field, text }] }], environment);
    expect(troubles).toMatchObject([{ message: expect.stringContaining(why) }]);
    expect(JSON.stringify(troubles)).not.toContain('hidden');
  });

  test('an address that is none', async () => {
    expect(await call('${env:TOKEN}/x')).toMatchObject({
      failure: { class: 'permanent', code: 'TOOL_URL_INVALID', hasBegun: false },
    });
  });

  test.each([
    ['${env:API}{path}', { API: 'https://api.example.com' }],
    ['${env:API}.{path}.example.com/', { API: 'https://eu' }],
    ['${env:API}@{path}/', { API: 'https://user' }],
    ['${env:API}\\{path}/', { API: 'https://eu' }],
    ['https://eu{path}', {}],
  ])('fillUrl refuses %s, where an argument would choose the host', (url, environment) => {
    for (const path of ['/orders', '.evil.com'])
      expect(fillUrl('t', url, { path }, 'e_1_0', environment)).toMatchObject({
        failure: { class: 'permanent', code: 'TOOL_URL_INVALID', hasBegun: false },
      });
    expect(
      troublesOf([{ tool: 't', texts: [{ field: 'run.url', text: url }] }], environment),
    ).toEqual([
      { tool: 't', field: 'run.url', message: expect.stringContaining('not an address') },
    ]);
  });

  test.each([
    ['${env:API}', 'https://eu/'],
    ['${env:API}/{path}', 'https://eu/.evil.com'],
    ['${env:API}?q={path}', 'https://eu/?q=.evil.com'],
    ['https://${env:HOST}:8443/{path}', 'https://eu.example:8443/.evil.com'],
  ])('fillUrl fills %s', (url, href) => {
    const environment = { API: 'https://eu', HOST: 'eu.example' };
    const filled = fillUrl('t', url, { path: '.evil.com' }, 'e_1_0', environment);
    expect('url' in filled ? filled.url.href : filled).toBe(href);
    expect(
      troublesOf([{ tool: 't', texts: [{ field: 'run.url', text: url }] }], environment),
    ).toEqual([]);
  });

  test.each(['/moved', '/moved-for-good'])('%s is not followed', async (path) => {
    const outcome = await call(`\${env:BASE}${path}`, {}, { method: 'POST' });
    expect(outcome).toMatchObject({ failure: { class: 'permanent', hasBegun: false } });
    expect(JSON.stringify(outcome)).not.toContain('hidden');
    expect(asked).toHaveLength(1);
  });

  test('refused for now: later, and nothing has begun', async () => {
    expect(await call('${env:BASE}/busy')).toMatchObject({
      failure: { class: 'transient', code: 'HTTP_429', hasBegun: false, retryAfterMs: 3_000 },
    });
    expect(await call('${env:BASE}/early')).toMatchObject({
      failure: { class: 'transient', code: 'HTTP_425', hasBegun: false },
    });
  });
});

test('however long a service asks to wait, it is a number of milliseconds', async () => {
  expect(await call('${env:BASE}/patient')).toMatchObject({
    failure: { retryAfterMs: 3_600_000 },
  });
  expect(await call('${env:BASE}/past')).toMatchObject({ failure: { retryAfterMs: 0 } });
});

test('a refusal that quotes what it was sent is told without it', async () => {
  const outcome = await call('${env:BASE}/quotes', {}, { headers: { 'x-key': '${env:TOKEN}' } });
  expect(outcome).toMatchObject({
    failure: { message: expect.stringContaining('"no user has the token ***"') },
  });
});

test('see other, after a request that was done: nobody says that nothing has begun', async () => {
  const outcome = await call('${env:BASE}/done-elsewhere', {}, { method: 'POST' });
  expect(outcome).toMatchObject({ failure: { class: 'transient', code: 'HTTP_303' } });
  expect(outcome).not.toHaveProperty('failure.hasBegun');
});

describe('an answer is what the service said', () => {
  test.each([
    ['/number-text', '00123'],
    ['/big-id', '12345678901234567890'],
    ['/mark', { a: 1 }],
    ['/latin', 'für'],
    ['/problem', [1]],
  ])('%s', async (path, value) => {
    expect(await call(`\${env:BASE}${path}`)).toEqual({ ok: true, value });
  });
});

describe('a Tool that could not be called is refused when it is loaded', () => {
  const problemsOf = (name: string, run: string) =>
    parseSpecs(
      `apiVersion: understudy.dev/v1\nkind: Tool\nmetadata: { name: ${name} }\nspec: { description: x, run: { ${run} } }`,
      'a.yaml',
    ).flatMap(({ problems }) => problems.map(({ message }) => message));
  test.each([
    ['kind: http, url: "https://{host}/x"', 'not before them'],
    ['kind: http, url: "https://shop/{id}"', 'input.required'],
    ['kind: http, url: "shop/x"', 'must begin with http'],
    ['kind: http, url: "http://user:pass@shop/x"', 'a user or a password'],
    ['kind: http, url: "https://${env:USER}@shop/x"', 'a user or a password'],
    ['kind: mcp, url: "http://user@shop/x"', 'a user or a password'],
    ['kind: http, url: "https://shop/x", headers: { "x key": a }', 'is not a header name'],
    ['kind: mcp, url: "https://shop/x", headers: { "x:key": a }', 'is not a header name'],
    ['kind: http, url: "https://shop/x", headers: { Expect: a }', 'belongs to the connection'],
    ['kind: http, url: "https://shop/x", headers: { a: "€" }', 'no header can carry'],
    ['kind: http, url: "${env:API}{id}"', 'must be followed by /, ?'],
    ['kind: http, url: "${env:API}.{id}.example.com/"', 'must be followed by /, ?'],
    ['kind: http, url: "${env:API}:8080/x"', 'must be followed by /, ?'],
    ['kind: http, url: "https://shop/x#{id}"', 'behind # is not sent'],
    [
      'kind: http, url: "https://shop/", query: { url: "${env:API}{idempotencyKey}" }',
      'must be followed by /, ?',
    ],
    ['kind: http, url: "${env:SHOP URL}/x"', 'names no variable'],
    ['kind: http, url: "https://shop/x", headers: { a: "${env:}" }', 'names no variable'],
  ])('%s', (run, why) => {
    expect(problemsOf('orders', run).join()).toContain(why);
  });
  test.each(['${env:API}', '${env:API}/x', '${env:API}?x=1', 'https://${env:HOST}:8443/x#top'])(
    'a Tool with the url %s is loaded',
    (url) => {
      expect(problemsOf('orders', `kind: http, url: "${url}"`)).toEqual([]);
    },
  );
  test('a name that every object has', () => {
    expect(problemsOf('constructor', 'kind: http, url: "http://a/"').join()).toContain(
      'every object has',
    );
  });
});
