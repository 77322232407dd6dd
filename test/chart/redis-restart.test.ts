/** The bundled Redis, with the arguments and the users that the chart gives it: what is committed is there after its end. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { redisLeases } from '../../services/adapters/redis/leases.ts';
import { connectedRedis } from '../../services/adapters/redis/scripts.ts';
import { redisSessionStore } from '../../services/adapters/redis/session-store.ts';
import type { HostId, SessionId, ShardId } from '../../services/core/ids.ts';
import { freePort, startProcess } from '../../services/local/processes.ts';
import { serverPrograms } from '../../services/local/servers.ts';
import { eventually } from '../support/eventually.ts';
import { hasHelm, helm } from '../support/helm.ts';

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly stringData?: Readonly<Record<string, string>>;
  readonly data?: Readonly<Record<string, string>>;
  readonly spec?: {
    readonly template: {
      readonly spec: { readonly containers: readonly { readonly args: readonly string[] }[] };
    };
  };
}

// Without helm nothing can be rendered.
test.skipIf(!hasHelm)(
  'a Redis of the chart that is ended with -9 comes back with what was committed',
  async () => {
    const { text } = helm(
      'template',
      'u',
      join(import.meta.dirname, '../../charts/understudy'),
      '--namespace',
      'n',
      '--kube-version',
      '1.34.0',
    );
    const manifests = parseAllDocuments(text).map((document) => document.toJS() as Manifest | null);
    const secret = manifests.find(
      (manifest) => manifest?.kind === 'Secret' && manifest.metadata.name.endsWith('-credentials'),
    );
    const users =
      secret?.stringData?.['redis-users.acl'] ??
      Buffer.from(secret?.data?.['redis-users.acl'] ?? '', 'base64').toString();
    const args =
      manifests.find(
        (manifest) => manifest?.kind === 'StatefulSet' && manifest.metadata.name.endsWith('redis'),
      )?.spec?.template.spec.containers[0]?.args ?? [];
    expect(args).toContain('--aclfile');

    const folder = mkdtempSync(join(tmpdir(), 'understudy-redis-'));
    const acl = join(folder, 'users.acl');
    writeFileSync(acl, users);
    const port = await freePort();
    const start = () =>
      startProcess({
        name: 'redis-server',
        command: [
          serverPrograms().redis,
          '--bind',
          '127.0.0.1',
          '--port',
          String(port),
          ...args.map((arg) =>
            arg === '/data'
              ? folder
              : arg.startsWith('/etc/redis/')
                ? acl
                : arg === 'everysec'
                  ? 'always'
                  : arg,
          ),
        ],
        logs: folder,
      });
    const password = /^user runtime on >(\S+)/m.exec(users)?.[1];
    const url = `redis://127.0.0.1:${port}`;
    let running = start();
    try {
      const redis = await connectedRedis(url, { user: 'runtime', password });
      const shard = 1 as ShardId;
      const lease = (await redisLeases(redis).acquire(shard, 'host' as HostId, 'boot', 60_000))!;
      const to = {
        position: { incarnation: 0, sequence: 3, index: 0 },
        commits: 1,
        log: 7,
        queue: 9,
      };
      const session = {
        session: 's' as SessionId,
        expectedVersion: 0,
        version: 1,
        record: '{"n":1}',
        entriesBefore: 0,
        entries: ['{}'],
        pending: [],
        resolved: [],
        wakeAt: 5,
        floor: 1,
      };
      expect(
        await redisSessionStore(redis).commit(shard, lease.token, {
          from: undefined,
          to,
          sessions: [session],
          settled: [],
          archived: [],
        }),
      ).toBe('committed');
      redis.disconnect();

      running.signal('SIGKILL');
      await running.ended;
      running = start();
      const again = await connectedRedis(url, { user: 'runtime', password });
      await eventually(async () => (await again.ping()) === 'PONG', 'Redis answers');
      expect((await redisSessionStore(again).open(shard)).at).toEqual(to);
      expect(await redisSessionStore(again).load(shard, 's' as SessionId)).toBe('{"n":1}');
      again.disconnect();
    } finally {
      await running.stop(2_000);
      rmSync(folder, { recursive: true, force: true });
    }
  },
);
