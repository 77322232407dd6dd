/**
 * Restate doing the bench's work: its server and one service on Node, as its packages come, installed by `make compare` under the versions of the lock file here.
 *
 * Its partitions and whether it syncs each write are given; all else is as it comes.
 */
import { execFileSync } from 'node:child_process';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import { answering, freePort, startProcess } from '../../../services/local/processes.ts';
import { ClosedLoop } from '../closed-loop.ts';
import { type Rig, sleep } from '../rig.ts';

const here = import.meta.dirname;
const program = () =>
  join(
    here,
    'node_modules/@restatedev',
    `restate-server-${process.platform}-${process.arch}`,
    'bin/restate-server',
  );

/** Of the server that is installed. */
export const restateVersion = (): string =>
  execFileSync(program(), ['--version'], { encoding: 'utf8' }).match(/\d+\.\d+\.\d+/)?.[0] ??
  'unknown';

/** One connection for each call under way, kept open. */
const agent = new Agent({ keepAlive: true, maxSockets: 1_024 });
const post = (
  port: number,
  path: string,
  body: string,
  withinMs = 0,
): Promise<{ status: number; text: string }> =>
  new Promise((resolve, reject) => {
    const asked = request(
      {
        agent,
        host: '127.0.0.1',
        port,
        method: 'POST',
        path,
        headers: { 'content-type': 'application/json' },
      },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
        });
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      },
    );
    asked.on('error', reject);
    if (withinMs > 0) asked.setTimeout(withinMs, () => asked.destroy(new Error('no answer')));
    asked.end(body);
  });

function restateLoad(port: number): ClosedLoop {
  const load = new ClosedLoop(async (session) => {
    const { status, text } = await post(port, '/bench/session', `{"input":"session-${session}"}`);
    if (status !== 200)
      throw new Error(`Restate answered ${status} to a session: ${text.slice(0, 200)}`);
    load.end();
  });
  return load;
}

/** @returns its load, and the processes that it consists of */
export async function startRestate(
  { stack, others }: Rig,
  { stubUrl, partitions, isSynced }: { stubUrl: string; partitions: number; isSynced: boolean },
): Promise<{ load: ClosedLoop; pids: Readonly<Record<string, number>> }> {
  const name = `restate-${partitions}`;
  const [node, ingress, admin, servicePort] = await Promise.all([
    freePort(),
    freePort(),
    freePort(),
    freePort(),
  ]);
  const server = startProcess({
    name,
    command: [program(), '--no-logo', '--base-dir', join(stack.options.folder, name)],
    environment: {
      RESTATE_BIND_IP: '127.0.0.1',
      RESTATE_BIND_PORT: String(node),
      RESTATE_INGRESS__BIND_PORT: String(ingress),
      RESTATE_ADMIN__BIND_PORT: String(admin),
      RESTATE_DEFAULT_NUM_PARTITIONS: String(partitions),
      RESTATE_BIFROST__LOCAL__ROCKSDB_DISABLE_WAL_FSYNC: String(!isSynced),
      RESTATE_LOG_SERVER__ROCKSDB_DISABLE_WAL_FSYNC: String(!isSynced),
      RESTATE_DISABLE_TELEMETRY: 'true',
      RESTATE_LOG_FILTER: 'warn',
    },
    logs: stack.logs,
  });
  others.push(server);
  const service = startProcess({
    name: `${name}-service`,
    command: [process.execPath, join(here, 'service.mjs')],
    environment: {
      PORT: String(servicePort),
      STUB_PORT: new URL(stubUrl).port,
      NODE_ENV: 'production',
      RESTATE_LOGGING: 'WARN',
    },
    logs: stack.logs,
  });
  others.push(service);
  await answering(`http://127.0.0.1:${admin}/health`, server);
  const deadline = Date.now() + 30_000;
  for (;;) {
    try {
      const { status, text } = await post(
        admin,
        '/deployments',
        JSON.stringify({ uri: `http://127.0.0.1:${servicePort}` }),
        2_000,
      );
      if (status < 300) break;
      throw new Error(`Restate refuses the service (${status}): ${text.slice(0, 200)}`);
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(200);
    }
  }
  return { load: restateLoad(ingress), pids: { server: server.pid, service: service.pid } };
}
