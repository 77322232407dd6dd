/**
 * The way out for jobs in sandboxes: a proxy of the executor, for the hosts that a tool names and for nobody else.
 *
 * Owns     the passes of the jobs under way, and their connections.
 *
 * E1  No pass, no way. A pass is one job's, is told to that job alone, and ends with it, its connections included.
 * E2  Only what the tool's list names, host and port.
 * E3  Names are resolved here, once, and that address is used. A name of the internet must not lead to an address that is not public:
 *     who owns a name could otherwise point it into the cluster. Link-local addresses (cloud metadata) and loopback by name are never reached.
 * E4  Who shows no pass is gone after seconds, and however many come from one address, others are let in.
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
  open(
    allowed: readonly string[],
    holder: { readonly session: string; readonly tool: string },
  ): Pass;
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
  /** On their way to a socket: the cap counts them. */
  opening: number;
  isClosed: boolean;
}

/** What belongs to one connection and not to the message (RFC 9110, 7.6.1), and our own pass. */
const ofOneHop = new Set([
  'connection',
  'keep-alive',
  'te',
  'trailer',
  'upgrade',
  'proxy-authorization',
  'proxy-authenticate',
  'proxy-connection',
]);
function onwardHeaders(headers: IncomingMessage['headers']): Record<string, string | string[]> {
  const named = new Set(
    String(headers.connection ?? '')
      .toLowerCase()
      .split(',')
      .map((name) => name.trim()),
  );
  return Object.fromEntries(
    Object.entries(headers).filter(
      ([name, value]) => value !== undefined && !ofOneHop.has(name) && !named.has(name),
    ),
  ) as Record<string, string | string[]>;
}

const socketsMax = 64; // of one job, those being opened included
const connectionsMax = 2_048; // of all
const strangersMax = 128; // of one address, that have not shown a pass yet
const strangerMs = 5_000; // so long they may take to show one
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
  ['::', 96],
  ['64:ff9b::', 96], // the other protocol in this one
  ['64:ff9b:1::', 48],
  ['2001::', 32],
  ['2002::', 16],
  ['fec0::', 10],
  ['fc00::', 7],
  ['fe80::', 10],
  ['ff00::', 8],
] as const)
  notPublic.addSubnet(net, bits, 'ipv6');
const never = new BlockList();
never.addSubnet('169.254.0.0', 16, 'ipv4');
never.addSubnet('fe80::', 10, 'ipv6');
never.addSubnet('64:ff9b::a9fe:0', 112, 'ipv6');
never.addAddress('fd00:ec2::254', 'ipv6');
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
const isClusterName = (host: string): boolean =>
  !host.includes('.') || /\.svc(\.cluster\.local)?$/.test(host);

/** @returns whether the list names this host and port */
export function isAllowed(allowed: readonly string[], host: string, port: number): boolean {
  return allowed.some((entry) => {
    const [, wanted = '', wantedPort = '443'] =
      /^(.*?)(?::(\d+))?$/.exec(entry.toLowerCase()) ?? [];
    if (Number(wantedPort) !== port) return false;
    return wanted.startsWith('*.')
      ? host.endsWith(wanted.slice(1)) && host.length > wanted.length - 1
      : host === wanted;
  });
}

/** May this host lead to this address? */
export function isFit(host: string, address: string): boolean {
  if (within(never, address)) return false;
  if (isIP(host) > 0) return true; // the list names the address itself
  if (within(loopback, address)) return false;
  return isClusterName(host) || !within(notPublic, address);
}

