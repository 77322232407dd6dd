/** Child processes of a local stack: each with a log file and a name, started, watched, killed by pid. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { Unavailable } from '../core/errors.ts';

export interface Running {
  readonly name: string;
  readonly pid: number;
  readonly logFile: string;
  isRunning(): boolean;
  signal(signal: NodeJS.Signals): void;
  /** Ends when the process has. */
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  stop(graceMs?: number): Promise<void>;
}

export interface ProcessSpec {
  readonly name: string;
  readonly command: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly logs: string;
  /** Survive the one who started it (dev mode). */
  readonly isDetached?: boolean;
}

export function startProcess({
  name,
  command,
  environment = {},
  logs,
  isDetached = false,
}: ProcessSpec): Running {
  mkdirSync(logs, { recursive: true });
  const logFile = join(logs, `${name}.log`);
  const log = openSync(logFile, 'a');
  const [program = '', ...args] = command;
  const { PATH = '', HOME = '' } = process.env;
  const child: ChildProcess = spawn(program, args, {
    stdio: ['ignore', log, log],
    detached: isDetached,
    env: { PATH, HOME, ...environment },
  });
  closeSync(log);
  let isRunning = true;
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.on('exit', (code, signal) => {
      isRunning = false;
      resolve({ code, signal });
    });
    child.on('error', () => {
      isRunning = false;
      resolve({ code: 127, signal: null });
    });
  });
  if (isDetached) child.unref();
  return {
    name,
    pid: child.pid ?? -1,
    logFile,
    isRunning: () => isRunning,
    signal: (signal) => void (isRunning && child.kill(signal)),
    ended,
    async stop(graceMs = 10_000) {
      if (!isRunning) return;
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
      await ended;
      clearTimeout(timer);
    },
  };
}

export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() =>
        typeof address === 'object' && address
          ? resolve(address.port)
          : reject(new Error('no port')),
      );
    });
  });
}

/** Wait until an address answers 200. @throws Unavailable with the log file to look at */
export async function answering(
  address: string,
  running: Running,
  withinMs = 30_000,
): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (Date.now() < deadline) {
    if (!running.isRunning())
      throw new Unavailable(
        'PROCESS_ENDED',
        `${running.name} ended before it was ready; see ${running.logFile}`,
      );
    try {
      if ((await fetch(address)).ok) return;
    } catch {
      // not listening yet
    }
    await new Promise((resolve) => setTimeout(resolve, 40));
  }
  throw new Unavailable(
    'PROCESS_NOT_READY',
    `${running.name} was not ready within ${withinMs} ms; see ${running.logFile}`,
  );
}
