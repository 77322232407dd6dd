/** The job runner and the tools that run in it, over real processes and HTTP. In pods the same runner is tried by test/cluster. */
import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { memoryWorkspaces } from '../../services/adapters/memory/workspaces.ts';
import { natsWorkspaces } from '../../services/adapters/nats/workspaces.ts';
import { processSandboxes } from '../../services/adapters/process/sandboxes.ts';
import { claimSandbox, runInSandbox } from '../../services/adapters/sandbox/client.ts';
import { sandboxRunner } from '../../services/adapters/sandbox/tool.ts';
import { limits } from '../../services/core/limits.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import type { ToolJob } from '../../services/ports/performers.ts';
import type { Sandbox, Sandboxes, Workspaces } from '../../services/ports/sandboxes.ts';
import { eventually } from '../support/eventually.ts';
import { type Servers, startServers } from '../support/servers.ts';

const never = new AbortController().signal;

function toolOf(
  over: { class?: string; timeoutMs?: number; outputBytesMax?: number; run?: object } = {},
) {
  return toolSpecSchema.parse({
    description: 'runs code',
    class: 'pure',
    ...over,
    run: { kind: 'sandbox', ...over.run },
  });
}
const jobOf = (
  session: string,
  spec: ReturnType<typeof toolOf>,
  args: Record<string, unknown>,
): ToolJob => ({
  tool: 'code',
  spec,
  arguments: args,
  tenant: 'acme',
  session,
  idempotencyKey: 'e1',
});

/** Sandboxes that a test can look at. */
function watched(): Sandboxes & { readonly claimed: Sandbox[]; readonly discarded: string[] } {
  const inner = processSandboxes(claimSandbox);
  const claimed: Sandbox[] = [];
  const discarded: string[] = [];
  return {
    claimed,
    discarded,
    async claim(holder, signal) {
      const sandbox = await inner.claim(holder, signal);
      claimed.push(sandbox);
      return sandbox;
    },
    discard(sandbox) {
      discarded.push(sandbox.name);
      inner.discard(sandbox);
    },
    stop: () => inner.stop(),
  };
}

