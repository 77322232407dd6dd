/** The proxy that is a sandbox's only way out, over real sockets, and a job that goes through it. */
import { createServer, request } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { memoryWorkspaces } from '../../services/adapters/memory/workspaces.ts';
import { processSandboxes } from '../../services/adapters/process/sandboxes.ts';
import { claimSandbox } from '../../services/adapters/sandbox/client.ts';
import {
  type Egress,
  isAllowed,
  isFit,
  serveEgress,
} from '../../services/adapters/sandbox/egress.ts';
import { sandboxRunner } from '../../services/adapters/sandbox/tool.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import { eventually } from '../support/eventually.ts';

const holder = { session: 's', tool: 'fetch' };
const seen: string[] = [];
const target = createServer((asked, response) => {
  seen.push(`${asked.method} ${asked.url} ${asked.headers['proxy-authorization'] ?? 'no pass'}`);
  if (asked.url === '/slow')
    response.write('a part'); // and never the rest
  else response.end(`hello from ${asked.headers.host}`);
});
const names: Record<string, string> = {
  web: '10.0.0.9',
  'api.example.com': '10.0.0.9',
  'meta.example.com': '169.254.169.254',
  'loop.example.com': '127.0.0.1',
  local: '127.0.0.1',
};
let connections = 0;
target.on('connection', (socket) => {
  connections += 1;
  socket.once('close', () => {
    connections -= 1;
  });
});
/** Answers by hand, badly where the path says so. */
function createOddServer() {
  const server = createTcpServer((socket) => {
    socket.on('error', () => socket.destroy());
    socket.once('data', (data) => {
      const path = data.toString().split(' ')[1];
      if (path === '/none') socket.end('HTTP/1.1 000 x\r\ncontent-length: 0\r\n\r\n');
      else if (path === '/trailer')
        socket.end('HTTP/1.1 200 ok\r\ntrailer: a\r\ncontent-length: 2\r\n\r\nok');
      else socket.end('HTTP/1.1 200 ok\r\ncontent-length: 2\r\n\r\nok');
    });
  });
  return {
    listen: () =>
      new Promise<number>((resolve) =>
        server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port)),
      ),
    close: () => server.close(),
  };
}
let port = 0;
let egress: Egress;
beforeAll(async () => {
  await new Promise<void>((done) => target.listen(0, '127.0.0.1', done));
  port = (target.address() as AddressInfo).port;
  egress = await serveEgress({
    address: '127.0.0.1',
    port: 0,
    telemetry: countingTelemetry(),
    resolve: async (host) => {
      if (host === 'slow') {
        await new Promise((wait) => setTimeout(wait, 150));
        return '10.0.0.9';
      }
      const found = names[host];
      if (found === undefined) throw new Error('ENOTFOUND');
      return found;
    },
  });
});
afterAll(async () => {
  await egress.stop();
  target.closeAllConnections();
  target.close();
});

const passOf = (url: string) =>
  `Basic ${Buffer.from(new URL(url).username.concat(':', new URL(url).password)).toString('base64')}`;
/** The first line that CONNECT is answered with, and the tunnel. */
function dial(
  to: string,
  pass?: string,
): Promise<{ answer: string; tunnel: ReturnType<typeof connect> }> {
  return new Promise((resolve, reject) => {
    const tunnel = connect(egress.port, '127.0.0.1', () =>
      tunnel.write(
        `CONNECT ${to} HTTP/1.1\r\nhost: ${to}\r\n${pass ? `proxy-authorization: ${pass}\r\n` : ''}\r\n`,
      ),
    );
    tunnel.once('data', (data) =>
      resolve({ answer: data.toString().split('\r\n')[0] ?? '', tunnel }),
    );
    tunnel.once('error', reject);
  });
}

