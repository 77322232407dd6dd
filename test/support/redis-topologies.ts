/** Redis as people run it: a master with a replica and three sentinels, a cluster of three masters with a replica each, or one server with all slots of a cluster. Real processes on free ports. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Redis } from 'ioredis';
import { freePort, type Running, startProcess } from '../../services/local/processes.ts';
import { serverPrograms } from '../../services/local/servers.ts';
import { eventually } from './eventually.ts';

interface Node {
  readonly port: number;
  /** Where nodes of a cluster talk to each other; its own, for port + 10000 may be taken, or none. */
  readonly busPort: number;
  readonly running: Running;
}

export interface Topology {
  readonly url: string;
  /** End the server that now holds a key with -9, or let it fall silent with its connections open, as a node without power does. */
  takeMasterOf(key: string, signal: 'SIGKILL' | 'SIGSTOP'): Promise<void>;
  stop(): Promise<void>;
}

class Servers {
  readonly folder = mkdtempSync(join(tmpdir(), 'understudy-redis-'));
  readonly nodes: Node[] = [];
  #count = 0;

  constructor() {
    // A test file that ends early must leave nothing behind.
    process.once('exit', () => {
      for (const { running } of this.nodes) running.signal('SIGKILL');
    });
  }

  async start(config: readonly string[], isSentinel = false): Promise<Node> {
    const [port, busPort] = [await freePort(), await freePort()];
    const isClustered = config.includes('cluster-enabled yes');
    this.#count += 1;
    const folder = join(this.folder, String(this.#count));
    mkdirSync(folder);
    const file = join(folder, 'redis.conf');
    writeFileSync(
      file,
      `${[
        'bind 127.0.0.1',
        `port ${port}`,
        `dir ${folder}`,
        ...(isClustered ? [`cluster-port ${busPort}`] : []),
        ...config,
      ].join('\n')}\n`,
    );
    const running = startProcess({
      name: `redis-${this.#count}`,
      command: [serverPrograms().redis, file, ...(isSentinel ? ['--sentinel'] : [])],
      logs: this.folder,
    });
    const node = { port, busPort, running };
    this.nodes.push(node);
    await this.ask(port, (redis) => redis.ping());
    return node;
  }

  async ask<Answer>(port: number, question: (redis: Redis) => Promise<Answer>): Promise<Answer> {
    const redis = new Redis(port, '127.0.0.1', {
      maxRetriesPerRequest: 50,
      retryStrategy: () => 50,
    });
    redis.on('error', () => undefined);
    try {
      return await question(redis);
    } finally {
      redis.disconnect();
    }
  }

  async take(port: number, signal: 'SIGKILL' | 'SIGSTOP'): Promise<void> {
    const node = this.nodes.find((one) => one.port === port);
    if (!node) throw new Error(`no server on port ${port}`);
    node.running.signal(signal);
    if (signal === 'SIGKILL') await node.running.ended;
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map(({ running }) => running.stop(2_000)));
    rmSync(this.folder, { recursive: true, force: true, maxRetries: 5 });
  }
}

const durable = ['appendonly yes', 'appendfsync everysec', 'save ""', 'repl-diskless-sync-delay 0'];

export async function startSentinels(): Promise<Topology & { freezeFirstSentinel(): void }> {
  const servers = new Servers();
  const master = await servers.start(durable);
  await servers.start([...durable, `replicaof 127.0.0.1 ${master.port}`]);
  const sentinels: Node[] = [];
  for (let count = 0; count < 3; count += 1) {
    sentinels.push(
      await servers.start(
        [
          `sentinel monitor desk 127.0.0.1 ${master.port} 2`,
          'sentinel down-after-milliseconds desk 1000',
          'sentinel failover-timeout desk 5000',
          'sentinel parallel-syncs desk 1',
        ],
        true,
      ),
    );
  }
  const first = sentinels[0]!.port;
  const fields = async () => {
    const [flat] = await servers.ask(
      first,
      (redis) => redis.call('SENTINEL', 'masters') as Promise<string[][]>,
    );
    return Object.fromEntries(
      Array.from({ length: (flat?.length ?? 0) / 2 }, (_, index) => [
        flat![2 * index]!,
        flat![2 * index + 1]!,
      ]),
    );
  };
  await eventually(async () => {
    const { 'num-slaves': replicas, 'num-other-sentinels': others } = await fields();
    return replicas === '1' && others === '2';
  }, 'the sentinels know each other and the replica');
  return {
    url: `redis-sentinel://${sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',')}#desk`,
    async takeMasterOf(_key, signal) {
      // What is acknowledged goes to the replica a moment later: a failover may lose it, here it is waited for.
      const [, port] = await servers.ask(
        first,
        (redis) => redis.call('SENTINEL', 'get-master-addr-by-name', 'desk') as Promise<string[]>,
      );
      await servers.ask(Number(port), (redis) => redis.wait(1, 5_000));
      await servers.take(Number(port), signal);
    },
    freezeFirstSentinel() {
      sentinels[0]!.running.signal('SIGSTOP');
    },
    stop: () => servers.stop(),
  };
}

export async function startCluster(): Promise<Topology & { freezeReplicas(): void }> {
  const servers = new Servers();
  const config = [
    ...durable,
    'cluster-enabled yes',
    'cluster-node-timeout 1000',
    'cluster-require-full-coverage no',
  ];
  const nodes: Node[] = [];
  for (let count = 0; count < 6; count += 1) nodes.push(await servers.start(config));
  const [first] = nodes as [Node];
  for (const { port, busPort } of nodes.slice(1))
    await servers.ask(first.port, (redis) =>
      redis.call('CLUSTER', 'MEET', '127.0.0.1', port, busPort),
    );
  const bounds = [0, 5_461, 10_923, 16_384];
  for (let index = 0; index < 3; index += 1)
    await servers.ask(nodes[index]!.port, (redis) =>
      redis.cluster('ADDSLOTSRANGE', bounds[index]!, bounds[index + 1]! - 1),
    );
  const known = async (port: number) =>
    (await servers.ask(port, (redis) => redis.cluster('NODES') as Promise<string>))
      .trim()
      .split('\n');
  for (const { port } of nodes)
    await eventually(async () => (await known(port)).length === 6, 'the nodes know each other');
  for (let index = 0; index < 3; index += 1) {
    const id = await servers.ask(
      nodes[index]!.port,
      (redis) => redis.cluster('MYID') as Promise<string>,
    );
    await eventually(
      async () =>
        (await servers.ask(nodes[index + 3]!.port, (redis) => redis.cluster('REPLICATE', id))) ===
        'OK',
      'a replica follows',
    );
  }
  for (const { port } of nodes) {
    await eventually(async () => {
      const state = await servers.ask(port, (redis) => redis.cluster('INFO') as Promise<string>);
      const replicas = (await known(port)).filter(
        (line) => line.includes('slave') && / connected/.test(line),
      );
      return state.includes('cluster_state:ok') && replicas.length === 3;
    }, 'the cluster is whole');
  }
  return {
    url: `redis-cluster://${nodes
      .slice(0, 3)
      .map(({ port }) => `127.0.0.1:${port}`)
      .join(',')}`,
    async takeMasterOf(key, signal) {
      const slot = await servers.ask(
        first.port,
        (redis) => redis.cluster('KEYSLOT', key) as Promise<number>,
      );
      const port =
        nodes[bounds.findIndex((bound, index) => slot >= bound && slot < bounds[index + 1]!)]!.port;
      await servers.ask(port, (redis) => redis.wait(1, 5_000));
      await servers.take(port, signal);
    },
    freezeReplicas() {
      for (const { running } of nodes.slice(3)) running.signal('SIGSTOP');
    },
    stop: () => servers.stop(),
  };
}

/** One server that holds every slot of a cluster, as a managed service may look from outside. */
export async function startSlottedServer(): Promise<{
  readonly url: string;
  stop(): Promise<void>;
}> {
  const servers = new Servers();
  const { port } = await servers.start(['cluster-enabled yes']);
  await servers.ask(port, (redis) => redis.cluster('ADDSLOTSRANGE', 0, 16_383));
  await eventually(
    async () =>
      (await servers.ask(port, (redis) => redis.cluster('INFO') as Promise<string>)).includes(
        'cluster_state:ok',
      ),
    'the server holds all slots',
  );
  return { url: `redis://127.0.0.1:${port}`, stop: () => servers.stop() };
}