describe('a sandbox', () => {
  const sandboxes = watched();
  const workspaces = memoryWorkspaces();
  const runner = sandboxRunner({ sandboxes, workspaces, telemetry: countingTelemetry() }, 60_000);
  const run = (
    session: string,
    spec: ReturnType<typeof toolOf>,
    args: Record<string, unknown>,
    signal = never,
  ) => runner.run(jobOf(session, spec, args), spec.run as never, signal);
  afterAll(() => runner.close?.());

  test('runs JavaScript with its input, and gives result and log', async () => {
    const outcome = await run('s1', toolOf(), {
      code: 'console.log("so", input.a); return { sum: input.a + input.b };',
      input: { a: 1, b: 2 },
    });
    expect(outcome).toEqual({ ok: true, value: { result: { sum: 3 }, log: ['so 1'] } });
  });

  test('ends with the process that started it, though that is killed, and so do its job and its files', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'understudy-parent-'));
    const of = (path: string) =>
      JSON.stringify(join(import.meta.dirname, '../../services/adapters', path));
    const code = `
      const { processSandboxes } = await import(${of('process/sandboxes.ts')});
      const { claimSandbox, runInSandbox } = await import(${of('sandbox/client.ts')});
      const never = new AbortController().signal;
      const sandbox = await processSandboxes(claimSandbox).claim({ tenant: 't', session: 's' }, never);
      const limits = { timeoutMs: 60000, outputBytesMax: 1000, memoryMiB: 500, diskMiB: 100, processesMax: 50 };
      console.log(sandbox.name.replace('sandbox-', ''));
      await runInSandbox(sandbox, { language: 'shell', code: 'echo $$ > pid; sleep 300', input: null, isWorkspace: true, ...limits }, never);`;
    const parent = spawn(
      process.execPath,
      ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', code],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: { ...process.env, TMPDIR: folder },
      },
    );
    try {
      const sandbox = Number(
        await new Promise<string>((resolve) =>
          createInterface({ input: parent.stdout }).once('line', resolve),
        ),
      );
      const job = await eventually(() => {
        const [name] = readdirSync(folder).filter((one) => one.startsWith('understudy-sandbox-'));
        return name === undefined
          ? undefined
          : Number(readFileSync(join(folder, name, 'pid'), 'utf8'));
      }, 'the job to run');
      // One that has ended and that nobody has fetched yet still has its entry.
      const lives = (pid: number) =>
        existsSync(`/proc/${pid}/stat`) && !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
      expect([sandbox, job].map(lives)).toEqual([true, true]);
      parent.kill('SIGKILL');
      await eventually(
        () =>
          ![sandbox, job].some(lives) &&
          !readdirSync(folder).some((one) => one.startsWith('understudy-sandbox-')),
        'all of it to be gone',
      );
    } finally {
      parent.kill('SIGKILL');
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test('runs shell, and an exit code is a result', async () => {
    const outcome = await run('s1', toolOf({ run: { language: 'shell' } }), {
      code: 'echo out; echo err >&2; exit 3',
    });
    expect(outcome).toEqual({ ok: true, value: { exitCode: 3, stdout: 'out\n', stderr: 'err\n' } });
  });

  describe('with an MCP server in it', () => {
    const server = join(import.meta.dirname, '../support/mcp-server.ts');
    const mcp = (
      tool: string,
      command = [process.execPath, '--disable-warning=ExperimentalWarning', server],
    ) => toolOf({ timeoutMs: 30_000, run: { mcp: { command, tool } } });
    const script = (text: string) => [process.execPath, '-e', text];
    const reader =
      "require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => { const message = JSON.parse(line); ";

    test('calls a tool of it, over stdio, and gives its structured content', async () => {
      expect(await run('mcp', mcp('add'), { a: 40, b: 2 })).toEqual({
        ok: true,
        value: { sum: 42 },
      });
    });

    test('says apart what the tool answers as an error, what the server refuses, and a server that gives no answer', async () => {
      expect(await run('mcp', mcp('fail'), {})).toMatchObject({
        ok: false,
        failure: { class: 'semantic', code: 'MCP_TOOL_ERROR' },
      });
      expect(await run('mcp', mcp('nothing'), {})).toMatchObject({
        ok: false,
        failure: { class: 'semantic' },
      });
      expect(await run('mcp', mcp('add', ['/no/such/server']), {})).toMatchObject({
        ok: false,
        failure: { code: 'SANDBOX_CODE', message: expect.stringContaining('could not be started') },
      });
      expect(await run('mcp', mcp('add', script('process.exit(3)')), {})).toMatchObject({
        ok: false,
        failure: { code: 'SANDBOX_CODE', message: expect.stringContaining('code 3') },
      });
    });

    test('a server that never answers is ended in time, one that answers nonsense is told so', async () => {
      const silent = toolOf({
        timeoutMs: 1_500,
        run: { mcp: { command: script('setInterval(() => {}, 1000)') } },
      });
      expect(await run('mcp', silent, {})).toMatchObject({
        ok: false,
        failure: { code: 'SANDBOX_TIMEOUT' },
      });
      const nonsense = `${reader} if (message.id) console.log(JSON.stringify({ jsonrpc: '2.0', id: message.id, result: { content: 'none' } })); });`;
      expect(await run('mcp', mcp('add', script(nonsense)), {})).toMatchObject({
        ok: false,
        failure: { code: 'MCP_BROKEN' },
      });
    });

    test('tells the server the key of the call, answers its ping, and does not mind what it prints besides', async () => {
      const chatty = `console.log('listening'); console.log('null'); console.log('7'); console.log('{"jsonrpc":"2.0","id":"p","method":"ping"}'); let pong;
        ${reader} if (message.id === 'p') pong = message.result;
          if (message.method === 'initialize') console.log(JSON.stringify({ jsonrpc: '2.0', id: message.id, result: {} }));
          if (message.method === 'tools/call') console.log(JSON.stringify({ jsonrpc: '2.0', id: message.id, result: { structuredContent: { ...message.params, pong } } })); });`;
      expect(await run('mcp', mcp('look', script(chatty)), { a: 1 })).toEqual({
        ok: true,
        value: {
          name: 'look',
          arguments: { a: 1 },
          _meta: { 'understudy.dev/idempotency-key': 'e1' },
          pong: {},
        },
      });
    });
  });

  test('keeps a sandbox for its session and gives another session another one', async () => {
    const before = sandboxes.claimed.length;
    await run('s1', toolOf(), { code: 'return 1;' });
    expect(sandboxes.claimed.length).toBe(before);
    await run('s2', toolOf(), { code: 'return 1;' });
    expect(sandboxes.claimed.length).toBe(before + 1);
  });

  test.each([
    ['an error of the code', {}, { code: 'null.x' }, 'SANDBOX_CODE'],
    [
      'code that no command line can hold',
      { run: { language: 'shell' } },
      { code: 'echo \0' },
      'SANDBOX_CODE',
    ],
    [
      'code that is too long for one',
      { run: { language: 'shell' } },
      { code: `: ${'x'.repeat(200_000)}` },
      'SANDBOX_CODE',
    ],
    ['time', { timeoutMs: 1_500 }, { code: 'for (;;) {}' }, 'SANDBOX_TIMEOUT'],
    ['output', { run: { language: 'shell' } }, { code: 'yes' }, 'SANDBOX_OUTPUT'],
    [
      'disk',
      { run: { language: 'shell', diskMiB: 4 }, timeoutMs: 20_000 },
      {
        code: 'i=0; while [ $i -lt 200 ]; do head -c 1000000 /dev/zero > f$i; i=$((i+1)); sleep 0.02; done',
      },
      'SANDBOX_DISK',
    ],
    [
      'no such language',
      { run: { language: 'python' } },
      { code: 'print(1)' },
      existsSync('/usr/bin/python3') ? undefined : 'SANDBOX_LANGUAGE',
    ],
  ])('says what went wrong: %s', async (_what, over, args, code) => {
    const outcome = await run('s3', toolOf(over), args);
    if (code === undefined) expect(outcome.ok).toBe(true);
    else expect(outcome.ok ? outcome.value : outcome.failure.code).toBe(code);
  });

  test('a result that is nested deeper than a stack is its own failure, and the sandbox lives', async () => {
    const before = sandboxes.claimed.length;
    await run('s6', toolOf(), { code: 'return 1;' });
    const deep = `require('node:fs').writeSync(3, '{"value":' + '['.repeat(20000) + ']'.repeat(20000) + '}'); process.exit(0);`;
    expect(await run('s6', toolOf(), { code: deep })).toMatchObject({
      ok: false,
      failure: { code: 'SANDBOX_CODE' },
    });
    expect(await run('s6', toolOf(), { code: 'return 6;' })).toMatchObject({ ok: true });
    expect(sandboxes.claimed.length - before).toBe(1);
  });

  test('a job that removes its workspace leaves an empty one', async () => {
    const spec = toolOf({ class: 'workspace', run: { language: 'shell' } });
    const call = (code: string, idempotencyKey: string) =>
      runner.run({ ...jobOf('s7', spec, { code }), idempotencyKey }, spec.run as never, never);
    expect(await call('echo 1 > f; rm -rf "$PWD"', 'r1')).toMatchObject({ ok: true });
    expect(await call('ls | wc -l', 'r2')).toMatchObject({ ok: true, value: { stdout: '0\n' } });
  });

  test('ends everything that a job has started', async () => {
    const spec = toolOf({ run: { language: 'shell' }, timeoutMs: 1_500 });
    const seconds = `77.${Math.floor(Math.random() * 1e6)}`;
    const outcome = await run('s4', spec, {
      code: `sleep ${seconds} & (sleep ${seconds} &) ; wait`,
    });
    expect(outcome).toMatchObject({ ok: false, failure: { code: 'SANDBOX_TIMEOUT' } });
    const left = readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .filter((name) => {
        try {
          return readFileSync(`/proc/${name}/cmdline`, 'utf8').includes(seconds);
        } catch {
          return false; // it has just ended
        }
      });
    expect(left).toEqual([]);
  });

  test('is claimed once, and does nothing for anyone else', async () => {
    const sandbox = sandboxes.claimed[0]!;
    expect(
      await claimSandbox(sandbox.name, sandbox.url, { tenant: 'acme', session: 'thief' }),
    ).toBeUndefined();
    const answers = await Promise.all(
      ['', 'Bearer wrong', `Bearer ${sandbox.token}x`].map((authorization) =>
        fetch(`${sandbox.url}/workspace`, { headers: { authorization } }),
      ),
    );
    expect(answers.map(({ status }) => status)).toEqual([401, 401, 401]);
  });

  test('of many that claim one at the same time, one gets it', async () => {
    const fresh = await processSandboxes(async () => 'not claimed yet').claim(
      { tenant: 'acme', session: 'x' },
      never,
    );
    const tokens = await Promise.all(
      Array.from({ length: 32 }, (_, index) =>
        claimSandbox(fresh.name, fresh.url, { tenant: 'acme', session: `s${index}` }),
      ),
    );
    expect(tokens.filter((token) => token !== undefined)).toHaveLength(1);
    process.kill(Number(fresh.name.slice('sandbox-'.length)), 'SIGKILL');
  });

  test('that dies in the middle is a transient failure, and the next call has another', async () => {
    const before = sandboxes.claimed.length;
    const going = run('s5', toolOf(), {
      code: 'await new Promise((wait) => setTimeout(wait, 5000));',
    });
    while (sandboxes.claimed.length === before) await new Promise((wait) => setTimeout(wait, 10));
    await new Promise((wait) => setTimeout(wait, 300));
    process.kill(Number(sandboxes.claimed.at(-1)!.name.slice('sandbox-'.length)), 'SIGKILL');
    expect(await going).toMatchObject({
      ok: false,
      failure: { class: 'transient', code: 'SANDBOX_GONE' },
    });
    expect(await run('s5', toolOf(), { code: 'return 5;' })).toMatchObject({ ok: true });
  });
});