describe('the proxy', () => {
  test.each<[string, string, readonly string[] | undefined, RegExp]>([
    ['nobody without a pass', '127.0.0.1:PORT', undefined, /407/],
    ['a host on the list', '127.0.0.1:PORT', ['127.0.0.1:PORT'], /200/],
    ['another port of it', '127.0.0.1:1', ['127.0.0.1:PORT'], /403 not on the list/],
    [
      'a host that is not on the list',
      'other.example.com:443',
      ['api.example.com'],
      /403 not on the list/,
    ],
    [
      'a name of the internet that leads into the cluster',
      'api.example.com:443',
      ['api.example.com'],
      /403 its name leads/,
    ],
    [
      'a name that leads to the cloud metadata',
      'meta.example.com:80',
      ['*.example.com:80'],
      /403 its name leads/,
    ],
    [
      'a name that leads to the executor itself',
      'loop.example.com:PORT',
      ['*.example.com:PORT'],
      /403 its name leads/,
    ],
    [
      'a word that leads to the executor itself',
      'local:PORT',
      ['local:PORT'],
      /403 its name leads/,
    ],
    [
      'the cloud metadata, even where somebody lists it',
      '169.254.169.254:80',
      ['169.254.169.254:80'],
      /403 its name leads/,
    ],
    ['a name that nobody knows', 'nowhere:443', ['nowhere:443'], /502/],
    ['no host at all', '%00', ['*.com'], /400 no host/],
  ])('%s', async (_what, to, allowed, answer) => {
    const fill = (text: string) => text.replace('PORT', String(port));
    const pass = allowed && egress.open(allowed.map(fill), holder);
    const dialled = await dial(fill(to), pass && passOf(pass.url));
    expect(dialled.answer).toMatch(answer);
    dialled.tunnel.destroy();
    pass?.close();
  });

  test('a pass that was given back opens nothing, and ends what it had opened', async () => {
    const pass = egress.open([`127.0.0.1:${port}`], holder);
    const { answer, tunnel } = await dial(`127.0.0.1:${port}`, passOf(pass.url));
    expect(answer).toMatch(/200/);
    tunnel.write('GET /slow HTTP/1.1\r\nhost: x\r\n\r\n');
    const closed = new Promise((resolve) => tunnel.once('close', resolve));
    pass.close();
    await closed;
    expect((await dial(`127.0.0.1:${port}`, passOf(pass.url))).answer).toMatch(/407/);
  });

  test('who shows no pass takes the place of nobody else, and is gone after seconds', async () => {
    const strangers = await Promise.all(
      Array.from(
        { length: 300 },
        () =>
          new Promise<ReturnType<typeof connect>>((resolve) => {
            const stranger = connect(egress.port, '127.0.0.1', () => resolve(stranger));
            stranger.on('error', () => undefined);
          }),
      ),
    );
    await eventually(
      () => strangers.filter(({ closed }) => closed).length === 300 - 128,
      'those beyond the bound to be refused',
    );
    await eventually(
      () => strangers.every(({ closed }) => closed),
      'the others to be let go',
      10_000,
    );
    const pass = egress.open([`127.0.0.1:${port}`], holder);
    const { answer, tunnel } = await dial(`127.0.0.1:${port}`, passOf(pass.url));
    await new Promise((resolve) => setTimeout(resolve, 6_000));
    expect([answer, tunnel.closed]).toEqual([expect.stringMatching(/200/), false]);
    pass.close();
  }, 30_000);

  test('plain HTTP goes through it too, without the pass', async () => {
    const pass = egress.open([`127.0.0.1:${port}`], holder);
    const ask = (url: string) =>
      new Promise<string>((resolve, reject) => {
        request(
          {
            port: egress.port,
            path: url,
            headers: { 'proxy-authorization': passOf(pass.url), host: 'x' },
          },
          (answer) => {
            let text = String(answer.statusCode);
            answer.on('data', (chunk: Buffer) => {
              text += ` ${chunk}`;
            });
            answer.on('end', () => resolve(text));
          },
        )
          .on('error', reject)
          .end();
      });
    expect(await ask(`http://127.0.0.1:${port}/page?a=1`)).toBe(`200 hello from 127.0.0.1:${port}`);
    expect(seen.at(-1)).toBe('GET /page?a=1 no pass');
    expect(await ask('http://127.0.0.1:1/')).toMatch(/^403/);
    expect(await ask('/page')).toMatch(/^400/);
    pass.close();
  });

  test('a pass that is given back while a name is looked up opens nothing', async () => {
    const pass = egress.open([`slow:${port}`], holder);
    const before = connections;
    const dialling = dial(`slow:${port}`, passOf(pass.url));
    await new Promise((wait) => setTimeout(wait, 50));
    pass.close();
    expect((await dialling).answer).toMatch(/407/);
    expect(connections).toBe(before);
  });

  test('one job has no more than its connections, however fast it asks', async () => {
    const pass = egress.open([`127.0.0.1:${port}`, `slow:${port}`], holder);
    const answers = await Promise.all(
      Array.from({ length: 100 }, () => dial(`slow:${port}`, passOf(pass.url))),
    );
    expect(answers.filter(({ answer }) => answer.includes('more than 64')).length).toBe(36);
    pass.close();
  });

  test('what is refused is hung up on', async () => {
    const { tunnel } = await dial(`127.0.0.1:${port}`);
    await new Promise((resolve) => tunnel.once('close', resolve));
  });

  /** Says what it likes, as it likes, and gives what comes back. */
  const raw = (text: string) =>
    new Promise<string>((resolve, reject) => {
      let heard = '';
      const socket = connect(egress.port, '127.0.0.1', () => socket.write(text));
      socket.on('data', (data) => {
        heard += data;
      });
      socket.once('close', () => resolve(heard));
      socket.once('error', reject);
    });

  test.each([
    [
      'a request with headers that contradict each other',
      'GET http://127.0.0.1:PORT/x HTTP/1.1\r\nhost: x\r\ntrailer: a\r\nupgrade: b\r\nconnection: upgrade, te\r\nPASS\r\n\r\n',
      /200/,
    ],
    [
      'an answer with a status that does not exist',
      'GET http://127.0.0.1:PORT/none HTTP/1.1\r\nhost: x\r\nPASS\r\n\r\n',
      /502/,
    ],
    [
      'an answer with headers that contradict each other',
      'GET http://127.0.0.1:PORT/trailer HTTP/1.1\r\nhost: x\r\nPASS\r\n\r\n',
      /200|502/,
    ],
  ])('%s ends nobody', async (_what, text, answer) => {
    const odd = createOddServer();
    const at = await odd.listen();
    const pass = egress.open([`127.0.0.1:${at}`], holder);
    expect(
      await raw(
        text
          .replace('PORT', String(at))
          .replace('PASS', `proxy-authorization: ${passOf(pass.url)}`),
      ),
    ).toMatch(answer);
    expect((await dial(`127.0.0.1:${at}`, passOf(pass.url))).answer).toMatch(/200/);
    pass.close();
    odd.close();
  });

  test('who goes away in the middle takes the connection with him', async () => {
    const pass = egress.open([`127.0.0.1:${port}`], holder);
    const before = connections;
    const socket = connect(egress.port, '127.0.0.1', () =>
      socket.write(
        `GET http://127.0.0.1:${port}/slow HTTP/1.1\r\nhost: x\r\nproxy-authorization: ${passOf(pass.url)}\r\n\r\n`,
      ),
    );
    await new Promise((resolve) => socket.once('data', resolve));
    expect(connections).toBe(before + 1);
    socket.destroy();
    for (let looks = 0; looks < 100 && connections > before; looks += 1)
      await new Promise((wait) => setTimeout(wait, 20));
    expect(connections).toBe(before);
    pass.close();
  });

  test('it ends although somebody holds on', async () => {
    const other = await serveEgress({
      address: '127.0.0.1',
      port: 0,
      telemetry: countingTelemetry(),
    });
    const socket = connect(other.port, '127.0.0.1');
    socket.on('error', () => undefined);
    await new Promise((resolve) => socket.once('connect', resolve));
    await other.stop();
  });

  test('what lists and names mean', () => {
    expect(isAllowed(['api.example.com'], 'api.example.com', 443)).toBe(true);
    expect(isAllowed(['api.example.com'], 'api.example.com', 80)).toBe(false);
    expect(isAllowed(['*.example.com:8443'], 'a.b.example.com', 8443)).toBe(true);
    expect(isAllowed(['*.example.com'], 'example.com', 443)).toBe(false);
    expect(isAllowed(['*.example.com'], 'evilexample.com', 443)).toBe(false);
    expect(isFit('orders', '10.0.0.9')).toBe(true);
    expect(isFit('orders.shop.svc.cluster.local', '10.0.0.9')).toBe(true);
    expect(isFit('orders.example.com', '::ffff:10.0.0.9')).toBe(false);
    expect(isFit('orders.example.com', 'fd00::1')).toBe(false);
    expect(isFit('orders.example.com', '93.184.216.34')).toBe(true);
    expect(isFit('orders', 'fe80::1')).toBe(false);
    for (const address of [
      '64:ff9b::a00:1',
      '2002:a00:1::',
      '::7f00:1',
      'fec0::1',
      '::ffff:7f00:1',
    ])
      expect(isFit('orders.example.com', address), address).toBe(false);
    for (const address of ['64:ff9b::a9fe:a9fe', 'fd00:ec2::254', '169.254.1.1'])
      expect(isFit('orders', address), address).toBe(false);
  });
});

