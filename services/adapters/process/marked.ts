/**
 * Ends processes of one call that left its group, found by a mark in their environment. The watchdog
 * does the same for a whole executor.
 */
import { randomUUID } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';

const markName = 'UNDERSTUDY_CALL';
const rounds = 3; // one that is just being forked shows up in the next
const betweenMs = 100;

/** For the environment of one call, and of whatever it starts. */
export const callMark = (): Readonly<Record<string, string>> => ({ [markName]: randomUUID() });

/** End all that bear it, where there is a /proc. */
export async function endMarked(mark: Readonly<Record<string, string>>): Promise<void> {
  const line = `${markName}=${mark[markName]}`;
  for (let round = 0; round < rounds; round += 1) {
    const names = await readdir('/proc').catch(() => []);
    for (const name of names) {
      if (!/^\d+$/.test(name)) continue;
      const environ = await readFile(`/proc/${name}/environ`, 'utf8').catch(() => '');
      if (environ.split('\0').includes(line)) kill(Number(name));
    }
    await new Promise((resolve) => setTimeout(resolve, betweenMs));
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}