const asInPod = ['-Urpf', '--mount-proc', '--kill-child'];
const canUnshare = spawnSync('unshare', [...asInPod, 'true']).status === 0;

describe.skipIf(!canUnshare)(
  'the first process of a pod (skipped where no process namespace can be made)',
  () => {
    const folder = mkdtempSync(join(tmpdir(), 'understudy-pod-'));
    mkdirSync(join(folder, 'tmp'));
    const pod = canUnshare
      ? spawn(
          'unshare',
          [
            ...asInPod,
            process.execPath,
            '--disable-warning=ExperimentalWarning',
            'services/sandbox/main.ts',
          ],
          {
            stdio: ['ignore', 'pipe', 'ignore'],
            env: {
              PATH: process.env.PATH,
              PORT: '0',
              HOST: '127.0.0.1',
              WORKSPACE: join(folder, 'workspace'),
              TMPDIR: join(folder, 'tmp'),
            },
          },
        )
      : undefined;
    let sandbox: Sandbox;
    beforeAll(async () => {
      const port = await new Promise<number>((resolve) =>
        createInterface({ input: pod!.stdout }).once('line', (line) =>
          resolve((JSON.parse(line) as { listening: number }).listening),
        ),
      );
      const url = `http://127.0.0.1:${port}`;
      sandbox = {
        name: 'pod',
        url,
        token: (await claimSandbox('pod', url, { tenant: 'acme', session: 's' })) ?? '',
      };
    });
    afterAll(() => {
      pod?.kill('SIGKILL');
      rmSync(folder, { recursive: true, force: true });
    });
    const run = (code: string) =>
      runInSandbox(
        sandbox,
        {
          input: null,
          language: 'shell',
          isWorkspace: true,
          timeoutMs: 20_000,
          outputBytesMax: 100_000,
          memoryMiB: 200,
          diskMiB: 50,
          processesMax: 50,
          code,
        },
        never,
      );
    const orphans = (count: number) =>
      `i=0; while [ $i -lt ${count} ]; do (true &); i=$((i+1)); done; sleep 0.5; echo done`;

    test('does not count processes that have ended: neither those of the job nor those of the jobs before', async () => {
      expect(await run(orphans(70))).toMatchObject({
        ok: true,
        value: { stdout: 'done\n' },
        isWornOut: false,
      });
      expect(await run('sleep 0.5; echo alive')).toMatchObject({
        ok: true,
        value: { stdout: 'alive\n' },
      });
    });

    test('ends a job that has more processes than it may', async () => {
      expect(
        await run('i=0; while [ $i -lt 60 ]; do sleep 20 & i=$((i+1)); done; wait'),
      ).toMatchObject({ ok: false, code: 'SANDBOX_PROCESSES' });
      expect(await run('sleep 0.5; echo alive')).toMatchObject({ ok: true });
    });

    test('says that it is worn out when too many have ended that nobody fetches', async () => {
      expect(await run(orphans(60))).toMatchObject({ ok: true, isWornOut: false });
      expect(await run(orphans(140))).toMatchObject({ ok: true, isWornOut: true });
      const discarded: string[] = [];
      const runner = sandboxRunner(
        {
          sandboxes: {
            claim: async () => sandbox,
            discard: ({ name }) => discarded.push(name),
            stop: async () => undefined,
          },
          workspaces: memoryWorkspaces(),
          telemetry: countingTelemetry(),
        },
        60_000,
      );
      const spec = toolOf({ run: { language: 'shell' } });
      expect(
        await runner.run(jobOf('s', spec, { code: 'true' }), spec.run as never, never),
      ).toMatchObject({ ok: true });
      expect(discarded).toEqual(['pod']);
    });
  },
);