describe('a job in a sandbox', () => {
  const never = new AbortController().signal;
  const toolOf = (hosts: readonly string[]) =>
    toolSpecSchema.parse({
      description: 'fetches',
      class: 'pure',
      run: { kind: 'sandbox', egress: hosts },
    });
  const call = (spec: ReturnType<typeof toolOf>, code: string, way: Egress | undefined) => {
    const runner = sandboxRunner(
      {
        sandboxes: processSandboxes(claimSandbox),
        workspaces: memoryWorkspaces(),
        telemetry: countingTelemetry(),
        egress: way,
      },
      60_000,
    );
    const job = {
      tool: 'fetch',
      spec,
      arguments: { code },
      tenant: 'acme',
      session: 's',
      idempotencyKey: 'e',
    };
    return runner.run(job, spec.run as never, never).finally(() => runner.close?.());
  };

  test('reaches what its tool names, through the proxy', async () => {
    const code = `const answer = await fetch('http://127.0.0.1:${port}/from-a-job'); return { status: answer.status, text: await answer.text(), pass: process.env.HTTPS_PROXY.length > 30 };`;
    expect(await call(toolOf([`127.0.0.1:${port}`]), code, egress)).toEqual({
      ok: true,
      value: { result: { status: 200, text: `hello from 127.0.0.1:${port}`, pass: true }, log: [] },
    });
  });

  test('is told of no proxy when its tool names nothing', async () => {
    expect(await call(toolOf([]), 'return process.env.HTTPS_PROXY ?? null;', egress)).toEqual({
      ok: true,
      value: { result: null, log: [] },
    });
  });

  test('that fails may have reached somebody first, when it has a way out', async () => {
    expect(
      await call(toolOf([`127.0.0.1:${port}`]), 'throw new Error("after");', egress),
    ).toMatchObject({ ok: false, failure: { code: 'SANDBOX_CODE', hasBegun: true } });
    const without = await call(toolOf([]), 'throw new Error("after");', egress);
    expect(without).toMatchObject({ ok: false, failure: { code: 'SANDBOX_CODE' } });
    expect(without).not.toHaveProperty('failure.hasBegun');
  });

  test('of class workspace has none: it is run again after a death', () => {
    expect(
      toolSpecSchema.safeParse({
        description: 'x',
        class: 'workspace',
        run: { kind: 'sandbox', egress: ['api.example.com'] },
      }).error?.message,
    ).toContain('run again');
  });

  test('is refused where there is no way out', async () => {
    expect(await call(toolOf(['api.example.com']), 'return 1;', undefined)).toMatchObject({
      ok: false,
      failure: { class: 'permanent', code: 'EGRESS_OFF' },
    });
  });
});
