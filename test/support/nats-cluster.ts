/** Three nats-servers that are one cluster with JetStream. Real processes on free ports. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'nats';
import { freePort, type Running, startProcess } from '../../services/local/processes.ts';
import { serverPrograms } from '../../services/local/servers.ts';
import { eventually } from './eventually.ts';

export interface NatsCluster {
  readonly url: string;
  /** End the server that leads a stream with -9. @returns its name */
  killLeaderOf(stream: string): Promise<string>;
  /** Start a server that was ended again, with its files. */
  restart(name: string): void;
  stop(): Promise<void>;
}

export async function startNatsCluster(): Promise<NatsCluster> {
  const folder = mkdtempSync(join(tmpdir(), 'understudy-nats-'));
  const program = serverPrograms().nats;
  const names = ['a', 'b', 'c'];
  const ports = await Promise.all(
    names.map(async () => ({ client: await freePort(), route: await freePort() })),
  );
  const routes = ports.map(({ route }) => `"nats://127.0.0.1:${route}"`).join(', ');
  const url = ports.map(({ client }) => `nats://127.0.0.1:${client}`).join(',');
  const running = new Map<string, Running>();
  // A test file that ends early must leave nothing behind.
  process.once('exit', () => {
    for (const one of running.values()) one.signal('SIGKILL');
  });
  const start = (name: string) => {
    const { client, route } = ports[names.indexOf(name)]!;
    const config = join(folder, `${name}.conf`);
    writeFileSync(
      config,
      [
        `server_name: ${name}`,
        'host: 127.0.0.1',
        `port: ${client}`,
        `jetstream { store_dir: "${join(folder, name)}", max_memory_store: 1073741824, max_file_store: 21474836480 }`,
        `cluster { name: test, host: 127.0.0.1, port: ${route}, routes: [${routes}] }`,
        '',
      ].join('\n'),
    );
    running.set(
      name,
      startProcess({ name: `nats-${name}`, command: [program, '-c', config], logs: folder }),
    );
  };
  for (const name of names) start(name);
  const connection = await eventually(
    () => connect({ servers: url.split(','), maxReconnectAttempts: -1, reconnectTimeWait: 100 }),
    'a NATS server',
  );
  const manager = await connection.jetstreamManager({ checkAPI: false });
  // A stream of three copies can be made once the servers have found each other and a leader.
  await eventually(async () => {
    await manager.streams.add({ name: 'READY', subjects: ['ready'], num_replicas: 3 });
    return manager.streams.delete('READY');
  }, 'the cluster to have a leader');
  return {
    url,
    async killLeaderOf(stream) {
      const leader = await eventually(
        async () => (await manager.streams.info(stream)).cluster?.leader,
        `a leader of ${stream}`,
      );
      running.get(leader)?.signal('SIGKILL');
      await running.get(leader)?.ended;
      return leader;
    },
    restart: start,
    async stop() {
      await connection.close();
      await Promise.all([...running.values()].map((one) => one.stop(2_000)));
      rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