describe.each(['memory', 'nats'])('workspaces over %s', (kind) => {
  let servers: Servers | undefined;
  let workspaces: Workspaces;
  beforeAll(async () => {
    if (kind === 'nats') servers = await startServers();
    workspaces = servers ? natsWorkspaces(servers.connections.nats) : memoryWorkspaces();
  });
  afterAll(() => servers?.stop());

  test('gives back what was saved last, whole', async () => {
    expect(await workspaces.latest('acme', 's', 'e1')).toBeUndefined();
    const large = Buffer.alloc(limits.workspaceChunkBytes * 2 + 17, 'x');
    const first = await workspaces.save('acme', 's', 'e1', undefined, large);
    expect(await workspaces.latest('acme', 's', 'e2')).toEqual(first);
    expect(Buffer.compare(Buffer.from(await workspaces.load('acme', 's', first)), large)).toBe(0);
    const second = await workspaces.save('acme', 's', 'e2', first, Buffer.from('small'));
    expect(await workspaces.latest('acme', 's', 'e3')).toEqual(second);
    expect(await workspaces.latest('other', 's', 'e3')).toBeUndefined();
  });

  test('an effect that runs again begins where it began the first time', async () => {
    const first = await workspaces.save('acme', 'again', 'e1', undefined, Buffer.from('one'));
    await workspaces.save('acme', 'again', 'e2', first, Buffer.from('two'));
    expect(await workspaces.latest('acme', 'again', 'e2')).toEqual(first);
    expect(Buffer.from(await workspaces.load('acme', 'again', first)).toString()).toBe('one');
    const second = await workspaces.save('acme', 'again', 'e2', first, Buffer.from('two, again'));
    expect(await workspaces.latest('acme', 'again', 'e3')).toEqual(second);
    expect(Buffer.from(await workspaces.load('acme', 'again', second)).toString()).toBe(
      'two, again',
    );
  });

  test('who was overtaken saves nothing', async () => {
    const first = await workspaces.save('acme', 'overtaken', 'e1', undefined, Buffer.from('one'));
    const second = await workspaces.save('acme', 'overtaken', 'e2', first, Buffer.from('two'));
    const third = await workspaces.save('acme', 'overtaken', 'e3', second, Buffer.from('three'));
    await expect(
      workspaces.save('acme', 'overtaken', 'slow', first, Buffer.from('late')),
    ).rejects.toMatchObject({ code: 'WORKSPACE_CHANGED' });
    await expect(
      workspaces.save('acme', 'overtaken', 'e2', first, Buffer.from('late')),
    ).rejects.toMatchObject({ code: 'WORKSPACE_OVERTAKEN' });
    expect(await workspaces.latest('acme', 'overtaken', 'e4')).toEqual(third);
    expect(Buffer.from(await workspaces.load('acme', 'overtaken', third)).toString()).toBe('three');
  });

  test('what was saved before others went on from there does not run again on top of them', async () => {
    const spec = toolOf({ class: 'workspace', run: { language: 'shell' } });
    const sandboxes = watched();
    const runner = sandboxRunner({ sandboxes, workspaces, telemetry: countingTelemetry() }, 60_000);
    const call = (code: string, effect: string) =>
      runner.run(
        { ...jobOf('w2', spec, { code }), idempotencyKey: effect },
        spec.run as never,
        never,
      );
    await call('echo one >> f', 'e1');
    await call('echo two >> f', 'e2');
    // Its answer was told, and its acknowledgement was lost.
    expect(await call('echo one >> f', 'e1')).toMatchObject({
      ok: false,
      failure: { class: 'permanent', code: 'WORKSPACE_OVERTAKEN' },
    });
    expect(await call('cat f', 'e3')).toMatchObject({ ok: true, value: { stdout: 'one\ntwo\n' } });
    // The copy of one that ran twice is known as well.
    await call('cat f', 'e3');
    await call('true', 'e4');
    for (const late of ['e1', 'e2', 'e3'])
      await expect(workspaces.latest('acme', 'w2', late)).rejects.toMatchObject({
        code: 'WORKSPACE_OVERTAKEN',
      });
    await runner.close?.();
  });

  test('what a job of another class does to the files is not there for the next call that counts on them', async () => {
    const spec = toolOf({ class: 'workspace', run: { language: 'shell' } });
    const other = toolOf({ run: { language: 'shell' } });
    const runner = sandboxRunner(
      { sandboxes: watched(), workspaces, telemetry: countingTelemetry() },
      60_000,
    );
    const call = (code: string, idempotencyKey: string, of = spec) =>
      runner.run({ ...jobOf('w3', of, { code }), idempotencyKey }, of.run as never, never);
    const first = (await call('echo one > f; pwd', 'e1')) as { value: { stdout: string } };
    expect(
      await call(`echo intruder >> ${first.value.stdout.trim()}/f`, 'e2', other),
    ).toMatchObject({ ok: true });
    expect(await call('cat f', 'e3')).toMatchObject({ ok: true, value: { stdout: 'one\n' } });
    await runner.close?.();
    // Also where it was the first in its sandbox, which workspaces of processes lie beside.
    const fresh = watched();
    const second = sandboxRunner(
      { sandboxes: fresh, workspaces, telemetry: countingTelemetry() },
      60_000,
    );
    const at = (code: string, idempotencyKey: string, of = spec) =>
      second.run({ ...jobOf('w4', of, { code }), idempotencyKey }, of.run as never, never);
    await at('true', 'f1', other);
    await at('echo one > f', 'f2');
    expect(fresh.claimed).toHaveLength(2);
    await second.close?.();
  });

  test('files survive the sandbox, at whichever executor the next call lands', async () => {
    const spec = toolOf({ class: 'workspace', run: { language: 'shell' } });
    const [here, there] = [watched(), watched()].map((sandboxes) => ({
      sandboxes,
      runner: sandboxRunner({ sandboxes, workspaces, telemetry: countingTelemetry() }, 60_000),
    })) as [
      { sandboxes: ReturnType<typeof watched>; runner: ReturnType<typeof sandboxRunner> },
      { sandboxes: ReturnType<typeof watched>; runner: ReturnType<typeof sandboxRunner> },
    ];
    let calls = 0;
    const call = (at: typeof here, code: string, effect = `e${++calls}`) =>
      at.runner.run(
        { ...jobOf('w1', spec, { code }), idempotencyKey: effect },
        spec.run as never,
        never,
      );
    expect(await call(here, 'mkdir -p d && echo one > d/f')).toMatchObject({
      ok: true,
      value: { exitCode: 0 },
    });
    process.kill(Number(here.sandboxes.claimed[0]!.name.slice('sandbox-'.length)), 'SIGKILL');
    expect(await call(there, 'cat d/f && echo two >> d/f')).toMatchObject({
      ok: true,
      value: { stdout: 'one\n' },
    });
    // The first executor has a sandbox that is behind by now, if it lives; what counts is the checkpoint.
    await call(here, 'true');
    expect(await call(here, 'cat d/f')).toMatchObject({
      ok: true,
      value: { stdout: 'one\ntwo\n' },
    });
    expect(await call(there, 'echo three >> d/f')).toMatchObject({ ok: true });
    expect(await call(here, 'cat d/f')).toMatchObject({
      ok: true,
      value: { stdout: 'one\ntwo\nthree\n' },
    });
    // The same effect again, after its result was lost: its first run has not happened.
    expect(await call(there, 'echo four >> d/f; cat d/f', 'twice')).toMatchObject({
      ok: true,
      value: { stdout: 'one\ntwo\nthree\nfour\n' },
    });
    expect(await call(here, 'echo four >> d/f; cat d/f', 'twice')).toMatchObject({
      ok: true,
      value: { stdout: 'one\ntwo\nthree\nfour\n' },
    });
    // And a call that failed in the middle leaves nothing.
    expect(await call(here, 'yes > d/f')).toMatchObject({ ok: false });
    expect(await call(here, 'cat d/f')).toMatchObject({
      ok: true,
      value: { stdout: 'one\ntwo\nthree\nfour\n' },
    });
    await Promise.all([here.runner.close?.(), there.runner.close?.()]);
  });
});

