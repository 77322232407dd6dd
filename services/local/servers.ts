/** Real nats-server and redis-server for a local stack: found on PATH, else installed by the system's package manager, else told. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { Refused, Unavailable } from '../core/errors.ts';
import { freePort, type Running, startProcess } from './processes.ts';

export interface ServerPrograms {
  readonly nats: string;
  readonly redis: string;
}

const extraPaths = [
  '/usr/local/bin',
  '/usr/bin',
  '/usr/sbin',
  '/usr/local/sbin',
  '/opt/homebrew/bin',
];

function find(names: readonly string[]): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(':'), ...extraPaths];
  for (const name of names)
    for (const folder of folders)
      if (folder && existsSync(join(folder, name))) return join(folder, name);
  return undefined;
}

/**
 * Find both servers, installing what is missing where that needs no questions.
 *
 * @throws Refused with the exact line to type
 */
export function serverPrograms(say: (line: string) => void = () => undefined): ServerPrograms {
  const look = () => ({
    nats: process.env.UNDERSTUDY_NATS_SERVER || find(['nats-server']),
    redis: process.env.UNDERSTUDY_REDIS_SERVER || find(['redis-server', 'valkey-server']),
  });
  let found = look();
  if (!found.nats || !found.redis) {
    const missing = [
      ...(found.nats ? [] : ['nats-server']),
      ...(found.redis ? [] : ['redis-server']),
    ];
    const isRoot = process.getuid?.() === 0;
    if (find(['apt-get']) && isRoot) {
      say(`installing ${missing.join(' and ')} with apt-get`);
      // The packages would start services of their own on the default ports; a local stack brings its own.
      const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' };
      spawnSync('apt-get', ['update', '-qq'], { env: environment, stdio: 'ignore' });
      spawnSync('apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missing], {
        env: environment,
        stdio: 'ignore',
      });
    } else if (find(['brew'])) {
      say(`installing ${missing.join(' and ')} with brew`);
      spawnSync(
        'brew',
        ['install', ...missing.map((name) => (name === 'redis-server' ? 'redis' : name))],
        { stdio: 'ignore' },
      );
    }
    found = look();
  }
  if (!found.nats || !found.redis) {
    const missing = [
      ...(found.nats ? [] : ['nats-server']),
      ...(found.redis ? [] : ['redis-server']),
    ];
    const line = find(['apt-get'])
      ? `sudo apt-get install -y ${missing.join(' ')}`
      : find(['apk'])
        ? `sudo apk add ${missing.map((name) => (name === 'redis-server' ? 'redis' : name)).join(' ')}`
        : `install ${missing.join(' and ')}, or set UNDERSTUDY_NATS_SERVER and UNDERSTUDY_REDIS_SERVER to their programs`;
    throw new Refused('SERVERS_MISSING', `${missing.join(' and ')} not found. Type: ${line}`);
  }
  return { nats: found.nats, redis: found.redis };
}

export const versionOf = (program: string): string => {
  try {
    return (
      /v?=?(\d+\.\d+\.\d+)/.exec(execFileSync(program, ['--version'], { encoding: 'utf8' }))?.[1] ??
      'unknown'
    );
  } catch {
    return 'unknown';
  }
};

export interface ServerOptions {
  readonly folder: string;
  readonly logs: string;
  readonly port?: number;
  readonly isDetached?: boolean;
  readonly isStrict?: boolean;
}

export interface Server {
  readonly url: string;
  readonly port: number;
  readonly running: Running;
}

export async function startNats(
  program: string,
  { folder, logs, port, isDetached = false, isStrict = false }: ServerOptions,
): Promise<Server> {
  const chosen = port ?? (await freePort());
  const store = join(folder, 'nats');
  mkdirSync(store, { recursive: true });
  const config = join(folder, 'nats.conf');
  writeFileSync(
    config,
    [
      'host: 127.0.0.1',
      `port: ${chosen}`,
      'max_payload: 1048576',
      // Interest would be lost on a slow consumer; a burst of mail is no reason to cut a runtime off.
      'max_pending: 134217728',
      'write_deadline: "10s"',
      `jetstream { store_dir: "${store}", max_memory_store: 1073741824, max_file_store: 21474836480${isStrict ? ', sync_interval: always' : ''} }`,
      '',
    ].join('\n'),
  );
  const running = startProcess({
    name: 'nats-server',
    command: [program, '-c', config],
    logs,
    isDetached,
  });
  await listening(chosen, running);
  return { url: `nats://127.0.0.1:${chosen}`, port: chosen, running };
}

export async function startRedis(
  program: string,
  { folder, logs, port, isDetached = false }: ServerOptions,
): Promise<Server> {
  const chosen = port ?? (await freePort());
  const store = join(folder, 'redis');
  mkdirSync(store, { recursive: true });
  const running = startProcess({
    name: 'redis-server',
    command: [
      program,
      '--bind',
      '127.0.0.1',
      '--port',
      String(chosen),
      '--dir',
      store,
      '--appendonly',
      'yes',
      '--appendfsync',
      'everysec',
      '--save',
      '',
      '--maxmemory-policy',
      'noeviction',
    ],
    logs,
    isDetached,
  });
  await listening(chosen, running);
  return { url: `redis://127.0.0.1:${chosen}`, port: chosen, running };
}

async function listening(port: number, running: Running, withinMs = 15_000): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (Date.now() < deadline) {
    if (!running.isRunning())
      throw new Unavailable(
        'SERVER_ENDED',
        `${running.name} ended at once; see ${running.logFile}`,
      );
    const isOpen = await new Promise<boolean>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => {
        socket.destroy();
        resolve(true);
      });
      socket.on('error', () => resolve(false));
    });
    if (isOpen) return;
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  throw new Unavailable(
    'SERVER_NOT_READY',
    `${running.name} does not listen on port ${port}; see ${running.logFile}`,
  );
}
