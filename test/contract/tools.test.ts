/** Tool runners against real programs, a real HTTP server and a real MCP server. */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { httpRunner } from '../../services/adapters/http/tool.ts';
import { mcpRunner } from '../../services/adapters/mcp/tool.ts';
import { ScratchFolders } from '../../services/adapters/process/scratch.ts';
import { processRunner } from '../../services/adapters/process/tool.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import { builtinRunner, builtinTools } from '../../services/executor/builtin.ts';
import { answering, freePort, type Running, startProcess } from '../../services/local/processes.ts';
import type { ToolJob, ToolRunner } from '../../services/ports/performers.ts';
import { eventually } from '../support/eventually.ts';

const job = (args: Record<string, unknown>, run: object, more: object = {}): ToolJob => ({
  tool: 'tool',
  spec: toolSpecSchema.parse({ description: 'x', run, ...more }),
  arguments: args,
  tenant: 'acme',
  session: 'session-1',
  idempotencyKey: 'e_1_0',
  traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
});
const never = () => new AbortController().signal;
/** Of a process that was and is not. */
async function gonePid(): Promise<number> {
  const child = spawn('true');
  await once(child, 'exit');
  return child.pid!;
}
/** A server of one's own on loopback. */
async function served(
  handle: (request: IncomingMessage, response: ServerResponse) => void,
): Promise<{ port: number; close: () => void; asked: () => number }> {
  let count = 0;
  const server = createServer((request, response) => {
    count += 1;
    handle(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { port: (server.address() as { port: number }).port, close, asked: () => count };
}
const use = (runner: ToolRunner<never>, one: ToolJob, signal = never()) =>
  runner.run(one, one.spec.run as never, signal);

describe('process', () => {
  let runner: ToolRunner<never>;
  beforeAll(async () => {
    runner = (await processRunner()) as ToolRunner<never>;
  });
  afterAll(() => runner.close?.());
  const sandbox = { kind: 'process', command: ['${sandbox}'], memoryMiB: 128 };
  const shell = (script: string) => ({ kind: 'process', command: ['/bin/sh', '-c', script] });
  const code = (text: string, input?: unknown) =>
    job({ code: text, input }, sandbox, { timeoutMs: 3_000 });

  test('where no process can be made, nothing has begun, and nothing breaks', () => {
    const program = join(import.meta.dirname, '../support/no-descriptors.ts');
    const command = `ulimit -n 64; exec "${process.execPath}" --disable-warning=ExperimentalWarning "${program}"`;
    const { stdout, status } = spawnSync('/bin/sh', ['-c', command], { encoding: 'utf8' });
    expect([status, JSON.parse(stdout)]).toMatchObject([
      0,
      { ok: false, failure: { class: 'transient', code: 'TOOL_NOT_STARTED', hasBegun: false } },
    ]);
  });

  test('code computes over its input', async () => {
    expect(
      await use(
        runner,
        code(
          'console.log("adding", input.length); return input.reduce((a, b) => a + b, 0);',
          [1, 2, 39],
        ),
      ),
    ).toEqual({
      ok: true,
      value: { result: 42, log: ['adding 3'] },
    });
  });

  test.each([
    ['a syntax error', 'return (', 'TOOL_FAILED'],
    ['an exception', 'throw new Error("no such customer")', 'no such customer'],
    ['an endless loop', 'for (;;) {}', 'timed out'],
    [
      'reading a file',
      'return require("fs").readFileSync("/etc/passwd", "utf8")',
      'require is not defined',
    ],
    ['the process', 'return process.env', 'process is not defined'],
    ['code from text', 'return [].constructor.constructor("return 1")()', 'TOOL_FAILED'],
  ])('%s is a structured error', async (_name, text, message) => {
    const outcome = await use(runner, code(text));
    expect(outcome.ok).toBe(false);
    expect(JSON.stringify(outcome)).toContain(message);
  });

  test('a program sees no environment but a path and a home of its own', async () => {
    process.env.SECRET_OF_THE_EXECUTOR = 'hidden';
    const outcome = await use(
      runner,
      job({}, shell('env | sort | sed "s/=.*//" | tr "\\n" " " | sed \'s/.*/"&"/\'')),
    );
    delete process.env.SECRET_OF_THE_EXECUTOR;
    expect(outcome).toEqual({ ok: true, value: expect.not.stringContaining('SECRET') });
  });

  test('its scratch folder is the session’s, and stays from call to call', async () => {
    await use(runner, job({}, shell('echo 7 > note; echo 1')));
    expect(await use(runner, job({}, shell('cat note')))).toEqual({ ok: true, value: 7 });
    const other = { ...job({}, shell('cat note || echo 0')), session: 'session-2' };
    expect(await use(runner, other)).toEqual({ ok: true, value: 0 });
  });

  test('a scratch folder goes when its session has made no call for long, and not before', async () => {
    const parent = mkdtempSync(join(tmpdir(), 'scratch-'));
    const tidy = (await processRunner({
      scratch: parent,
      scratchIdleMs: 400,
    })) as ToolRunner<never>;
    const folder = join(parent, readdirSync(parent)[0]!, 'acme', 'session-1');
    await use(tidy, job({}, shell('echo 7 > note; echo 1')));
    await use(tidy, job({}, shell('sleep 1; echo 1')));
    expect(existsSync(join(folder, 'note'))).toBe(true);
    await eventually(() => !existsSync(folder), 'the folder to go');
    expect(await use(tidy, job({}, shell('cat note || echo 0')))).toEqual({ ok: true, value: 0 });
    await tidy.close?.();
    expect(readdirSync(parent)).toEqual([]);
    rmSync(parent, { recursive: true });
  });

  test('what earlier lives left goes at the start; what others use, and what is not ours, stays', async () => {
    const parent = mkdtempSync(join(tmpdir(), 'scratch-'));
    const old = new Date(Date.now() - 2 * 3_600_000);
    const [mine, theirs, forgotten, foreign] = [
      `understudy-scratch-executor-1--${await gonePid()}-aaaaaa`,
      'understudy-scratch-executor-10--1-aaaaaa',
      'understudy-scratch-7--1-aaaaaa',
      'mine',
    ];
    const [living, longer] = [
      `understudy-scratch-executor-1--${process.ppid}-aaaaaa`,
      `understudy-scratch-executor-1--b--${await gonePid()}-aaaaaa`,
    ];
    for (const name of [mine, theirs, forgotten, foreign, living, longer])
      mkdirSync(join(parent, name));
    for (const name of [forgotten, foreign]) utimesSync(join(parent, name), old, old);
    const tidy = (await processRunner({
      scratch: parent,
      instance: 'executor-1',
    })) as ToolRunner<never>;
    const own = readdirSync(parent).find((name) =>
      name.startsWith(`understudy-scratch-executor-1--${process.pid}-`),
    )!;
    expect(own).not.toBe(mine);
    expect(readdirSync(parent).sort()).toEqual([foreign, own, theirs, living, longer].sort());
    // Two of one process do not take each other for what an earlier life left.
    const another = (await processRunner({
      scratch: parent,
      instance: 'executor-1',
    })) as ToolRunner<never>;
    expect(readdirSync(parent)).toContain(own);
    await Promise.all([tidy.close?.(), another.close?.()]);
    rmSync(parent, { recursive: true });
  });

  test('a call that comes while its folder is being removed has a whole one', async () => {
    const parent = mkdtempSync(join(tmpdir(), 'scratch-'));
    const folders = await ScratchFolders.open(parent, { idleMs: 100 });
    let files = 0;
    const folder = await folders.use('acme', 's', async (path) => {
      for (; files < 20_000; files += 1) writeFileSync(join(path, `f${files}`), '');
      return path;
    });
    await eventually(() => readdirSync(folder).length < files, 'the removal to begin');
    await folders.use('acme', 's', async (path) => {
      expect(readdirSync(path)).toEqual([]);
      writeFileSync(join(path, 'new'), '');
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(readdirSync(path)).toEqual(['new']);
    });
    await folders.close();
    rmSync(parent, { recursive: true });
  });

  test('where no folder can be made, nothing has begun', async () => {
    const parent = mkdtempSync(join(tmpdir(), 'scratch-'));
    const homeless = (await processRunner({ scratch: parent })) as ToolRunner<never>;
    writeFileSync(join(parent, readdirSync(parent)[0]!, 'acme'), 'in the way');
    expect(await use(homeless, job({}, shell('echo 1')))).toMatchObject({
      ok: false,
      failure: { class: 'transient', code: 'TOOL_NOT_STARTED', hasBegun: false },
    });
    await homeless.close?.();
    rmSync(parent, { recursive: true });
  });

  test('one that it leaves behind, in a group of its own and with its output open, does not hold its answer', async () => {
    const pidFile = join(mkdtempSync(join(tmpdir(), 'left-')), 'pid');
    const script = `setsid sh -c 'echo $$ > ${pidFile}; exec sleep 300' & while ! [ -s ${pidFile} ]; do sleep 0.05; done; printf '"'; head -c 200000 /dev/zero | tr '\\0' x; printf '"'`;
    const outcome = await use(runner, job({}, shell(script), { outputBytesMax: 250_000 }));
    const left = Number(readFileSync(pidFile, 'utf8'));
    const isAlive = existsSync(`/proc/${left}`);
    process.kill(left, 'SIGKILL');
    expect(isAlive).toBe(true);
    expect(outcome).toEqual({ ok: true, value: 'x'.repeat(200_000) });
  });

  test.each([
    ['a little', 'while :; do echo; sleep 0.05; done', { ok: true, value: {} }],
    ['without end', 'exec yes', { ok: false, failure: { code: 'TOOL_OUTPUT_TOO_LARGE' } }],
  ])(
    'one that it leaves behind and that goes on writing (%s) does not hold it either',
    async (_what, program, outcome) => {
      const pidFile = join(mkdtempSync(join(tmpdir(), 'left-')), 'pid');
      const script = `setsid sh -c 'echo $$ > ${pidFile}; ${program}' & while ! [ -s ${pidFile} ]; do sleep 0.05; done; echo '{}'`;
      expect(await use(runner, job({}, shell(script)))).toMatchObject(outcome);
      const left = Number(readFileSync(pidFile, 'utf8'));
      if (existsSync(`/proc/${left}`)) process.kill(left, 'SIGKILL');
    },
  );

  test('an answer is whole though our own loop stands still while it comes', async () => {
    let isOver = false;
    const stand = () => {
      for (const until = performance.now() + 400; performance.now() < until; );
      if (!isOver) setImmediate(stand);
    };
    const script = (index: number) =>
      `sleep 0.${index % 10}; head -c 20000 /dev/zero | tr '\\0' 1 | sed 's/^/"/;s/$/"/'`;
    const outcomes = Promise.all(
      Array.from({ length: 80 }, (_, index) =>
        use(runner, job({}, shell(script(index)), { outputBytesMax: 30_000, timeoutMs: 60_000 })),
      ),
    );
    setImmediate(stand);
    const wrong = (await outcomes).filter(({ ok }) => !ok);
    isOver = true;
    expect(wrong).toEqual([]);
  });

  test('a call that is stopped ends also what left its process group', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'left-'));
    const file = join(folder, 'written');
    const script = `setsid sh -c 'touch ${file}.begun; sleep 1.5; touch ${file}' & while :; do sleep 1; done`;
    const stop = new AbortController();
    const outcome = use(runner, job({}, shell(script), { timeoutMs: 60_000 }), stop.signal);
    await eventually(() => existsSync(`${file}.begun`), 'it to have begun');
    stop.abort();
    expect(await outcome).toMatchObject({ ok: false });
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    expect(existsSync(file)).toBe(false);
  });

  test('a time-out ends the whole process group', async () => {
    const marker = join(mkdtempSync(join(tmpdir(), 'group-')), 'alive');
    const outcome = await use(
      runner,
      job({}, shell(`(sleep 1; touch ${marker}) & sleep 30`)),
      AbortSignal.timeout(200),
    );
    expect(outcome).toMatchObject({ ok: false, failure: { code: 'TOOL_TIMEOUT' } });
    await new Promise((resolve) => setTimeout(resolve, 1_300));
    expect(() => process.getBuiltinModule('node:fs').statSync(marker)).toThrow();
  });

  test('an executor that is killed takes its tools along, also those that left their group', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'watchdog-'));
    const program = join(folder, 'executor.ts');
    const services = new URL('../../services/', import.meta.url).pathname;
    writeFileSync(
      program,
      `import { processRunner } from '${services}adapters/process/tool.ts';
import { toolSpecSchema } from '${services}core/tools/tool-spec.ts';
const runner = await processRunner({ scratch: process.argv[2] });
const run = { kind: 'process', command: ['/bin/sh', '-c', process.argv[3]] };
const spec = toolSpecSchema.parse({ description: 'x', run, timeoutMs: 60000 });
await runner.run(
  { tool: 't', spec, arguments: {}, tenant: 'a', session: 's', idempotencyKey: 'k' },
  run, new AbortController().signal,
);
`,
    );
    const pids = join(folder, 'pids');
    const script = `setsid sleep 300 & echo $! >> ${pids}; sleep 300 & echo $! >> ${pids}; echo $$ >> ${pids}; wait`;
    const executor = spawn(
      process.execPath,
      ['--disable-warning=ExperimentalWarning', program, folder, script],
      { stdio: 'ignore' },
    );
    const running = await eventually(() => {
      const found = existsSync(pids) ? readFileSync(pids, 'utf8').trim().split('\n') : [];
      return found.length === 3 ? found.map(Number) : undefined;
    }, 'the tool to run');
    const isAlive = (pid: number) => {
      try {
        return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
      } catch {
        return false;
      }
    };
    expect(running.filter(isAlive)).toEqual(running);
    executor.kill('SIGKILL');
    await eventually(() => !running.some(isAlive), 'the tools to end');
  });

  test('a flood of output is cut off and said', async () => {
    expect(await use(runner, job({}, shell('yes x | head -c 9000000')))).toMatchObject({
      ok: false,
      failure: { code: 'TOOL_OUTPUT_TOO_LARGE' },
    });
  });

  test('a program that eats memory is ended by its limit', async () => {
    const hungry = {
      kind: 'process',
      command: ['/usr/bin/env', 'python3', '-c', 'x = "a" * (800 * 1024 * 1024); print(1)'],
      memoryMiB: 200,
    };
    expect((await use(runner, job({}, hungry))).ok).toBe(false);
  });

  test('what is no JSON, and a program that is not there, are structured errors', async () => {
    expect(await use(runner, job({}, shell('echo hello')))).toMatchObject({
      ok: false,
      failure: { code: 'TOOL_OUTPUT_NOT_JSON', hasBegun: true },
    });
    expect(
      await use(runner, job({}, { kind: 'process', command: ['/no/such/program'] })),
    ).toMatchObject({ ok: false, failure: { code: 'TOOL_FAILED' } });
  });
});