const asNobody =
  process.getuid?.() === 0
    ? ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups']
    : ['env'];
const canBeNobody =
  spawnSync(asNobody[0]!, [...asNobody.slice(1), process.execPath, '-e', '0']).status === 0;

test.skipIf(!canBeNobody)(
  'what forbids to be emptied or read is permitted first (skipped where we cannot be nobody)',
  () => {
    const folder = mkdtempSync(join(tmpdir(), 'understudy-forbidden-'));
    chmodSync(folder, 0o777);
    for (const file of ['sandbox/workspace.ts', 'adapters/process/remove-tree.ts'])
      copyFileSync(
        join(import.meta.dirname, '../../services', file),
        join(folder, file.split('/').at(-1)!),
      );
    const code = `
    const { emptyWorkspace } = await import('./workspace.ts');
    const { removeTree } = await import('./remove-tree.ts');
    const { chmodSync, existsSync, mkdirSync, readdirSync, writeFileSync } = await import('node:fs');
    const fill = (root) => {
      mkdirSync(root + '/mod', { recursive: true });
      writeFileSync(root + '/mod/f', 'x');
      chmodSync(root + '/mod', 0o555);
    };
    fill('work');
    await emptyWorkspace('work');
    fill('tree');
    await removeTree('tree');
    console.log(JSON.stringify([readdirSync('work'), existsSync('tree')]));`;
    const { stdout, stderr } = spawnSync(
      asNobody[0]!,
      [
        ...asNobody.slice(1),
        process.execPath,
        '--disable-warning=ExperimentalWarning',
        '--input-type=module',
        '-e',
        code,
      ],
      {
        cwd: folder,
        encoding: 'utf8',
      },
    );
    rmSync(folder, { recursive: true, force: true });
    expect(stdout, stderr).toBe('[[],false]\n');
  },
);
