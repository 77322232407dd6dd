/** Real servers on free ports for a test file, in a folder that goes away with them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connectNats, type Nats } from '../../services/adapters/nats/connection.ts';
import { declareStreams } from '../../services/adapters/nats/streams.ts';
import { connectedRedis, type ScriptedRedis } from '../../services/adapters/redis/scripts.ts';
import {
  type Server,
  serverPrograms,
  startNats,
  startRedis,
} from '../../services/local/servers.ts';

export interface Servers {
  readonly folder: string;
  nats: Server;
  redis: Server;
  readonly connections: { nats: Nats; redis: ScriptedRedis };
  stop(): Promise<void>;
}

export async function startServers(): Promise<Servers> {
  const folder = mkdtempSync(join(tmpdir(), 'understudy-test-'));
  const programs = serverPrograms();
  const logs = join(folder, 'logs');
  const [nats, redis] = await Promise.all([
    startNats(programs.nats, { folder, logs }),
    startRedis(programs.redis, { folder, logs }),
  ]);
  const connections = {
    nats: await connectNats({ url: nats.url, name: 'test' }),
    redis: await connectedRedis(redis.url),
  };
  await declareStreams(connections.nats);
  return {
    folder,
    nats,
    redis,
    connections,
    async stop() {
      await connections.nats.close();
      connections.redis.disconnect();
      await Promise.all([nats.running.stop(2_000), redis.running.stop(2_000)]);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
