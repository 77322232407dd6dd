/** MCP servers as they are: slow to say hello, full of words on stderr, too large, dead. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseSpecs } from '../../services/adapters/files/spec-parser.ts';
import { CappedLines } from '../../services/adapters/mcp/capped-lines.ts';
import { type McpRunner, mcpRunner } from '../../services/adapters/mcp/tool.ts';
import { mcpRunSchema } from '../../services/core/tools/mcp-run.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import type { ToolRunner } from '../../services/ports/performers.ts';

const folder = mkdtempSync(join(tmpdir(), 'mcp-odd-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const program = join(import.meta.dirname, '../support/odd-mcp-server.mjs');
let runner: ToolRunner<never>;
beforeEach(() => {
  runner = mcpRunner({ SECRET: 'tok-12345', WORD: 'hello' }) as unknown as ToolRunner<never>;
});
afterEach(() => runner.close?.());

let keys = 0;
const call = (
  how: string,
  tool: string,
  args: object = {},
  more: { run?: object; timeoutMs?: number; signal?: AbortSignal } = {},
) => {
  const { run = {}, timeoutMs = 20_000, signal = new AbortController().signal } = more;
  const spec = toolSpecSchema.parse({
    description: 'x',
    timeoutMs,
    run: { kind: 'mcp', tool, command: [process.execPath, program, how], ...run },
  });
  keys += 1;
  const job = {
    tool,
    spec,
    arguments: { ...args },
    tenant: 'acme',
    session: 's',
    idempotencyKey: `e${keys}`,
  };
  return runner.run(job as never, spec.run as never, signal);
};

describe('beginning', () => {
  test('a server is started once, with the variables and the folder of its document', async () => {
    const log = join(folder, 'log');
    const run = {
      command: [process.execPath, program, 'plain', log],
      env: { GREETING: '${env:WORD}' },
      cwd: folder,
    };
    expect(await call('plain', 'any', {}, { run })).toMatchObject({ ok: true });
    expect(await call('plain', 'any', {}, { run })).toMatchObject({ ok: true });
    expect(readFileSync(log, 'utf8')).toBe(`start hello ${folder}\n`);
  });
  test('a variable that is not set is named, and no server is started', async () => {
    const outcome = await call('plain', 'any', {}, { run: { env: { TOKEN: '${env:GONE}' } } });
    expect(outcome).toMatchObject({
      ok: false,
      failure: { code: 'TOOL_ENV_MISSING', hasBegun: false },
    });
  });
  test('why it did not start is told, without what it was given', async () => {
    const outcome = await call('refuses', 'any', {}, { run: { env: { TOKEN: '${env:SECRET}' } } });
    expect(outcome).toMatchObject({
      ok: false,
      failure: { code: 'MCP_UNREACHABLE', hasBegun: false },
    });
    const message = outcome.ok ? '' : outcome.failure.message;
    expect(message).toContain('Error: the token *** is not valid');
    expect(message).not.toContain('tok-12345');
  });
  test('one that says nothing is waited for no longer than the call may take, and was not called', async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 300);
    expect(await call('mute', 'any', {}, { signal: controller.signal })).toMatchObject({
      ok: false,
      failure: { hasBegun: false },
    });
    // Nor by an executor that ends: a connection takes a minute to give up by itself.
    const late = new Promise((resolve) => setTimeout(resolve, 20_000, 'late'));
    expect(await Promise.race([runner.close?.(), late])).toBeUndefined();
  });
});

describe('answers', () => {
  test.each(['big', 'late-id'])(
    'one that is too large (%s) fails its own call only',
    async (name) => {
      const neighbour = call('plain', 'slow', { ms: 1_500 });
      const big = await call('plain', name, { bytes: 5 * 1024 * 1024 });
      expect(big).toMatchObject({
        ok: false,
        failure: {
          class: 'semantic',
          message: expect.stringMatching(/\d+ bytes, which is too large/),
        },
      });
      expect(await neighbour).toEqual({ ok: true, value: 'slow is done' });
      expect(await call('plain', 'big', { bytes: 3 * 1024 * 1024 })).toMatchObject({ ok: true });
    },
  );
  test('pictures, sound and links come as what they are', async () => {
    expect(await call('plain', 'picture')).toEqual({
      ok: true,
      value: [
        { type: 'image', mimeType: 'image/png', bytes: 30 },
        { type: 'audio', mimeType: 'audio/wav', bytes: 30 },
        { type: 'resource_link', uri: 'file:///a', name: 'a' },
      ],
    });
  });
  test('text that says more than the structure beside it comes along; the same twice does not', async () => {
    expect(await call('plain', 'both')).toEqual({
      ok: true,
      value: { structuredContent: { cents: 1_200 }, content: 'twelve euros, and thank you' },
    });
    expect(await call('plain', 'same')).toEqual({ ok: true, value: { cents: 1_200 } });
  });
  test('a file in a structure is no text', async () => {
    expect(await call('plain', 'file')).toEqual({
      ok: true,
      value: { name: 'a', data: { type: 'base64', bytes: 6_000 } },
    });
  });
});

describe('a server over HTTP that refuses', () => {
  let server: Server;
  afterEach(() => server?.closeAllConnections());
  test.each([
    ['as a whole', (said: string) => said],
    ['with a secret that is cut', (said: string) => `${'x'.repeat(289)} ${said}`],
  ])('%s is told without what it was sent', async (_how, told) => {
    server = createServer((request, response) => {
      request.resume();
      request.on('end', () => {
        if (request.method !== 'POST') return response.writeHead(405).end();
        response.writeHead(403).end(told(`no ${request.headers.authorization}, no`));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`;
    const run = { command: undefined, url, headers: { authorization: 'Bearer ${env:SECRET}' } };
    const outcome = await call('', 'any', {}, { run });
    expect(outcome).toMatchObject({ ok: false });
    expect(JSON.stringify(outcome)).not.toContain('tok-1');
  });
});

test.each([404, 405])('an address of the older transport (%d) is named', async (status) => {
  const server = createServer((request, response) => {
    request.resume();
    response.writeHead(status, { 'content-type': 'text/html' }).end('<pre>Cannot POST /sse</pre>');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/sse`;
  const outcome = await call('', 'any', {}, { run: { command: undefined, url } });
  server.closeAllConnections();
  server.close();
  expect(outcome).toMatchObject({
    failure: {
      class: 'transient',
      code: 'MCP_UNREACHABLE',
      message: expect.stringContaining('HTTP+SSE is not spoken'),
      hasBegun: false,
    },
  });
});

describe('a server over HTTP that dies in mid-call', () => {
  let server: Server;
  afterEach(() => server?.closeAllConnections());
  test('ends the call within seconds, and not at its limit', async () => {
    server = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk) => (body += chunk));
      request.on('end', () => {
        if (request.method !== 'POST') return response.writeHead(405).end();
        const { id, method, params } = JSON.parse(body);
        const answer = (result: object) =>
          response
            .writeHead(200, { 'content-type': 'application/json' })
            .end(JSON.stringify({ jsonrpc: '2.0', id, result }));
        if (method === 'initialize')
          return answer({
            protocolVersion: params.protocolVersion,
            capabilities: { tools: {} },
            serverInfo: { name: 'x', version: '1' },
          });
        if (method !== 'tools/call') return response.writeHead(id === undefined ? 202 : 404).end();
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write('id: 1\nretry: 100\ndata: \n\n');
        setTimeout(() => {
          server.close();
          server.closeAllConnections();
        }, 100);
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`;
    const outcome = await call(
      '',
      'any',
      {},
      { run: { command: undefined, url }, timeoutMs: 60_000 },
    );
    expect(outcome).toMatchObject({ ok: false, failure: { class: 'transient' } });
  }, 30_000);
});

describe('a server that remembers', () => {
  const listed = join(import.meta.dirname, '../support/listed-mcp-server.mjs');
  const tools = join(folder, 'tools.json');
  const ledger = join(folder, 'ledger');
  const visit = async (session: string, more: object = {}, tenant = 'acme') => {
    writeFileSync(tools, JSON.stringify([{ name: 'visit', inputSchema: { type: 'object' } }]));
    const command = [process.execPath, listed, tools, ledger];
    const spec = toolSpecSchema.parse({
      description: 'x',
      run: { kind: 'mcp', tool: 'visit', command, ...more },
    });
    keys += 1;
    const job = { tool: 'visit', spec, arguments: {}, tenant, session, idempotencyKey: `v${keys}` };
    const outcome = await runner.run(job as never, spec.run as never, new AbortController().signal);
    const [, count, pid] = /call (\d+) of (\d+)/.exec(JSON.stringify(outcome)) ?? [];
    return { count: Number(count), pid };
  };

  test('has one connection for all sessions, unless its document says sessionful: then one for each', async () => {
    expect((await visit('a')).count).toBe(1);
    expect((await visit('b')).count).toBe(2);
    const own = { sessionful: true };
    const [first, second, other] = [
      await visit('a', own),
      await visit('a', own),
      await visit('b', own),
    ];
    expect([first.count, second.count, other.count]).toEqual([1, 2, 1]);
    expect(second.pid).toBe(first.pid);
    expect(other.pid).not.toBe(first.pid);
    // A session of another tenant is another session.
    expect((await visit('a', own, 'globex')).count).toBe(1);
  });

  test('makes room for one more session by that which has rested longest', async () => {
    const sessions = Array.from({ length: 6 }, (_, n) => `s${n}`);
    const small = mcpRunner({}, { sessionLinesMax: 3 });
    runner = small as unknown as ToolRunner<never>;
    const own = { sessionful: true };
    for (const session of sessions) expect((await visit(session, own)).count).toBe(1);
    expect((await visit('s5', own)).count).toBe(2);
    expect((await visit('s0', own)).count).toBe(1);
  });

  test('with all places taken, who calls or lists waits for another try, and nothing breaks', async () => {
    const small = mcpRunner({}, { sessionLinesMax: 1 });
    runner = small as unknown as ToolRunner<never>;
    const run = mcpRunSchema.parse({
      kind: 'mcp',
      headers: {},
      sessionful: true,
      command: [process.execPath, program, 'plain'],
    });
    const slow = call('plain', 'slow', { ms: 1_000 }, { run: { ...run, tool: 'slow' } });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const busy = { ok: false, failure: { code: 'MCP_BUSY', class: 'transient' } };
    expect(await small.list(run, new AbortController().signal)).toMatchObject(busy);
    expect(await visit('other', { sessionful: true })).toEqual({
      count: Number.NaN,
      pid: undefined,
    });
    expect(await slow).toMatchObject({ ok: true });
  });
});

test('how far a server is and what it logs is heard: for the failure, without secrets', async () => {
  const listed = join(import.meta.dirname, '../support/listed-mcp-server.mjs');
  const tools = join(folder, 'talking.json');
  writeFileSync(tools, '[]');
  const logged: string[] = [];
  const one = mcpRunner(
    { SECRET: 'tok-12345' },
    {
      onLog: (level, logger) => logged.push(`${level} ${logger}`),
    },
  );
  runner = one as unknown as ToolRunner<never>;
  const run = {
    command: [process.execPath, listed, tools, join(folder, 'talked'), 'progress'],
    env: { SECRET: '${env:SECRET}' },
  };
  const outcome = await call('x', 'dies', {}, { run: { ...run, sessionful: true } });
  expect(outcome).toMatchObject({ ok: false, failure: { code: 'MCP_BROKEN' } });
  const message = outcome.ok ? '' : outcome.failure.message;
  expect(message).toContain('it said: about to fail at ***');
  expect(message).not.toContain('tok-12345');
  expect(logged).toEqual(['error db']);
});

test.each([
  ['throws as it starts', "throw new Error('the database is not there')"],
  [
    'throws deep down',
    "const f = (n) => { if (n === 0) throw new Error('the database is not there'); f(n - 1); }; Error.stackTraceLimit = 60; f(60)",
  ],
  [
    'says why and then nothing',
    "console.error('Error: the database is not there'); setInterval(() => {}, 1000)",
  ],
  [
    'dies after its hello',
    "process.stdin.once('data', (d) => { const { id, params } = JSON.parse(String(d).split('\\n')[0]); console.log(JSON.stringify({ jsonrpc: '2.0', id, result: { protocolVersion: params.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: 'x', version: '1' } } })); setTimeout(() => { console.error('Error: the database is not there'); process.exit(1); }, 100); })",
  ],
])(
  'why a server that %s is of no use is told, to its callers and to who lists',
  async (_how, code) => {
    const run = { command: [process.execPath, '-e', code] };
    const mcp = runner as unknown as McpRunner;
    const limit = () => AbortSignal.timeout(1_500);
    const listing = await mcp.list(
      mcpRunSchema.parse({ kind: 'mcp', headers: {}, ...run }),
      limit(),
    );
    expect(JSON.stringify(listing)).toContain('the database is not there');
    const outcome = await call('x', 'any', {}, { run, signal: limit() });
    expect(JSON.stringify(outcome)).toContain('the database is not there');
  },
);

test('what a server says besides is told to the only session that calls it, and to nobody else', async () => {
  const code =
    "const say = (m) => console.log(JSON.stringify({ jsonrpc: '2.0', ...m })); require('node:readline').createInterface({ input: process.stdin }).on('line', (l) => { const { id, method, params } = JSON.parse(l); if (method === 'initialize') return say({ id, result: { protocolVersion: params.protocolVersion, capabilities: { tools: {}, logging: {} }, serverInfo: { name: 'x', version: '1' } } }); if (method !== 'tools/call') return; console.error('read ' + params.arguments.file); say({ method: 'notifications/message', params: { level: 'error', data: 'read ' + params.arguments.file } }); if (params.arguments.file === 'last') setTimeout(() => process.exit(1), 50); else say({ id, result: { content: [] } }); })";
  const run = { command: [process.execPath, '-e', code] };
  const of = async (tenant: string, file: string) => {
    const spec = toolSpecSchema.parse({
      description: 'x',
      run: { kind: 'mcp', tool: 'r', ...run },
    });
    keys += 1;
    const job = {
      tool: 'r',
      spec,
      arguments: { file },
      tenant,
      session: 's',
      idempotencyKey: `w${keys}`,
    };
    const { signal } = new AbortController();
    return JSON.stringify(await runner.run(job as never, spec.run as never, signal));
  };
  expect(await of('acme', 'last')).toContain('read last');
  await of('acme', 'salaries');
  const other = await of('globex', 'last');
  expect(other).toContain('MCP_BROKEN');
  expect(other).not.toContain('read');
});

test.each(['queryable', 'workspace'])(
  'class %s is refused with its field: no MCP server could keep it',
  (name) => {
    const spec = { description: 'x', class: name, run: { kind: 'mcp', command: ['x'] } };
    const [parsed] = parseSpecs(
      JSON.stringify({
        apiVersion: 'understudy.dev/v1',
        kind: 'Tool',
        metadata: { name: 'x' },
        spec,
      }),
      'x.yaml',
    );
    expect(parsed!.problems).toMatchObject([{ field: 'spec.class' }]);
  },
);

test('lines come whole however they are cut, and one that is too large leaves its id', () => {
  const message = (id: number, size: number) =>
    `${JSON.stringify({ jsonrpc: '2.0', id, result: { text: 'é'.repeat(size) } })}\n`;
  const all = Buffer.from(message(1, 3) + message(2, 9_000) + message(3, 3));
  for (const size of [1, 7, 4_096, all.length]) {
    const lines = new CappedLines(10_000);
    const read: unknown[] = [];
    for (let at = 0; at < all.length; at += size) {
      lines.append(all.subarray(at, at + size));
      for (let one = lines.readMessage(); one; one = lines.readMessage()) read.push(one);
    }
    expect(read).toMatchObject([
      { id: 1, result: { text: 'ééé' } },
      { id: 2, error: { message: expect.stringContaining('too large') } },
      { id: 3 },
    ]);
  }
});