export async function serveEgress({
  address,
  port,
  telemetry,
  resolve = async (host) => (await lookup(host)).address,
}: EgressOptions): Promise<Egress> {
  const passes = new Map<string, Held>();
  /** Connections that have not shown a pass yet, and where they come from: what they may hold is bounded (E4). */
  const strangers = new Map<Duplex, string>();
  const holderOf = ({ headers }: IncomingMessage): Held | undefined => {
    const [scheme, code = ''] = (headers['proxy-authorization'] ?? '').split(' ');
    if (scheme?.toLowerCase() !== 'basic') return undefined;
    return passes.get(
      Buffer.from(code, 'base64')
        .toString('utf8')
        .replace(/^pass:/, ''),
    );
  };
  type Refusal = { readonly status: 407 | 403 | 502 | 400; readonly why: string };
  /** Judges, resolves and counts; then hands the address to `dial`, which takes over at once. */
  const open = async (
    request: IncomingMessage,
    to: { host: string; port: number } | undefined,
    dial: (held: Held, address: string, port: number) => void,
  ): Promise<Refusal | undefined> => {
    const held = holderOf(request);
    if (!held) return { status: 407, why: 'no pass' };
    strangers.delete(request.socket);
    if (!to) return { status: 400, why: 'no host and port' };
    if (!isAllowed(held.allowed, to.host, to.port))
      return { status: 403, why: 'not on the list of this tool' };
    if (held.sockets.size + held.opening >= socketsMax)
      return { status: 403, why: `more than ${socketsMax} connections` };
    held.opening += 1;
    try {
      const address = isIP(to.host) > 0 ? to.host : await resolve(to.host).catch(() => undefined);
      if (held.isClosed) return { status: 407, why: 'no pass' };
      if (address === undefined) return { status: 502, why: 'its name is not known' };
      if (!isFit(to.host, address))
        return { status: 403, why: 'its name leads to an address that it must not' };
      dial(held, address, to.port);
      return undefined;
    } finally {
      held.opening -= 1;
    }
  };
  /** What was asked for is the job's word and stays out of logs. */
  const log = (request: IncomingMessage, why: string): void =>
    telemetry.log('warn', 'egress refused', { ...holderOf(request)?.holder, why });
  const keep = (held: Held, socket: Duplex): void => {
    held.sockets.add(socket);
    socket.once('close', () => held.sockets.delete(socket));
  };
  /** A socket that must stand within a time, and ends with the pass. */
  const dialled = (held: Held, host: string, to: number): Socket => {
    const socket = connect({ host, port: to, timeout: dialMs });
    keep(held, socket);
    socket.once('connect', () => socket.setTimeout(0));
    socket.once('timeout', () => socket.destroy(new Error('timeout')));
    return socket;
  };
  const targetOf = (text: string, fallback: number): { host: string; port: number } | undefined => {
    const [, bracketed, plain = '', digits] =
      /^(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::(\d{1,5}))?$/i.exec(text) ?? [];
    const host = (bracketed ?? plain).toLowerCase();
    return host === ''
      ? undefined
      : { host, port: digits === undefined ? fallback : Number(digits) };
  };

  const server = createServer((request, response) => {
    const url = URL.canParse(request.url ?? '') ? new URL(request.url ?? '') : undefined;
    const target = url?.protocol === 'http:' ? targetOf(url.host, 80) : undefined;
    const fail = () => {
      if (response.headersSent) response.destroy();
      else response.writeHead(502, { connection: 'close' }).end('it cannot be reached');
    };
    open(request, target, (held, address, to) => {
      const socket = dialled(held, address, to);
      const onward = httpRequest({
        createConnection: () => socket,
        method: request.method ?? 'GET',
        path: `${url!.pathname}${url!.search}`,
        headers: { ...onwardHeaders(request.headers), host: url!.host, connection: 'close' },
      });
      onward.on('error', fail);
      onward.on('response', (answer) => {
        try {
          response.writeHead(answer.statusCode ?? 502, {
            ...onwardHeaders(answer.headers),
            connection: 'close',
          });
          answer.on('error', () => response.destroy());
          answer.pipe(response);
        } catch {
          // An answer that is none: a status that does not exist, headers that contradict each other.
          socket.destroy();
          fail();
        }
      });
      response.once('close', () => socket.destroy());
      onward.flushHeaders();
      request.pipe(onward);
    }).then(
      (refusal) => {
        if (!refusal) return;
        log(request, refusal.why);
        const headers =
          refusal.status === 407
            ? { 'proxy-authenticate': 'Basic', connection: 'close' }
            : { connection: 'close' };
        response.writeHead(refusal.status, headers).end(refusal.why);
      },
      () => fail(),
    );
  });
  server.on('connect', (request, client: Duplex, head) => {
    client.on('error', () => client.destroy());
    const refuse = (status: number, why: string) =>
      client.end(
        `HTTP/1.1 ${status} ${why}\r\n${status === 407 ? 'proxy-authenticate: Basic\r\n' : ''}content-length: 0\r\n\r\n`,
        () => client.destroy(),
      );
    open(request, targetOf(request.url ?? '', 443), (held, address, to) => {
      const onward = dialled(held, address, to);
      keep(held, client);
      const unreachable = () => refuse(502, 'it cannot be reached');
      onward.once('error', unreachable);
      onward.once('connect', () => {
        onward.off('error', unreachable);
        onward.once('error', () => client.destroy());
        client.write('HTTP/1.1 200 connected\r\n\r\n');
        if (head.length > 0) onward.write(head);
        onward.pipe(client);
        client.pipe(onward);
      });
      client.once('close', () => onward.destroy());
    }).then(
      (refusal) => {
        if (!refusal) return;
        log(request, refusal.why);
        refuse(refusal.status, refusal.why);
      },
      () => client.destroy(),
    );
  });
  server.maxConnections = connectionsMax;
  const all = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    const from = socket.remoteAddress ?? '';
    if ([...strangers.values()].filter((other) => other === from).length >= strangersMax)
      return void socket.destroy();
    all.add(socket);
    strangers.set(socket, from);
    const leave = setTimeout(() => {
      if (strangers.has(socket)) socket.destroy();
    }, strangerMs);
    socket.once('close', () => {
      clearTimeout(leave);
      strangers.delete(socket);
      all.delete(socket);
    });
  });
  const end = (held: Held) => {
    held.isClosed = true;
    for (const socket of held.sockets) socket.destroy();
  };
  await new Promise<void>((done, fail) => {
    server.once('error', fail);
    server.listen(port, address, done);
  });
  const listening = (server.address() as AddressInfo).port;
  return {
    port: listening,
    open(allowed, holder) {
      const token = randomBytes(18).toString('base64url');
      const held: Held = { allowed, holder, sockets: new Set(), opening: 0, isClosed: false };
      passes.set(token, held);
      return {
        url: `http://pass:${token}@${isIP(address) === 6 ? `[${address}]` : address}:${listening}`,
        close() {
          passes.delete(token);
          end(held);
        },
      };
    },
    async stop() {
      for (const held of passes.values()) end(held);
      passes.clear();
      for (const socket of all) socket.destroy();
      await new Promise((done) => server.close(done));
    },
  };
}
