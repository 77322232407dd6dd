/**
 * The way out for jobs in sandboxes: a proxy of the executor, for the hosts that a tool names and for nobody else.
 *
 * Owns     the passes of the jobs under way, and their connections.
 *
 * E1  No pass, no way. A pass is one job's, is told to that job alone, and ends with it, its connections included.
 * E2  Only what the tool's list names, host and port.
 * E3  Names are resolved here, once, and that address is used. A name of the internet must not lead to an address that is not public:
 *     who owns a name could otherwise point it into the cluster. Link-local addresses (cloud metadata) and loopback by name are never reached.
 */
import { randomBytes } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { createServer, request as httpRequest, type IncomingMessage } from 'node:http';
import { type AddressInfo, BlockList, connect, isIP, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Telemetry } from '../../ports/telemetry.ts';

export interface Pass {
  /** What the job is given as its proxy: an address with the pass in it. */
  readonly url: string;
  close(): void;
}

export interface Egress {
  readonly port: number;
  /** @param allowed  `host:port`, `*.domain:port`; without a port it is 443 */
  open(allowed: readonly string[], holder: { readonly session: string; readonly tool: string }): Pass;
  stop(): Promise<void>;
}

export interface EgressOptions {
  /** Where jobs reach this process. */
  readonly address: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly telemetry: Telemetry;
  readonly resolve?: (host: string) => Promise<string>;
}

interface Held {
  readonly allowed: readonly string[];
  readonly holder: { readonly session: string; readonly tool: string };
  readonly sockets: Set<Duplex>;
}

const socketsMax = 64; // of one job
const dialMs = 10_000;

/** RFC 6890, and what clusters use. */
const notPublic = new BlockList();
for (const [net, bits] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['224.0.0.0', 3],
] as const)
  notPublic.addSubnet(net, bits, 'ipv4');
for (const [net, bits] of [
  ['::', 127],
  ['fc00::', 7],
  ['fe80::', 10],
  ['ff00::', 8],
] as const)
  notPublic.addSubnet(net, bits, 'ipv6');
const never = new BlockList();
never.addSubnet('169.254.0.0', 16, 'ipv4');
never.addSubnet('fe80::', 10, 'ipv6');
const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');
loopback.addSubnet('0.0.0.0', 8, 'ipv4');

const within = (list: BlockList, address: string): boolean => {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  const plain = mapped ?? address;
  return list.check(plain, isIP(plain) === 6 ? 'ipv6' : 'ipv4');
};

/** A name that only this cluster knows: one word, or a Service's. */
const isClusterName = (host: string): boolean => !host.includes('.') || /\.svc(\.cluster\.local)?$/.test(host);

/** @returns whether the list names this host and port */
export function isAllowed(allowed: readonly string[], host: string, port: number): boolean {
  return allowed.some((entry) => {
    const [, wanted = '', wantedPort = '443'] = /^(.*?)(?::(\d+))?$/.exec(entry.toLowerCase()) ?? [];
    if (Number(wantedPort) !== port) return false;
    return wanted.startsWith('*.') ? host.endsWith(wanted.slice(1)) && host.length > wanted.length - 1 : host === wanted;
  });
}

/** May this host lead to this address? */
export function isFit(host: string, address: string): boolean {
  if (within(never, address)) return false;
  if (isIP(host) > 0) return true; // the list names the address itself
  if (within(loopback, address)) return false;
  return isClusterName(host) || !within(notPublic, address);
}