describe('http', () => {
  let server: Server;
  let base: string;
  const seen: { method: string; url: string; headers: Record<string, unknown>; body: string }[] =
    [];
  beforeAll(async () => {
    server = createServer(async (request, response) => {
      let body = '';
      for await (const chunk of request) body += chunk;
      seen.push({
        method: request.method ?? '',
        url: request.url ?? '',
        headers: request.headers,
        body,
      });
      const status = Number(/status=(\d+)/.exec(request.url ?? '')?.[1] ?? 200);
      if (request.url?.includes('cut')) return void request.socket.destroy();
      if (request.url?.includes('flood')) return void response.end('x'.repeat(2_000_000));
      response
        .writeHead(status, {
          'content-type': 'application/json',
          ...(status === 429 ? { 'retry-after': '2' } : {}),
        })
        .end(JSON.stringify(status === 200 ? { fine: true } : { error: { code: 'WHY' } }));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
    base = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
  });
  afterAll(() => new Promise<void>((resolve) => server.close(() => resolve())));
  const runner = () => httpRunner({ BASE: base, TOKEN: 'secret' }) as unknown as ToolRunner<never>;
  const http = (more: object) => ({ kind: 'http', url: '${env:BASE}/x', ...more });

  test('arguments fill path, query or body; key, trace and secrets go along as headers', async () => {
    expect(
      await use(
        runner(),
        job(
          { id: 'a/b', amount: 5 },
          http({
            url: '${env:BASE}/things/{id}',
            headers: { authorization: 'Bearer ${env:TOKEN}' },
          }),
        ),
      ),
    ).toEqual({
      ok: true,
      value: { fine: true },
    });
    expect(seen.at(-1)).toMatchObject({
      method: 'POST',
      url: '/things/a%2Fb',
      body: '{"amount":5}',
      headers: {
        'idempotency-key': 'e_1_0',
        authorization: 'Bearer secret',
        traceparent: expect.stringContaining('0af765'),
      },
    });
    await use(
      runner(),
      job({ id: 1, q: 'a b' }, http({ method: 'GET', url: '${env:BASE}/things/{id}' })),
    );
    expect(seen.at(-1)).toMatchObject({ method: 'GET', url: '/things/1?q=a+b' });
  });

  test.each([
    [503, 'transient'],
    [429, 'transient'],
    [404, 'semantic'],
    [422, 'semantic'],
    [401, 'permanent'],
    [403, 'permanent'],
  ])('%i is %s', async (status, failureClass) => {
    const outcome = await use(runner(), job({}, http({ url: `\${env:BASE}/x?status=${status}` })));
    expect(outcome).toMatchObject({
      ok: false,
      failure: {
        class: failureClass,
        code: `HTTP_${status}`,
        ...(status === 429 ? { retryAfterMs: 2_000 } : {}),
      },
    });
  });

  test('a request that broke off may have taken effect, one that never left has not', async () => {
    const broken = await use(runner(), job({}, http({ url: '${env:BASE}/cut' })));
    expect(broken).toMatchObject({
      ok: false,
      failure: { class: 'transient', code: 'HTTP_BROKEN' },
    });
    expect(broken).not.toHaveProperty('failure.hasBegun');
    expect(
      await use(runner(), job({}, { kind: 'http', url: `http://127.0.0.1:${await freePort()}/x` })),
    ).toMatchObject({
      ok: false,
      failure: { code: 'HTTP_UNREACHABLE', hasBegun: false },
    });
  });

  test('a flood is refused', async () => {
    expect(await use(runner(), job({}, http({ url: '${env:BASE}/flood' })))).toMatchObject({
      ok: false,
      failure: { code: 'HTTP_TOO_LARGE' },
    });
  });

  test('asked whether an effect happened, 200 is yes and 404 is never', async () => {
    const asking = httpRunner({ BASE: base });
    const one = job({}, http({ query: { url: '${env:BASE}/did/{idempotencyKey}' } }), {
      class: 'queryable',
    });
    expect(await asking.query?.(one, one.spec.run as never, never())).toEqual({
      ok: true,
      value: { fine: true },
    });
    expect(seen.at(-1)?.url).toBe('/did/e_1_0');
    const gone = job({}, http({ query: { url: '${env:BASE}/did?status=404' } }), {
      class: 'queryable',
    });
    expect(await asking.query?.(gone, gone.spec.run as never, never())).toBe('never');
  });
});

describe('mcp', () => {
  const program = join(import.meta.dirname, '../support/mcp-server.ts');
  const runner = mcpRunner({}) as unknown as ToolRunner<never>;
  afterAll(() => runner.close?.());
  const mcp = (tool: string) => ({ kind: 'mcp', tool, command: [process.execPath, program] });

  test('a tool of a server over stdio returns its structured content', async () => {
    expect(await use(runner, job({ a: 40, b: 2 }, mcp('add')))).toEqual({
      ok: true,
      value: { sum: 42 },
    });
  });

  test('a call that is late alone does not end its server, where that still hears', async () => {
    const spec = { kind: 'mcp', tool: 'visit', command: [process.execPath, program, 'own'] };
    const visit = () => use(runner, job({}, spec));
    expect([await visit(), await visit()]).toEqual(
      [1, 2].map((visits) => ({ ok: true, value: { visits } })),
    );
    expect(await use(runner, job({}, { ...spec, tool: 'hang' }, { timeoutMs: 500 }))).toMatchObject(
      { ok: false },
    );
    expect(await visit()).toEqual({ ok: true, value: { visits: 3 } });
  });

  test('a server that answers nobody is ended, and the next call begins another', async () => {
    const [wedged, behind] = await Promise.all([
      use(runner, job({}, mcp('wedge'), { timeoutMs: 1_000 })),
      use(runner, job({ a: 1, b: 2 }, mcp('add'), { timeoutMs: 1_000 })),
    ]);
    expect([wedged, behind]).toMatchObject([{ ok: false }, { ok: false }]);
    expect(await use(runner, job({ a: 40, b: 2 }, mcp('add')))).toEqual({
      ok: true,
      value: { sum: 42 },
    });
  });

  test('its errors are data, a tool that is not there is refused, a server that is not there is unreachable', async () => {
    expect(await use(runner, job({}, mcp('fail')))).toMatchObject({
      ok: false,
      failure: { class: 'semantic', code: 'MCP_TOOL_ERROR' },
    });
    expect(await use(runner, job({}, mcp('nothing')))).toMatchObject({
      ok: false,
      failure: { class: 'semantic' },
    });
    expect(await use(runner, job({}, { kind: 'mcp', command: ['/no/such/server'] }))).toMatchObject(
      { ok: false, failure: { class: 'transient', code: 'MCP_UNREACHABLE' } },
    );
  });
});

describe('mcp: what a server says of a call', () => {
  type Answer = (message: { id: number; method: string }, response: ServerResponse) => void;
  let onCall: Answer = () => undefined;
  /** Overrides what the server answers to all else. */
  let onOther: ((message: { id: number; method: string }) => object | undefined) | undefined;
  let server: Awaited<ReturnType<typeof served>>;
  let runner: ToolRunner<never>;
  const json = (response: ServerResponse, status: number, body: object) =>
    response
      .writeHead(status, { 'content-type': 'application/json' })
      .end(JSON.stringify({ jsonrpc: '2.0', ...body }));
  const serverInfo = { name: 's', version: '1' };
  beforeAll(async () => {
    server = await served((request, response) => {
      let text = '';
      request.on('data', (chunk: Buffer) => {
        text += chunk;
      });
      request.on('end', () => {
        if (request.method !== 'POST') return void response.writeHead(405).end();
        const message = JSON.parse(text);
        if (message.id === undefined) return void response.writeHead(202).end();
        if (message.method === 'tools/call') return onCall(message, response);
        const { protocolVersion } = message.params ?? {};
        const result = onOther?.(message) ?? {
          protocolVersion,
          capabilities: { tools: {} },
          serverInfo,
        };
        if (message.method === 'server/discover' && !onOther)
          return void json(response, 200, {
            id: message.id,
            error: { code: -32601, message: 'no' },
          });
        json(response, 200, { id: message.id, result });
      });
    });
  });
  beforeEach(() => {
    onOther = undefined;
    runner = mcpRunner({}) as unknown as ToolRunner<never>;
  });
  afterEach(() => runner.close?.());
  afterAll(() => server.close());
  const call = (onCalled: Answer) => {
    onCall = onCalled;
    return use(runner, job({}, { kind: 'mcp', url: `http://127.0.0.1:${server.port}/mcp` }));
  };
  const fine: Answer = ({ id }, response) =>
    void json(response, 200, { id, result: { content: [{ type: 'text', text: 'hi' }] } });

  test.each([-32700, -32600, -32601, -32602])('error %i is a refusal', async (code) => {
    expect(
      await call(
        ({ id }, response) => void json(response, 200, { id, error: { code, message: 'no' } }),
      ),
    ).toMatchObject({ failure: { class: 'semantic', code: 'MCP_REFUSED', hasBegun: false } });
  });

  test.each([-32603, -32000, -32042, 1])('error %i may come from within the tool', async (code) => {
    const error = { code, message: 'timeout talking to the bank' };
    expect(await call(({ id }, response) => void json(response, 200, { id, error }))).toMatchObject(
      { failure: { class: 'semantic', code: 'MCP_TOOL_ERROR', hasBegun: true } },
    );
  });

  const status =
    (code: number, headers: Record<string, string> = {}): Answer =>
    (_message, response) =>
      void response.writeHead(code, headers).end('why');

  test.each<[number, string]>([
    [400, 'semantic'],
    [405, 'permanent'],
    [406, 'permanent'],
    [409, 'semantic'],
    [413, 'permanent'],
    [415, 'permanent'],
    [422, 'semantic'],
  ])('status %i is a refusal of class %s', async (code, failureClass) => {
    const outcome = await call(status(code));
    expect(outcome).toMatchObject({
      failure: { class: failureClass, code: 'MCP_REFUSED', hasBegun: false },
    });
    expect(JSON.stringify(outcome)).toContain('why');
  });

  test.each([301, 302, 307, 308])(
    'a redirect %i that is not followed is a refusal',
    async (code) => {
      expect(await call(status(code, { location: 'http://localhost:1/steal' }))).toMatchObject({
        failure: { class: 'permanent', code: 'MCP_REFUSED', hasBegun: false },
      });
    },
  );

  test.each([408, 303, 500, 503])('after status %i the tool may have run', async (code) => {
    const outcome = await call(status(code, { location: 'http://localhost:1/receipt' }));
    expect(outcome).toMatchObject({ failure: { class: 'transient', code: 'MCP_BROKEN' } });
    expect(outcome).not.toHaveProperty('failure.hasBegun');
  });

  test('after status 400 that breaks off the tool may have run', async () => {
    const outcome = await call((_message, response) => {
      response.writeHead(400, { 'content-length': '500' }).write('why', () => response.destroy());
    });
    expect(outcome).toMatchObject({ failure: { class: 'transient', code: 'MCP_BROKEN' } });
    expect(outcome).not.toHaveProperty('failure.hasBegun');
  });

  test('status 400 to a session that had worked says that the session is gone', async () => {
    expect(await call(fine)).toEqual({ ok: true, value: 'hi' });
    expect(await call(status(400))).toMatchObject({
      failure: { class: 'transient', code: 'MCP_SESSION_GONE', hasBegun: false },
    });
    // The next session is new: it is the request that is refused.
    expect(await call(status(400))).toMatchObject({
      failure: { class: 'semantic', code: 'MCP_REFUSED', hasBegun: false },
    });
    expect(await call(fine)).toEqual({ ok: true, value: 'hi' });
  });

  test('an answer that the client itself refuses came from a tool that had run', async () => {
    const common = { resultType: 'complete', ttlMs: 60_000, cacheScope: 'private' };
    const tool = {
      name: 'tool',
      inputSchema: { type: 'object' },
      outputSchema: { type: 'object', properties: { n: { type: 'number' } }, required: ['n'] },
    };
    onOther = ({ method }) =>
      method === 'server/discover'
        ? {
            ...common,
            supportedVersions: ['2026-07-28'],
            capabilities: { tools: {} },
            serverInfo,
          }
        : { ...common, tools: [tool] };
    let calls = 0;
    const outcome = await call(({ id }, response) => {
      calls += 1;
      if (calls === 1)
        // The headers do not match the body: the client asks for the list of tools.
        return void json(response, 400, { id, error: { code: -32020, message: 'headers' } });
      json(response, 200, {
        id,
        result: { resultType: 'complete', content: [], structuredContent: { n: 'one' } },
      });
    });
    expect(calls).toBe(2);
    expect(outcome).toMatchObject({
      failure: { class: 'semantic', code: 'MCP_TOOL_ERROR', hasBegun: true },
    });
    expect(JSON.stringify(outcome)).toContain('output schema');
  });
});

describe('mcp over streamable HTTP', () => {
  const folder = mkdtempSync(join(tmpdir(), 'mcp-http-'));
  const program = join(folder, 'server.ts');
  const modules = new URL('../../node_modules/', import.meta.url).pathname;
  // With sessions, as a server has them that remembers its clients: one that was started again knows none of them.
  writeFileSync(
    program,
    `import { McpServer, WebStandardStreamableHTTPServerTransport } from '${modules}@modelcontextprotocol/server/dist/index.mjs';
import { serve } from '${modules}@hono/node-server/dist/index.mjs';
import { z } from '${modules}zod/index.js';
import { randomUUID } from 'node:crypto';
const sessions = new Map();
const open = async () => {
  const server = new McpServer({ name: 'test', version: '1' });
  server.registerTool('add', { description: 'adds', inputSchema: z.object({ a: z.number(), b: z.number() }) }, async ({ a, b }, { mcpReq }) => ({ content: [{ type: 'text', text: JSON.stringify({ sum: a + b, key: mcpReq?._meta?.['understudy.dev/idempotency-key'] }) }] }));
  server.registerTool('hang', { description: 'never answers' }, () => new Promise(() => {}));
  const transport = new WebStandardStreamableHTTPServerTransport({ sessionIdGenerator: () => randomUUID(), onsessioninitialized: (id) => void sessions.set(id, transport) });
  await server.connect(transport);
  return transport;
};
serve({ port: Number(process.env.PORT), hostname: '127.0.0.1', fetch: async (request) => {
  if (request.url.endsWith('/readyz')) return new Response('ok');
  if (request.headers.get('authorization') !== 'Bearer secret') return new Response('who are you', { status: 401 });
  const id = request.headers.get('mcp-session-id');
  if (id && !sessions.has(id)) return new Response('no such session', { status: 404 });
  return (id ? sessions.get(id) : await open()).handleRequest(request);
} });
`,
  );
  let port = 0;
  let server: Running;
  const start = async () => {
    server = startProcess({
      name: 'mcp',
      command: [process.execPath, '--disable-warning=ExperimentalWarning', program],
      environment: { PORT: String(port) },
      logs: folder,
    });
    await answering(`http://127.0.0.1:${port}/readyz`, server);
  };
  beforeAll(async () => {
    port = await freePort();
    await start();
  });
  const runner = mcpRunner({ TOKEN: 'secret' }) as unknown as ToolRunner<never>;
  afterAll(async () => {
    await runner.close?.();
    server.signal('SIGKILL');
  });
  const mcp = (tool: string, token = '${env:TOKEN}') => ({
    kind: 'mcp',
    tool,
    url: `http://127.0.0.1:${port}/mcp`,
    headers: { authorization: `Bearer ${token}` },
  });

  test('an answer without an end is cut off, and may have been done', async () => {
    const { port: large, close } = await served((_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' });
      const more = () => {
        while (!response.destroyed && response.write(' '.repeat(64_000)));
      };
      response.on('drain', more);
      more();
    });
    const run = { kind: 'mcp', tool: 'add', url: `http://127.0.0.1:${large}/mcp` };
    const outcome = await use(runner, job({}, run, { timeoutMs: 20_000 }));
    expect(outcome).toMatchObject({ ok: false, failure: { class: 'transient' } });
    expect(JSON.stringify(outcome)).toContain('larger than 4194304 bytes');
    close();
  });

  test('who waits for a server that does not answer can be stopped: nothing has begun', async () => {
    const { port: silent, close, asked } = await served(() => undefined);
    const run = { kind: 'mcp', tool: 'add', url: `http://127.0.0.1:${silent}/mcp` };
    const stop = new AbortController();
    const outcome = use(runner, job({}, run, { timeoutMs: 60_000 }), stop.signal);
    await eventually(() => asked() > 0, 'the server to be asked');
    stop.abort();
    const told = await outcome;
    expect(told).toMatchObject({ failure: { code: 'MCP_UNREACHABLE', hasBegun: false } });
    expect(JSON.stringify(told)).toContain('the call was stopped');
    close();
  });

  test('a tool is called with the secret of the executor and the key of the effect', async () => {
    expect(await use(runner, job({ a: 40, b: 2 }, mcp('add')))).toEqual({
      ok: true,
      value: { sum: 42, key: 'e_1_0' },
    });
  });

  test('a server that wants another secret was not reached, so nothing has begun', async () => {
    expect(await use(runner, job({ a: 1, b: 2 }, mcp('add', 'wrong')))).toMatchObject({
      ok: false,
      failure: { class: 'transient', code: 'MCP_UNREACHABLE', hasBegun: false },
    });
  });

  test.each<[string, object, object]>([
    ['a user', { url: 'http://user@127.0.0.1:1/mcp' }, { code: 'TOOL_URL_INVALID' }],
    ['a header name', { headers: { 'x key': 'a' } }, { code: 'TOOL_REQUEST_INVALID' }],
    ['a header value', { headers: { 'x-key': '€' } }, { code: 'TOOL_REQUEST_INVALID' }],
    ['expect', { headers: { expect: '100-continue' } }, { code: 'TOOL_REQUEST_INVALID' }],
  ])('%s that cannot be sent is named', async (_what, run, failure) => {
    expect(await use(runner, job({}, { ...mcp('add'), ...run }))).toMatchObject({
      failure: { class: 'permanent', hasBegun: false, ...failure },
    });
  });

  test('what is not set, and what is no address, is named', async () => {
    const missing = await use(runner, job({}, mcp('add', '${env:NOT_SET}')));
    expect(missing).toMatchObject({
      failure: { class: 'permanent', code: 'TOOL_ENV_MISSING', hasBegun: false },
    });
    expect(JSON.stringify(missing)).toContain('NOT_SET');
    expect(await use(runner, job({}, { ...mcp('add'), url: '${env:TOKEN}/mcp' }))).toMatchObject({
      failure: { class: 'permanent', code: 'TOOL_URL_INVALID', hasBegun: false },
    });
  });

  test('a server that was started again refuses the old session: nothing has begun, and the next call is made', async () => {
    await use(runner, job({ a: 1, b: 2 }, mcp('add')));
    server.signal('SIGKILL');
    await server.ended;
    expect(await use(runner, job({ a: 1, b: 2 }, mcp('add')))).toMatchObject({
      failure: { class: 'transient', code: 'MCP_UNREACHABLE', hasBegun: false },
    });
    await start();
    await use(runner, job({ a: 1, b: 2 }, mcp('add')));
    server.signal('SIGKILL');
    await server.ended;
    await start();
    expect(await use(runner, job({ a: 1, b: 2 }, mcp('add')))).toMatchObject({
      failure: { class: 'transient', code: 'MCP_SESSION_GONE', hasBegun: false },
    });
    expect(await use(runner, job({ a: 1, b: 2 }, mcp('add')))).toMatchObject({ ok: true });
  });

  test('a server that dies in the middle may have done it; started again, it is found again', async () => {
    // The package hears of it by the time-out alone.
    const hanging = use(runner, job({}, mcp('hang'), { timeoutMs: 2_000 }));
    await new Promise((wait) => setTimeout(wait, 300));
    server.signal('SIGKILL');
    const broken = await hanging;
    expect(broken).toMatchObject({
      ok: false,
      failure: { class: 'transient', code: 'MCP_BROKEN' },
    });
    expect(broken).not.toHaveProperty('failure.hasBegun');
    await server.ended;
    await start();
    expect(await use(runner, job({ a: 1, b: 2 }, mcp('add')))).toMatchObject({
      ok: true,
      value: { sum: 3 },
    });
  });
});

test('built-in file tools stay in their folder', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'files-'));
  writeFileSync(join(folder, 'a.txt'), 'hello');
  const runner = builtinRunner(builtinTools(folder)) as unknown as ToolRunner<never>;
  const read = (path: string) => use(runner, job({ path }, { kind: 'builtin', name: 'read_file' }));

  expect(await read('a.txt')).toEqual({ ok: true, value: { path: 'a.txt', text: 'hello' } });
  expect(await read('../../etc/passwd')).toMatchObject({
    ok: false,
    failure: { code: 'PATH_OUTSIDE' },
  });
  expect(await read('/etc/passwd')).toMatchObject({ ok: false, failure: { code: 'PATH_OUTSIDE' } });
  expect(await read('missing.txt')).toMatchObject({
    ok: false,
    failure: { class: 'semantic', code: 'ENOENT' },
  });
});
