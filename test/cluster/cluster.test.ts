/**
 * The chart on a real cluster: `make test-cluster`. Uses the current context (or the cluster beside this project), and expects the images
 * of `make images` on its nodes. Without a cluster everything here is skipped.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { command } from '../../chaos/kubectl.ts';
import { hasCluster } from '../support/helm.ts';
import { edges, reachedBy, withoutEachRule } from './edges.ts';
import { type Installation, installIn } from './in-cluster.ts';

const namespace = 'understudy-test';
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const probes = readFileSync(join(import.meta.dirname, 'probes.js'), 'utf8');

interface Outcome {
  readonly ok: boolean;
  readonly code?: string;
  readonly value?: unknown;
  readonly gone?: string;
}

describe.skipIf(!hasCluster)('on a cluster', { timeout: 240_000 }, () => {
  let system: Installation;
  beforeAll(async () => {
    system = await installIn(
      namespace,
      '--set',
      'sandbox.idleMs=2000,tenants.globex.agents={*},executor.pools.heavy.replicas=1',
    );
  }, 400_000);
  afterAll(async () => {
    await command('helm', ['uninstall', 'u', '--namespace', namespace, '--wait']).catch(
      () => undefined,
    );
    await command('kubectl', ['delete', 'namespace', namespace, '--wait=false']).catch(
      () => undefined,
    );
  }, 120_000);

  /** Claim a free sandbox as an executor would, and run jobs in it, one after the other. */
  async function inSandbox(
    jobs: readonly {
      language: string;
      code: string;
      isWorkspace?: boolean;
      input?: unknown;
      memoryMiB?: number;
      diskMiB?: number;
      timeoutMs?: number;
    }[],
  ): Promise<Outcome[]> {
    const full = jobs.map((job) => ({
      input: null,
      isWorkspace: true,
      timeoutMs: 20_000,
      outputBytesMax: 1_000_000,
      memoryMiB: 200,
      diskMiB: 50,
      processesMax: 50,
      ...job,
    }));
    const text = await system.script(
      await system.podOf('executor'),
      `const { claimSandbox, runInSandbox } = await import('/app/services/adapters/sandbox/client.ts');
       const addresses = async () => (await (await import('node:dns/promises')).lookup('u-sandbox', { all: true, family: 4 }).catch(() => [])).map(({ address }) => address);
       let url = '', token;
       for (const end = Date.now() + 60000; token === undefined && Date.now() < end; ) {
         for (const address of await addresses()) {
           url = 'http://' + address + ':8080';
           token = await claimSandbox('probe', url, { tenant: 't', session: 's' }).catch(() => undefined);
           if (token !== undefined) break;
         }
         if (token === undefined) await new Promise((wait) => setTimeout(wait, 500));
       }
       const answers = [];
       for (const job of JSON.parse(Buffer.from('${Buffer.from(JSON.stringify(full)).toString('base64')}', 'base64').toString())) {
         try { answers.push(await runInSandbox({ name: 'probe', url, token }, job, AbortSignal.timeout(60000))); } catch (error) { answers.push({ ok: false, gone: error.code }); }
       }
       console.log(JSON.stringify(answers));`,
    );
    return JSON.parse(text.trim().split('\n').at(-1) ?? '[]') as Outcome[];
  }

  test('helm test publishes a task and sees it completed', async () => {
    const args = ['test', 'u', '--namespace', namespace, '--logs', '--timeout', '2m'];
    const text = await command('helm', args).catch(async (error: Error) => {
      // helm says only that it failed.
      const logs = await system.run('logs', 'u-test').catch(String);
      throw new Error(`${error.message}\n${logs}`);
    });
    expect(text).toContain('the task was completed');
  });

  test('the command line acts under a name in a pod, whose user has none', async () => {
    const told = await system.run(
      'exec',
      'deployment/u-cli',
      '--',
      'sh',
      '-c',
      'understudy halt nobody-1 2>&1 || true',
    );
    // It got so far as to be asked: without a name it would have ended before.
    expect(told).toContain('SESSION_UNKNOWN');
  });

  test('each NATS user is refused what it does not need', async () => {
    const tried: readonly (readonly [string, 'publish' | 'subscribe', string])[] = [
      ['tenant-acme', 'publish', 'understudy.task.globex.desk'],
      ['tenant-acme', 'publish', 'understudy.mail.0.batch'],
      ['tenant-acme', 'publish', 'understudy.control.halt'],
      ['tenant-acme', 'publish', 'understudy.ask.globex.task'],
      ['tenant-acme', 'publish', 'understudy.check.tools'],
      ['tenant-acme', 'subscribe', 'understudy.event.globex.>'],
      ['tenant-acme', 'subscribe', '_INBOX_tenant-globex.>'],
      ['tenant-acme', 'subscribe', '>'],
      ['gateway', 'publish', 'understudy.task.acme.desk'],
      ['gateway', 'publish', 'understudy.start.x'],
      ['gateway', 'publish', '$JS.API.CONSUMER.MSG.NEXT.EFFECTS.pool-tools'],
      ['gateway', 'publish', '$JS.API.STREAM.PURGE.MAIL'],
      ['executor', 'publish', 'understudy.task.acme.desk'],
      ['executor', 'publish', 'understudy.event.acme.desk.s.completed'],
      ['executor', 'publish', '$JS.API.CONSUMER.MSG.NEXT.EFFECTS.pool-models'],
      ['executor', 'publish', '$JS.API.STREAM.DELETE.MAIL'],
      ['executor', 'publish', 'understudy.check.tools'],
      ['executor', 'publish', 'understudy.ask.acme.task'],
      ['executor', 'publish', '$JS.API.CONSUMER.MSG.NEXT.EFFECTS.pool-heavy'],
      ['executor', 'subscribe', 'understudy.mail.>'],
      ['executor', 'publish', 'understudy.server.tools'],
      ['executor', 'publish', 'understudy.bundle.listing.x.1'],
      ['executor', 'publish', 'understudy.credential.heavy.x'],
      ['executor', 'subscribe', 'understudy.server.heavy'],
      ['executor', 'subscribe', 'understudy.served.*'],
      ['executor-heavy', 'publish', 'understudy.credential.tools.x'],
      ['tenant-acme', 'publish', 'understudy.server.tools'],
      ['tenant-acme', 'publish', 'understudy.served.x'],
      ['gateway', 'subscribe', 'understudy.server.tools'],
      ['gateway', 'subscribe', 'understudy.check.tools'],
      ['gateway', 'publish', '$JS.API.STREAM.MSG.GET.CREDENTIALS'],
      ['runtime', 'publish', '$JS.API.STREAM.MSG.GET.CREDENTIALS'],
      ['operator', 'publish', '$JS.API.STREAM.MSG.GET.CREDENTIALS'],
      ['console', 'publish', 'understudy.control.acceptListing'],
      ['executor-heavy', 'publish', '$JS.API.CONSUMER.MSG.NEXT.EFFECTS.pool-tools'],
      ['executor-heavy', 'publish', 'understudy.effect.tools.acme'],
      ['executor-heavy', 'subscribe', '_INBOX_executor.>'],
      ['runtime', 'publish', 'understudy.stream.acme.s'],
      ['runtime', 'publish', 'understudy.workspace.acme.s.head'],
      ['runtime', 'publish', '$JS.API.STREAM.DELETE.MAIL'],
      ['console', 'publish', 'understudy.mail.0.batch'],
      ['console', 'publish', 'understudy.task.acme.desk'],
      ['console', 'publish', 'understudy.control.released'],
      ['console', 'publish', '$JS.API.STREAM.MSG.GET.MAIL'],
      ['console', 'publish', '$JS.API.CONSUMER.CREATE.MAIL'],
      ['console', 'subscribe', 'understudy.>'],
      ['operator', 'publish', 'understudy.mail.0.batch'],
      ['operator', 'publish', 'understudy.effect.tools.acme'],
      ['operator', 'publish', '$JS.API.STREAM.PURGE.EVENTS'],
    ];
    const passwords = Object.fromEntries(
      await Promise.all(
        [...new Set(tried.map(([user]) => user))].map(async (user) => [
          user,
          await system.secret(`nats-${user}`),
        ]),
      ),
    );
    const text = await system.script(
      'deployment/u-cli',
      `const { connect } = await import('/app/node_modules/nats/index.js');
       const passwords = ${JSON.stringify(passwords)};
       const refused = [];
       for (const [user, verb, subject] of ${JSON.stringify(tried)}) {
         const connection = await connect({ servers: process.env.UNDERSTUDY_NATS_URL, user, pass: passwords[user], inboxPrefix: '_INBOX_' + user });
         let isRefused = false;
         (async () => { for await (const status of connection.status()) if (/permission/i.test(JSON.stringify(status))) isRefused = true; })();
         if (verb === 'publish') connection.publish(subject, '{}');
         else connection.subscribe(subject, { callback: (error) => { if (error) isRefused = true; } });
         await connection.flush();
         await new Promise((wait) => setTimeout(wait, 100));
         refused.push(isRefused);
         await connection.close();
       }
       console.log(JSON.stringify(refused));`,
    );
    const refused = JSON.parse(text.trim().split('\n').at(-1) ?? '[]') as boolean[];
    expect(tried.filter((_, index) => !refused[index])).toEqual([]);
  });

  test('each Redis user is refused what it does not need', async () => {
    const passwords = {
      gateway: await system.secret('redis-gateway'),
      runtime: await system.secret('redis-runtime'),
      operator: await system.secret('redis-operator'),
    };
    const tried = [
      ['gateway', 'hgetall', '{understudy:0}:records'],
      ['gateway', 'set', '{understudy:0}:owner', 'me'],
      ['gateway', 'flushall'],
      ['gateway', 'keys', '*'],
      ['runtime', 'set', 'other', 'x'],
      ['runtime', 'flushall'],
      ['runtime', 'config', 'get', '*'],
      ['operator', 'set', '{understudy:0}:owner', 'me'],
      ['operator', 'hdel', '{understudy:0}:records', 's'],
      ['default', 'get', '{understudy:0}:owner'],
    ];
    const text = await system.script(
      await system.podOf('runtime'),
      `const { Redis } = (await import('/app/node_modules/ioredis/built/index.js')).default;
       const passwords = ${JSON.stringify(passwords)};
       const answers = [];
       for (const [user, ...words] of ${JSON.stringify(tried)}) {
         if (user === 'default') {
           const { hostname, port } = new URL(process.env.UNDERSTUDY_REDIS_URL);
           const net = await import('node:net');
           answers.push(await new Promise((resolve) => { const socket = net.connect({ host: hostname, port: Number(port) }); socket.once('data', (text) => { socket.destroy(); resolve(String(text).slice(0, 40)); }); socket.write(words.join(' ') + '\\r\\n'); }));
           continue;
         }
         const redis = new Redis(process.env.UNDERSTUDY_REDIS_URL, { ...(user === 'default' ? {} : { username: user, password: passwords[user] }), lazyConnect: true, enableReadyCheck: false, retryStrategy: () => null });
         redis.on('error', () => undefined);
         try { await redis.connect(); await redis.call(...words); answers.push('done'); } catch (error) { answers.push(String(error.message).slice(0, 40)); }
         redis.disconnect();
       }
       console.log(JSON.stringify(answers));`,
    );
    const answers = JSON.parse(text.trim().split('\n').at(-1) ?? '[]') as string[];
    expect(
      answers
        .map((answer, index) => `${tried[index]!.join(' ')}: ${answer}`)
        .filter((line) => !/NOPERM|NOAUTH|permission/i.test(line)),
    ).toEqual([]);
  });

  test('packets go along the edges that are needed, and no others', async () => {
    const found: Record<string, string[]> = {};
    for (const part of Object.keys(edges)) found[part] = await reachedBy(system, part);
    // Metrics of services are open to whoever may leave: nobody here may, beyond the edges.
    expect(found).toEqual(edges);
  });

  test('an edge that is taken out is gone, and no other with it', async () => {
    const gone: Record<string, string[]> = {};
    const settled = async (
      part: string,
      among: readonly string[],
      is: (reached: string[]) => boolean,
    ): Promise<string[]> => {
      let reached = await reachedBy(system, part, among);
      for (
        const end = Date.now() + 20_000;
        !is(reached) && Date.now() < end;
        reached = await reachedBy(system, part, among)
      )
        await sleep(300);
      return reached;
    };
    for (const [part, needed] of Object.entries(edges)) {
      await withoutEachRule(system, `u-from-${part}`, async (rule) => {
        const reached = await settled(part, needed, ({ length }) => length < needed.length);
        const missing = needed.filter((target) => !reached.includes(target));
        expect(
          missing.length,
          `rule ${rule} of u-from-${part} lets it reach one other, or is not needed`,
        ).toBe(1);
        gone[part] = [...(gone[part] ?? []), ...missing].sort();
      });
      expect(await settled(part, needed, ({ length }) => length === needed.length)).toEqual(needed);
    }
    // Together the rules are the edges: none is open by another way.
    expect(gone).toEqual(edges);

    for (const door of ['nats', 'redis', 'model', 'payments', 'sandbox']) {
      const guests = Object.keys(edges).filter(
        (part) => edges[part]?.includes(door) && part !== 'cli',
      );
      await withoutEachRule(system, `u-to-${door}`, async () => {
        for (const part of guests)
          expect(
            await settled(part, [door], ({ length }) => length === 0),
            `${part} reaches ${door}`,
          ).toEqual([]);
      });
      for (const part of guests)
        expect(await settled(part, [door], ({ length }) => length === 1)).toEqual([door]);
    }
  });

  test('the console is reached by a forwarded port, lets in who has its token, and shows what runs', async () => {
    const forwarding = spawn(
      'kubectl',
      ['--namespace', namespace, 'port-forward', 'service/u-console', ':80'],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    try {
      let said = '';
      const port = await new Promise<string>((resolve, reject) => {
        setTimeout(() => reject(new Error(`the port is not forwarded: ${said}`)), 30_000).unref();
        forwarding.stdout.on('data', (text) => {
          said += String(text);
          const found = /127\.0\.0\.1:(\d+) ->/.exec(said)?.[1];
          if (found) resolve(found);
        });
        forwarding.on('exit', () => reject(new Error('the port is not forwarded')));
      });
      const base = `http://127.0.0.1:${port}`;
      expect((await fetch(`${base}/api/health`)).status).toBe(401);
      const login = { token: await system.secret('console-token', 'u-console'), name: 'ada' };
      const entered = await fetch(`${base}/api/login`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(login),
      });
      const cookie = entered.headers.get('set-cookie')!.split(';')[0]!;
      const read = async (path: string) =>
        (await fetch(`${base}${path}`, { headers: { cookie } })).json();
      expect(await read('/api/health')).toMatchObject({ orphans: [], problems: [] });
      await system.run(
        'exec',
        'deployment/u-cli',
        '--',
        'understudy',
        'run',
        'refund-desk',
        '{"case":"C-0001","letter":"letters/C-0001.txt"}',
        '--id',
        'looked-at',
      );
      const [session] = (await read('/api/sessions?ended=true')) as { session: string }[];
      expect(session).toBeDefined();
      expect(await read(`/api/sessions/${session!.session}`)).toMatchObject({
        summary: { agent: expect.any(String) },
      });
      // Its user may follow events; what else it may not is tried with the other users.
      const events = await fetch(`${base}/api/sessions/${session!.session}/events`, {
        headers: { cookie },
      });
      const { value } = await events.body!.getReader().read();
      expect(new TextDecoder().decode(value)).toContain('"version":1');
    } finally {
      forwarding.kill();
    }
  });

  test('an applied agent becomes live by itself; a broken one is refused and the old one stays', async () => {
    const map = (instructions: string, extra = '') => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'late', labels: { 'understudy.dev/specs': 'true' } },
      data: {
        'late.yaml': `apiVersion: understudy.dev/v1\nkind: Agent\nmetadata: { name: late }\nspec: { description: came late, instructions: "${instructions}", model: clerk, tools: []${extra} }\n`,
      },
    });
    const doctor = async () =>
      JSON.parse(
        await system.run(
          'exec',
          'deployment/u-cli',
          '--',
          'sh',
          '-c',
          'understudy -o json doctor || true',
        ),
      ) as {
        agents: { name: string; revision: string }[];
        problems: { file: string; field: string; message: string }[];
      };
    const revisionOf = async () =>
      (await doctor()).agents.find(({ name }) => name === 'late')?.revision;
    const settled = async <Value>(
      read: () => Promise<Value>,
      is: (value: Value) => boolean,
    ): Promise<Value> => {
      let value = await read();
      for (const end = Date.now() + 15_000; !is(value) && Date.now() < end; value = await read())
        await sleep(300);
      return value;
    };
    await system.apply(map('first'));
    const first = await settled(revisionOf, (revision) => revision !== undefined);
    expect(first).toBeDefined();
    // How soon, by the runtimes' own clock and the API server's: no bound is asserted on a shared machine, it is printed.
    const live = (await system.run('logs', await system.podOf('runtime')))
      .split('\n')
      .find((line) => line.includes('"agent live"') && line.includes('"late"'));
    if (live) process.stdout.write(`agent live: ${live}\n`);
    await system.apply(map('second', ', modle: x'));
    const { problems } = await settled(doctor, ({ problems: found }) => found.length > 0);
    expect(problems[0]).toMatchObject({
      file: expect.stringMatching(/^late\/late\.yaml/),
      message: expect.stringContaining('modle'),
    });
    expect(await revisionOf()).toBe(first);
    const events = await system.run(
      'get',
      'events',
      '--field-selector',
      'involvedObject.name=late',
      '-o',
      'jsonpath={.items[*].message}',
    );
    expect(events).toContain('modle');
    await system.apply(map('third'));
    expect(
      await settled(revisionOf, (revision) => revision !== undefined && revision !== first),
    ).not.toBe(first);
    await system.remove('configmap', 'late');
  });

  test('executors of a further pool ask for its work, and say what they lack for its tools', async () => {
    const document = (kind: string, name: string, spec: object) =>
      JSON.stringify({ apiVersion: 'understudy.dev/v1', kind, metadata: { name }, spec });
    await system.apply({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'heavy', labels: { 'understudy.dev/specs': 'true' } },
      data: {
        'all.yaml': [
          document('Agent', 'lifter', { instructions: 'lift', model: 'clerk', tools: ['lift'] }),
          document('Tool', 'lift', {
            description: 'lifts',
            class: 'pure',
            pool: 'heavy',
            run: { kind: 'http', url: 'http://localhost/x', headers: { x: '${env:NOT_THERE}' } },
          }),
        ].join('\n---\n'),
      },
    });
    const health = async () =>
      JSON.parse(
        await system.run(
          ...['exec', 'deployment/u-cli', '--', 'sh', '-c'],
          'understudy -o json doctor || true',
        ),
      ) as { pools: { pool: string; asking: number }[]; problems: { file: string }[] };
    let found = await health();
    const isTold = () =>
      found.problems.some(({ file }) => file === 'tool lift') &&
      found.pools.some(({ pool, asking }) => pool === 'heavy' && asking > 0);
    // Between two requests for work nobody asks for a moment.
    for (const end = Date.now() + 30_000; !isTold() && Date.now() < end; found = await health())
      await sleep(300);
    expect(found.problems).toContainEqual({
      file: 'tool lift',
      field: 'run.headers',
      message: 'NOT_THERE is not set for the executors',
    });
    expect(found.pools.find(({ pool }) => pool === 'heavy')?.asking).toBeGreaterThan(0);
    await system.remove('configmap', 'heavy');
  });

  test('tools of an MCP server are listed by an executor of its pool, and its agent goes live', async () => {
    const document = (kind: string, name: string, spec: object) =>
      JSON.stringify({ apiVersion: 'understudy.dev/v1', kind, metadata: { name }, spec });
    // A whole server on a command line: an image of one's own would bring a better one.
    const program = `
      const say = (message) => console.log(JSON.stringify({ jsonrpc: '2.0', ...message }));
      require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
        const { id, method, params } = JSON.parse(line);
        if (method === 'initialize')
          say({ id, result: { protocolVersion: params.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: 'x', version: '1' } } });
        else if (method === 'tools/list')
          say({ id, result: { tools: [{ name: 'weigh', inputSchema: { type: 'object' } }] } });
        else if (id !== undefined) say({ id, result: { content: [{ type: 'text', text: 'heavy' }] } });
      });`;
    await system.apply({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: 'scales', labels: { 'understudy.dev/specs': 'true' } },
      data: {
        'all.yaml': [
          document('Agent', 'weigher', {
            instructions: 'weigh',
            model: 'clerk',
            tools: ['scales/*'],
          }),
          document('McpServer', 'scales', { command: ['node', '-e', program], pool: 'heavy' }),
        ].join('\n---\n'),
      },
    });
    const asked = async (...args: string[]) =>
      system.run('exec', 'deployment/u-cli', '--', 'sh', '-c', `${args.join(' ')} || true`);
    let found = await asked('understudy doctor');
    for (
      const end = Date.now() + 60_000;
      !/weigher@\w+ \(1 tool\)/.test(found) && Date.now() < end;
    ) {
      await sleep(500);
      found = await asked('understudy doctor');
    }
    expect(found).toMatch(/weigher@\w+ \(1 tool\)/);
    expect(await asked('understudy mcp show scales')).toContain('scales__weigh');
    // Sign-ins are kept by executors alone, each pool with a key of its own.
    const keys = await Promise.all(
      ['executor', 'executor-heavy'].map((part) => system.secret(part, 'u-sign-in')),
    );
    expect(new Set(keys).size).toBe(2);
    for (const key of keys) expect(key.length).toBeGreaterThanOrEqual(32);
    await system.remove('configmap', 'scales');
  });

  describe('a sandbox pod', () => {
    async function probe(): Promise<{ probe: string; refused: boolean; detail: string }[]> {
      const jsonpath = async (...args: string[]) => command('kubectl', ['get', ...args]);
      const node = await jsonpath(
        'node',
        '-o',
        'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}',
      );
      const tcp: Record<string, string> = {
        'the API server': `${await jsonpath('service', 'kubernetes', '-n', 'default', '-o', 'jsonpath={.spec.clusterIP}')}:443`,
        'the kubelet': `${node}:10250`,
        'a node': `${node}:22`,
        'the cloud metadata': '169.254.169.254:80',
        'the internet': '1.1.1.1:443',
      };
      for (const [part, port] of [
        ['nats', 4222],
        ['redis', 6379],
        ['runtime', 8080],
        ['gateway', 8080],
        ['executor', 8080],
        ['console', 8081],
        ['payments', 8080],
      ] as const)
        tcp[part] = `${await system.addressOf(part)}:${port}`;
      const sandboxes = (
        await system.run(
          'get',
          'pods',
          '-l',
          'app.kubernetes.io/component=sandbox',
          '--field-selector=status.phase=Running',
          '-o',
          'jsonpath={.items[*].status.podIP}',
        )
      )
        .trim()
        .split(' ');
      sandboxes.forEach((address, index) => {
        tcp[`sandbox ${index}`] = `${address}:8080`;
      });
      expect(sandboxes.length).toBeGreaterThan(1);
      const dns = await jsonpath(
        'service',
        '-n',
        'kube-system',
        '-l',
        'k8s-app=kube-dns',
        '-o',
        'jsonpath={.items[0].spec.clusterIP}',
      );
      const [answer] = await inSandbox([
        { language: 'javascript', code: probes, input: { tcp, dns }, timeoutMs: 50_000 },
      ]);
      return (
        (
          answer?.value as
            | { result: { probe: string; refused: boolean; detail: string }[] }
            | undefined
        )?.result ?? []
      );
    }

    test('refuses every probe under the default runtime', async () => {
      const results = await probe();
      expect(results.length).toBeGreaterThan(30);
      expect(results.filter(({ refused }) => !refused)).toEqual([]);
    });

    test.each([
      [
        'forks without end',
        { language: 'shell', code: 'f() { f | f & }; f; sleep 5' },
        /SANDBOX_(PROCESSES|TIMEOUT)/,
      ],
      [
        'eats memory',
        {
          language: 'javascript',
          code: 'const held = []; for (;;) held.push(Buffer.alloc(5e6, 1));',
          memoryMiB: 80,
        },
        /SANDBOX_(MEMORY|KILLED)/,
      ],
      [
        'fills its disk',
        { language: 'shell', code: 'head -c 300000000 /dev/zero > f; sleep 5' },
        /SANDBOX_DISK/,
      ],
      ['floods its output', { language: 'shell', code: 'yes' }, /SANDBOX_OUTPUT/],
      [
        'hangs',
        { language: 'shell', code: 'sleep 600 & sleep 600', timeoutMs: 2_000 },
        /SANDBOX_TIMEOUT/,
      ],
    ])('that %s gives an error with the limit, and goes on', async (_what, job, code) => {
      const [answer, next] = await inSandbox([
        job,
        { language: 'shell', code: 'echo alive', isWorkspace: false },
      ]);
      expect(answer?.code).toMatch(code);
      expect(next, JSON.stringify(next)).toMatchObject({ ok: true, value: { stdout: 'alive\n' } });
    });

    test('that is under attack by its own job leaves its neighbours alone', async () => {
      const bomb = 'f() { f | f & }; f; sleep 5';
      const hog = 'const held = []; for (;;) held.push(Buffer.alloc(5e6, 1));';
      const flood = {
        language: 'shell',
        code: 'head -c 300000000 /dev/zero > f; yes',
        isWorkspace: true,
      };
      const attacks = [
        { language: 'shell', code: bomb },
        { language: 'javascript', code: hog, memoryMiB: 80 },
        flood,
        { language: 'shell', code: bomb },
      ];
      const work = Array.from({ length: 12 }, (_, n) => ({
        language: 'shell',
        code: `echo ${n}; sleep 0.3`,
      }));
      const [attacked, neighbour] = await Promise.all([inSandbox(attacks), inSandbox(work)]);
      expect(attacked.map(({ ok }) => ok)).toEqual(attacks.map(() => false));
      expect(neighbour).toEqual(
        work.map((_, n) =>
          expect.objectContaining({
            ok: true,
            value: { exitCode: 0, stdout: `${n}\n`, stderr: '' },
          }),
        ),
      );
    });

    test('runs an MCP server that lies in its workspace', async () => {
      const server = `require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
        const { id, method, params } = JSON.parse(line);
        if (method === 'initialize') console.log(JSON.stringify({ jsonrpc: '2.0', id, result: { protocolVersion: params.protocolVersion, capabilities: { tools: {} }, serverInfo: { name: 's', version: '1' } } }));
        if (method === 'tools/call') console.log(JSON.stringify({ jsonrpc: '2.0', id, result: { content: [], structuredContent: { sum: params.arguments.a + params.arguments.b, uid: process.getuid() } } }));
      });`;
      const [written, called] = await inSandbox([
        { language: 'shell', code: `cat > server.cjs <<'END'\n${server}\nEND` },
        {
          language: 'mcp',
          code: JSON.stringify({
            command: ['node', 'server.cjs'],
            tool: 'add',
            meta: {},
            protocol: '2025-06-18',
          }),
          input: { a: 40, b: 2 },
        },
      ]);
      expect(written).toMatchObject({ ok: true });
      expect(called).toMatchObject({
        ok: true,
        value: { result: { result: { structuredContent: { sum: 42, uid: expect.any(Number) } } } },
      });
    });

    test('reaches through the executor what its tool names, and nothing else', async () => {
      // A pod that the policies take for an executor: it serves a way out as executors do, and claims a sandbox.
      const code = `const { serveEgress } = await import('/app/services/adapters/sandbox/egress.ts');
        const { claimSandbox, runInSandbox } = await import('/app/services/adapters/sandbox/client.ts');
        const { lookup } = await import('node:dns/promises');
        const egress = await serveEgress({ address: process.env.POD_IP, port: 3128, telemetry: { log() {} } });
        const claim = async () => {
          for (;;) {
            for (const { address } of await lookup('u-sandbox', { all: true, family: 4 }).catch(() => [])) {
              const url = 'http://' + address + ':8080';
              const token = await claimSandbox('probe', url, { tenant: 't', session: 's' }).catch(() => undefined);
              if (token !== undefined) return { name: 'probe', url, token };
            }
            await new Promise((wait) => setTimeout(wait, 500));
          }
        };
        const look = async (sandbox) => {
          const run = (to, proxy) => runInSandbox(sandbox, { language: 'javascript', code: 'return fetch("' + to + '").then(({ status }) => status, () => "refused");', input: null, isWorkspace: false, timeoutMs: 20000, outputBytesMax: 100000, memoryMiB: 200, diskMiB: 50, processesMax: 50, ...(proxy ? { proxy } : {}) }, AbortSignal.timeout(30000)).then((done) => done.value?.result ?? done);
          const pass = egress.open(['u-payments:8080'], { session: 's', tool: 't' });
          const named = await run('http://u-payments:8080/health', pass.url);
          const other = await run('http://u-model:8080/health', pass.url);
          const direct = await run('http://u-payments:8080/health');
          pass.close();
          const late = await run('http://u-payments:8080/health', pass.url);
          return { named, other, direct, late };
        };
        // A sandbox may be lost, to the tests before this one too: then another is looked into, as an executor would.
        let found;
        for (let tries = 0; !found && tries < 3; tries += 1) found = await look(await claim()).catch((error) => void console.log('lost:', error.code, error.message));
        console.log(JSON.stringify(found ?? {}));
        process.exit(0);`;
      const labels = {
        'app.kubernetes.io/name': 'understudy',
        'app.kubernetes.io/instance': 'u',
        'app.kubernetes.io/component': 'executor',
      };
      await system.startPod('way-out', code, {
        labels,
        env: [{ name: 'POD_IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } }],
      });
      const told = await system.outputOf('way-out');
      const last = told.trim().split('\n').at(-1) ?? '';
      const answer = (last.startsWith('{') ? JSON.parse(last) : {}) as Record<string, unknown>;
      expect(answer.named, told).toBe(200);
      expect(answer.direct).toBe('refused');
      expect([answer.other, answer.late]).toSatisfy((answers: unknown[]) =>
        answers.every((one) => one === 403 || one === 407 || one === 'refused'),
      );
    });

    /** Tests before have claimed some and let nobody know: until they count as orphans, they count against `max`. */
    async function freshPool(): Promise<void> {
      await system.run('delete', 'pods', '-l', 'app.kubernetes.io/component=sandbox', '--wait');
      await system.run('rollout', 'status', 'deployment/u-sandbox', '--timeout=120s');
    }

    test('of many claims by two executors each gets another one', async () => {
      await freshPool();
      let address = '';
      for (const end = Date.now() + 60_000; address === '' && Date.now() < end; ) {
        address = (
          await system.script(
            await system.podOf('executor'),
            `const { lookup } = await import('node:dns/promises');
             for (const { address } of await lookup('u-sandbox', { all: true, family: 4 }).catch(() => [])) {
               const state = await fetch('http://' + address + ':8080/state').then((answer) => answer.json()).catch(() => undefined);
               if (state?.claimed === false) { console.log(address); break; }
             }`,
          )
        ).trim();
        if (address === '') await sleep(500);
      }
      const claim = async (index: number) =>
        system.script(
          await system.podOf('executor', index),
          `const { claimSandbox } = await import('/app/services/adapters/sandbox/client.ts');
           const tokens = await Promise.all(Array.from({ length: 25 }, (_, count) => claimSandbox('x', 'http://${address}:8080', { tenant: 't', session: '${index}-' + count })));
           console.log(tokens.filter((token) => token !== undefined).length);`,
        );
      const counts = (await Promise.all([claim(0), claim(1)])).map((text) =>
        Number(text.trim().split('\n').at(-1)),
      );
      expect(counts[0]! + counts[1]!).toBe(1);
    });

    test('is replaced when it is claimed, and removed when its session has no more use for it', async () => {
      await freshPool();
      const before = await system.run(
        'exec',
        'deployment/u-cli',
        '--',
        'understudy',
        'run',
        'refund-desk',
        '{"case":"C-0001","letter":"letters/C-0001.txt"}',
      );
      expect(before).toContain('run_code ok');
      for (const end = Date.now() + 180_000; Date.now() < end; await sleep(500)) {
        const claimed = await system.run(
          'get',
          'pods',
          '-l',
          'understudy.dev/pool=claimed',
          '-o',
          'name',
        );
        const free = await system.run(
          'get',
          'pods',
          '-l',
          'understudy.dev/pool=free',
          '--field-selector=status.phase=Running',
          '-o',
          'name',
        );
        if (claimed.trim() === '' && free.trim().split('\n').length === 2) return;
      }
      throw new Error('claimed sandboxes are still there, or the pool was not filled again');
    });

    test('is one of a pool that grows with what waits for it, and shrinks again', async () => {
      const replicas = async () =>
        Number(
          await system.run('get', 'deployment', 'u-sandbox', '-o', 'jsonpath={.spec.replicas}'),
        );
      const shrunk = async () => {
        for (const end = Date.now() + 180_000; (await replicas()) !== 2 && Date.now() < end; )
          await sleep(1_000);
        return replicas();
      };
      await freshPool();
      expect(await shrunk()).toBe(2);
      // An executor more, with the rights of one: it claims five at once and looks all the while how many are asked for.
      const told = await system.script(
        await system.podOf('executor'),
        `const { AppsV1Api } = await import('@kubernetes/client-node');
         const { inCluster } = await import('/app/services/adapters/kubernetes/cluster.ts');
         const { podSandboxes } = await import('/app/services/adapters/kubernetes/sandboxes.ts');
         const { claimSandbox } = await import('/app/services/adapters/sandbox/client.ts');
         const { countingTelemetry } = await import('/app/services/adapters/memory/telemetry.ts');
         const cluster = inCluster('${namespace}');
         const apps = cluster.config.makeApiClient(AppsV1Api);
         let most = 0;
         const look = async () => {
           const { spec } = await apps.readNamespacedDeploymentScale({ namespace: '${namespace}', name: 'u-sandbox' });
           most = Math.max(most, spec.replicas);
         };
         setInterval(() => void look().catch(() => undefined), 100);
         const pool = podSandboxes(cluster, { service: 'u-sandbox', warm: 2, max: 8, waitMs: 120_000 }, claimSandbox, countingTelemetry());
         const taken = await Promise.all(Array.from({ length: 5 }, (_, count) => pool.claim({ tenant: 't', session: 'burst-' + count }, AbortSignal.timeout(150_000))));
         for (const one of taken) pool.discard(one);
         await pool.stop();
         console.log(JSON.stringify({ most, names: taken.map(({ name }) => name) }));
         process.exit(0);`,
      );
      const { most, names } = JSON.parse(told.trim().split('\n').at(-1)!) as {
        most: number;
        names: string[];
      };
      expect(new Set(names).size).toBe(5);
      expect(most).toBeGreaterThan(2);
      expect(most).toBeLessThanOrEqual(8);
      expect(await shrunk()).toBe(2);
    });

    test('under gVisor: every probe is refused too', async (context) => {
      const classes = await command('kubectl', ['get', 'runtimeclass', '-o', 'name']);
      if (!classes.includes('gvisor'))
        return context.skip('this cluster has no RuntimeClass gvisor');
      await system.upgrade('--set', 'sandbox.runtimeClassName=gvisor');
      await sleep(3_000);
      const results = await probe();
      expect(results.length).toBeGreaterThan(30);
      // A user namespace of gVisor's own kernel is no way out of it.
      expect(
        results.filter(
          ({ refused, probe: name }) => !refused && name !== 'a user namespace of its own',
        ),
      ).toEqual([]);
      await system.upgrade();
    });
  });

  test('what lies in k8s/ and chaos/ is what the API server takes', async () => {
    const taken: string[] = [];
    const dry = async (text: string) => {
      for (const document of parseAllDocuments(text)) {
        const object = document.toJS() as {
          kind?: string;
          apiVersion?: string;
          metadata?: { name?: string; namespace?: string };
        } | null;
        if (!object?.kind) continue;
        const name = `${object.kind}/${object.metadata?.name}`;
        const known = await command('kubectl', [
          'get',
          '--raw',
          object.apiVersion?.includes('/') ? `/apis/${object.apiVersion}` : '/api/v1',
        ]).then(
          () => true,
          () => false,
        );
        // The cluster does not know the kind (Prometheus operator, External Secrets, Chaos Mesh): nobody here can say.
        if (!known) continue;
        const space = object.kind === 'Namespace' ? [] : ['--namespace', namespace];
        const folder = mkdtempSync(join(tmpdir(), 'understudy-dry-'));
        const file = join(folder, 'object.json');
        writeFileSync(
          file,
          JSON.stringify({
            ...object,
            metadata: {
              ...object.metadata,
              namespace: object.kind === 'Namespace' ? undefined : namespace,
            },
          }),
        );
        await command('kubectl', [
          'apply',
          '--dry-run=server',
          ...space,
          '--filename',
          file,
        ]).finally(() => rmSync(folder, { recursive: true }));
        taken.push(name);
      }
    };
    await dry(
      await command('helm', [
        'template',
        'p',
        'charts/understudy',
        '--namespace',
        namespace,
        '--kube-version',
        '1.34.0',
        '--values',
        'k8s/production/values.yaml',
      ]),
    );
    await dry(
      await command('kubectl', [
        'kustomize',
        '--enable-helm',
        '--load-restrictor',
        'LoadRestrictionsNone',
        'k8s/overlay',
      ]),
    );
    rmSync('k8s/overlay/charts', { recursive: true, force: true });
    for (const file of [
      'stack.yaml',
      'schedule.yaml',
      'workflow.yaml',
      ...readdirSync('chaos/scenarios').map((name) => `scenarios/${name}`),
    ])
      await dry(readFileSync(join('chaos', file), 'utf8'));
    expect(taken.length).toBeGreaterThan(40);
  });

  test('an upgrade and a rollback under load fail no task', async () => {
    const password = {
      valueFrom: { secretKeyRef: { name: 'u-credentials', key: 'nats-tenant-acme' } },
    };
    const code = `import { connect, headers } from 'nats';
      const connection = await connect({ servers: 'nats://u-nats:4222', user: 'tenant-acme', pass: process.env.PASSWORD, inboxPrefix: '_INBOX_tenant-acme', maxReconnectAttempts: -1 });
      for (let count = 0; count < 60; count += 1) {
        const header = headers();
        header.set('Understudy-Task', 'upgrade-' + count);
        for (;;) try { await connection.jetstream().publish('understudy.task.acme.fraud-check', '{"input":"Is order O-40007 suspicious?"}', { headers: header }); break; } catch { await new Promise((wait) => setTimeout(wait, 200)); }
        await new Promise((wait) => setTimeout(wait, 400));
      }
      process.exit(0);`;
    await system.startPod('publisher', code, {
      labels: { 'understudy.dev/client': 'true' },
      env: [{ name: 'PASSWORD', ...password }],
    });
    await sleep(4_000);
    await system.upgrade('--set', 'logLevel=debug');
    await command(
      'helm',
      ['rollback', 'u', '--namespace', namespace, '--wait', '--timeout', '3m'],
      200_000,
    );
    await system.outputOf('publisher');
    // How long shards were silent: no bound is asserted on a shared machine, it is printed.
    const handOvers = await Promise.all(
      [0, 1].map(async (index) => {
        const text = await system.script(
          await system.podOf('runtime', index),
          "console.log(await (await fetch('http://127.0.0.1:8080/metrics')).text())",
        );
        return text.split('\n').filter((line) => line.startsWith('understudy_handover_seconds'));
      }),
    );
    expect(handOvers.flat().filter((line) => /_count\S* [1-9]/.test(line))).not.toEqual([]);
    process.stdout.write(
      `hand-overs of the rollback:\n${handOvers.map((lines) => lines.map((line) => line.replace(/.*seconds_/, '').replace(/service="\w+",instance="[^"]*",?/, '')).join('  ')).join('\n')}\n`,
    );
    const ended = async () => {
      const text = await system.run(
        'exec',
        'deployment/u-cli',
        '--',
        'understudy',
        '-o',
        'json',
        'ps',
        '--all',
        '-n',
        '1000',
      );
      return (JSON.parse(text) as { task: string; status: string }[]).filter(({ task }) =>
        task.startsWith('upgrade-'),
      );
    };
    let found = await ended();
    for (
      const end = Date.now() + 60_000;
      found.filter(({ status }) => status === 'completed').length < 60 && Date.now() < end;
      found = await ended()
    )
      await sleep(1_000);
    expect(found.filter(({ status }) => status !== 'completed')).toEqual([]);
    expect(found.length).toBe(60);
  });

  test('uninstalled, it leaves its volumes and credentials, and nothing else', async () => {
    await command(
      'helm',
      ['uninstall', 'u', '--namespace', namespace, '--wait', '--timeout', '2m'],
      180_000,
    );
    // The pod of `helm test` is the operator's to look at, and to delete.
    await system.remove('pod', 'u-test');
    for (const end = Date.now() + 90_000; Date.now() < end; await sleep(1_000)) {
      if ((await system.run('get', 'pods', '-o', 'name')).trim() === '') break;
    }
    const left = await system.run(
      'get',
      'all,configmaps,secrets,networkpolicies,roles,rolebindings,serviceaccounts,pdb,pvc',
      '-l',
      'app.kubernetes.io/instance=u',
      '-o',
      'name',
    );
    expect(
      left
        .trim()
        .split('\n')
        .filter((name) => name !== '')
        .sort(),
    ).toEqual([
      'persistentvolumeclaim/data-u-nats-0',
      'persistentvolumeclaim/data-u-redis-0',
      'secret/u-credentials',
      'secret/u-sign-in',
    ]);
    const wide = await command('kubectl', [
      'get',
      'clusterroles,clusterrolebindings,crds,validatingwebhookconfigurations,mutatingwebhookconfigurations',
      '-o',
      'name',
    ]);
    expect(wide.split('\n').filter((name) => name.includes('understudy'))).toEqual([]);
  });
});