export async function serveEgress({ address, port, telemetry, resolve = async (host) => (await lookup(host)).address }: EgressOptions): Promise<Egress> {
  const passes = new Map<string, Held>();
  const holderOf = ({ headers }: IncomingMessage): Held | undefined => {
    const [scheme, code = ''] = (headers['proxy-authorization'] ?? '').split(' ');
    if (scheme?.toLowerCase() !== 'basic') return undefined;
    return passes.get(
      Buffer.from(code, 'base64')
        .toString('utf8')
        .replace(/^pass:/, ''),
    );
  };
  /** @returns the address to dial, or why not */
  const judge = async (held: Held | undefined, host: string, to: number): Promise<{ status: 407 | 403 | 502; why: string } | { dial: string }> => {
    if (!held) return { status: 407, why: 'no pass' };
    if (!isAllowed(held.allowed, host, to)) return { status: 403, why: 'not on the list of this tool' };
    if (held.sockets.size >= socketsMax) return { status: 403, why: `more than ${socketsMax} connections` };
    let dial: string;
    try {
      dial = isIP(host) > 0 ? host : await resolve(host);
    } catch {
      return { status: 502, why: 'its name is not known' };
    }
    return isFit(host, dial) ? { dial } : { status: 403, why: 'its name leads to an address that it must not' };
  };
  /** What was asked for is the job's word and stays out of logs. */
  const refuse = (held: Held | undefined, why: string): void => telemetry.log('warn', 'egress refused', { ...held?.holder, why });
  const keep = (held: Held, ...sockets: Duplex[]): void => {
    for (const socket of sockets) {
      held.sockets.add(socket);
      socket.once('close', () => held.sockets.delete(socket));
      socket.on('error', () => socket.destroy());
    }
  };
  const targetOf = (text: string, fallback: number): { host: string; port: number } | undefined => {
    const [, bracketed, plain = '', digits] = /^(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::(\d{1,5}))?$/i.exec(text) ?? [];
    const host = (bracketed ?? plain).toLowerCase();
    return host === '' ? undefined : { host, port: digits === undefined ? fallback : Number(digits) };
  };

  const server = createServer((request, response) => {
    void (async () => {
      const held = holderOf(request);
      const url = URL.canParse(request.url ?? '') ? new URL(request.url ?? '') : undefined;
      const target = url?.protocol === 'http:' ? targetOf(url.host, 80) : undefined;
      if (!url || !target) return void response.writeHead(400).end('an absolute http address, or CONNECT');
      const verdict = await judge(held, target.host, target.port);
      if (!held || 'status' in verdict) {
        const { status, why } = 'status' in verdict ? verdict : { status: 407, why: 'no pass' };
        refuse(held, why);
        return void response.writeHead(status, status === 407 ? { 'proxy-authenticate': 'Basic' } : {}).end(why);
      }
      const { 'proxy-authorization': _pass, 'proxy-connection': _kept, ...headers } = request.headers;
      const onward = httpRequest(
        {
          host: verdict.dial,
          port: target.port,
          method: request.method ?? 'GET',
          path: url.pathname + url.search,
          headers: { ...headers, host: url.host },
          timeout: dialMs,
          agent: false,
        },
        (answer) => {
          response.writeHead(answer.statusCode ?? 502, answer.headers);
          answer.pipe(response);
        },
      );
      onward.on('socket', (socket) => keep(held, socket));
      onward.on('error', () => (response.headersSent ? response.destroy() : response.writeHead(502).end('it cannot be reached')));
      request.pipe(onward);
    })().catch(() => response.destroy());
  });
  server.on('connect', (request, client: Duplex, head) => {
    client.on('error', () => client.destroy());
    void (async () => {
      const held = holderOf(request);
      const target = targetOf(request.url ?? '', 443);
      const verdict = target ? await judge(held, target.host, target.port) : { status: 403 as const, why: 'no host and port' };
      if (!held || !target || 'status' in verdict) {
        const { status, why } = 'status' in verdict ? verdict : { status: 407, why: 'no pass' };
        refuse(held, why);
        return void client.end(`HTTP/1.1 ${status} ${why}\r\n${status === 407 ? 'proxy-authenticate: Basic\r\n' : ''}content-length: 0\r\n\r\n`);
      }
      const onward: Socket = connect({ host: verdict.dial, port: target.port, timeout: dialMs });
      keep(held, client, onward);
      onward.once('connect', () => {
        onward.setTimeout(0);
        client.write('HTTP/1.1 200 connected\r\n\r\n');
        if (head.length > 0) onward.write(head);
        onward.pipe(client);
        client.pipe(onward);
      });
      onward.once('timeout', () => onward.destroy(new Error('timeout')));
      onward.once('error', () => client.end('HTTP/1.1 502 it cannot be reached\r\ncontent-length: 0\r\n\r\n'));
      client.once('close', () => onward.destroy());
    })().catch(() => client.destroy());
  });
  await new Promise<void>((done, fail) => {
    server.once('error', fail);
    server.listen(port, address, done);
  });
  const listening = (server.address() as AddressInfo).port;
  return {
    port: listening,
    open(allowed, holder) {
      const token = randomBytes(18).toString('base64url');
      const held: Held = { allowed, holder, sockets: new Set() };
      passes.set(token, held);
      return {
        url: `http://pass:${token}@${isIP(address) === 6 ? `[${address}]` : address}:${listening}`,
        close() {
          passes.delete(token);
          for (const socket of held.sockets) socket.destroy();
        },
      };
    },
    async stop() {
      for (const { sockets } of passes.values()) for (const socket of sockets) socket.destroy();
      passes.clear();
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
}
