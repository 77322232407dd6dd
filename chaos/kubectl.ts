/** kubectl and helm as commands: what an operator types, and nothing that they could not. */
import { execFile, spawn } from 'node:child_process';
import { promisify } from 'node:util';

const execute = promisify(execFile);

export interface Kubectl {
  readonly namespace: string;
  run(...args: string[]): Promise<string>;
  json<Value>(...args: string[]): Promise<Value>;
  apply(object: object | string): Promise<void>;
  /** Nothing when it is not there. */
  remove(...args: string[]): Promise<void>;
}

export async function command(
  program: string,
  args: readonly string[],
  timeoutMs = 120_000,
): Promise<string> {
  try {
    return (await execute(program, args, { timeout: timeoutMs, maxBuffer: 256 * 1024 * 1024 }))
      .stdout;
  } catch (error) {
    const { stderr = '', stdout = '' } = error as { stderr?: string; stdout?: string };
    throw new Error(
      `${program} ${args.slice(0, 6).join(' ')}: ${(stderr || stdout || String(error)).trim().slice(0, 600)}`,
    );
  }
}

export function kubectlFor(namespace: string): Kubectl {
  const run = (...args: string[]) => command('kubectl', ['--namespace', namespace, ...args]);
  return {
    namespace,
    run,
    json: async (...args) => JSON.parse(await run(...args, '--output', 'json')) as never,
    apply: (object) =>
      new Promise((resolve, reject) => {
        const child = spawn('kubectl', ['--namespace', namespace, 'apply', '--filename', '-'], {
          stdio: ['pipe', 'ignore', 'pipe'],
        });
        let complaint = '';
        child.stderr.on('data', (chunk: Buffer) => {
          complaint += chunk.toString();
        });
        child.on('error', reject);
        child.on('exit', (code) =>
          code === 0 ? resolve() : reject(new Error(`kubectl apply: ${complaint.slice(0, 600)}`)),
        );
        child.stdin.end(typeof object === 'string' ? object : JSON.stringify(object));
      }),
    remove: async (...args) =>
      void (await run('delete', '--ignore-not-found', '--wait=true', '--timeout=60s', ...args)),
  };
}
