/**
 * Restate doing the bench's work: its server and one service on Node, as its packages come, found by npm under the versions of the lock file here.
 *
 * Its partitions and whether it syncs each write are given; all else is as it comes.
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { join } from 'node:path';
import { answering, freePort, startProcess } from '../../../services/local/processes.ts';
import { type Load, type Rig, say, sleep } from '../rig.ts';

const here = import.meta.dirname;
const program = () => join(here, 'node_modules/@restatedev', `restate-server-${process.platform}-${process.arch}`, 'bin/restate-server');

function install(): void {
  if (existsSync(program())) return;
  say('installing Restate (its licence, the Business Source License, allows to measure it) ...');
  execFileSync('npm', ['ci', '--ignore-scripts', '--no-fund', '--no-audit', '--loglevel=error'], { cwd: here, stdio: ['ignore', 'inherit', 'inherit'] });
}

/** One connection for each call under way, kept open. */
const agent = new Agent({ keepAlive: true, maxSockets: 1_024 });
const post = (port: number, path: string, body: string, withinMs = 0): Promise<{ status: number; text: string }> =>
  new Promise((resolve, reject) => {
    const asked = request({ agent, host: '127.0.0.1', port, method: 'POST', path, headers: { 'content-type': 'application/json' } }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        text += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    asked.on('error', reject);
    if (withinMs > 0) asked.setTimeout(withinMs, () => asked.destroy(new Error('no answer')));
    asked.end(body);
  });

class Calls implements Load {
  ended = 0;
  #begun = 0;
  #wanted = 0;
  readonly #port: number;

  constructor(port: number) {
    this.#port = port;
  }

  get wanted(): number {
    return this.#wanted;
  }

  set wanted(sessions: number) {
    this.#wanted = sessions;
    while (this.#begun - this.ended < this.#wanted) void this.#call();
  }

  async rest(): Promise<void> {
    this.#wanted = 0;
    while (this.ended < this.#begun) await sleep(20);
  }

  async #call(): Promise<void> {
    this.#begun += 1;
    const { status, text } = await post(this.#port, '/bench/session', `{"input":"session-${this.#begun}"}`);
    // A bench that counts refusals as work would be worth nothing.
    if (status !== 200) throw new Error(`Restate answered ${status} to a session: ${text.slice(0, 200)}`);
    this.ended += 1;
    if (this.#begun - this.ended < this.#wanted) void this.#call();
  }
}

/** @returns its load, and the processes that it consists of */
export async function startRestate(
  { stack, others }: Rig,
  { stubUrl, partitions, isSynced }: { stubUrl: string; partitions: number; isSynced: boolean },
): Promise<{ load: Load; pids: Readonly<Record<string, number>> }> {
  install();
  const name = `restate-${partitions}`;
  const [node, ingress, admin, servicePort] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
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
    environment: { PORT: String(servicePort), STUB_PORT: new URL(stubUrl).port, NODE_ENV: 'production', RESTATE_LOGGING: 'WARN' },
    logs: stack.logs,
  });
  others.push(service);
  await answering(`http://127.0.0.1:${admin}/health`, server);
  const deadline = Date.now() + 30_000;
  for (;;) {
    try {
      const { status, text } = await post(admin, '/deployments', JSON.stringify({ uri: `http://127.0.0.1:${servicePort}` }), 2_000);
      if (status < 300) break;
      throw new Error(`Restate refuses the service (${status}): ${text.slice(0, 200)}`);
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(200);
    }
  }
  return { load: new Calls(ingress), pids: { server: server.pid, service: service.pid } };
}
