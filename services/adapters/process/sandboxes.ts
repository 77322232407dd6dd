/** Sandboxes as processes of this machine: the same job runner, one process for each session. Good for a desk; what must not be trusted needs pods. */
import { spawn } from 'node:child_process';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Unavailable } from '../../core/errors.ts';
import type { Sandbox, Sandboxes } from '../../ports/sandboxes.ts';
import { removeTree } from './remove-tree.ts';

const graceMs = 2_000;
const main = fileURLToPath(new URL('../../sandbox/main.ts', import.meta.url));

/** @param claim  how to claim the one that was started */
export function processSandboxes(
  claim: (
    name: string,
    url: string,
    holder: { tenant: string; session: string },
  ) => Promise<string | undefined>,
): Sandboxes {
  const running = new Map<string, { end(): void; kill(): void; readonly folder: string }>();
  const discard = (name: string) => {
    const found = running.get(name);
    if (!found) return;
    running.delete(name);
    // It ends its jobs before itself; the rest is for one that does not.
    found.end();
    setTimeout(() => {
      found.kill();
      void removeTree(found.folder);
    }, graceMs);
  };
  return {
    async claim(holder) {
      const folder = await mkdtemp(join(tmpdir(), 'understudy-sandbox-'));
      const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', main], {
        stdio: ['pipe', 'pipe', 'ignore'],
        // It ends with us, however we end: our end of its input is closed then.
        env: {
          PATH: process.env.PATH ?? '',
          PORT: '0',
          HOST: '127.0.0.1',
          WORKSPACE: folder,
          ENDS_WITH_INPUT: '1',
        },
      });
      const name = `sandbox-${child.pid}`;
      child.stdin.on('error', () => undefined);
      running.set(name, {
        folder,
        end: () => void child.stdin.end(),
        kill: () => void child.kill('SIGKILL'),
      });
      try {
        const port = await new Promise<number>((resolve, reject) => {
          child.once('error', reject);
          child.once('exit', (code) => reject(new Error(`it ended with code ${code}`)));
          createInterface({ input: child.stdout }).once('line', (line) =>
            resolve((JSON.parse(line) as { listening: number }).listening),
          );
        });
        const url = `http://127.0.0.1:${port}`;
        const token = await claim(name, url, holder);
        if (token === undefined) throw new Error('it was claimed by somebody else');
        return { name, url, token } satisfies Sandbox;
      } catch (error) {
        discard(name);
        throw new Unavailable('SANDBOX_NONE_FREE', 'no sandbox could be started', { cause: error });
      }
    },
    discard: ({ name }) => discard(name),
    async stop() {
      for (const name of [...running.keys()]) discard(name);
    },
  };
}
