/**
 * Tools end with their executor, however it ends: a small shell holds the other end of a pipe, and
 * when the pipe closes it ends every group of processes that still runs, and, where there is a
 * /proc, whatever bears the executor's mark in its environment: a process that left its group.
 * One that left its group *and* emptied its environment is beyond it; so is one on a platform
 * without /proc. In a pod the kernel ends them all with the container.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';

export interface Watchdog {
  /** For the environment of each process that must end with this one. */
  readonly mark: Readonly<Record<string, string>>;
  /** A group of processes began; told when it has ended. */
  began(group: number): () => void;
  /** End what is left. */
  close(): Promise<void>;
}

const markName = 'UNDERSTUDY_TOOL_OF';

// Three rounds: one that is just being forked shows up in the next.
const script = `trap '' INT TERM HUP
live=" "
while read -r word group; do
  case $word in
    began) live="$live$group " ;;
    ended) live=$(printf %s "$live" | sed "s/ $group / /") ;;
  esac
done
for group in $live; do kill -9 -- "-$group" 2>/dev/null; done
for round in 1 2 3; do
  for process in /proc/[0-9]*; do
    grep -qsz "^${markName}=$1$" "$process/environ" && kill -9 "\${process#/proc/}" 2>/dev/null
  done
  sleep 0.1
done
exit 0`;

export function startWatchdog(): Watchdog {
  const id = randomUUID();
  const shell: ChildProcess = spawn('/bin/sh', ['-c', script, 'understudy-watchdog', id], {
    cwd: '/',
    detached: true, // a signal for our group is not for it
    env: { PATH: '/usr/local/bin:/usr/bin:/bin' },
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  shell.unref();
  (shell.stdin as unknown as { unref?: () => void }).unref?.();
  // Without it, tools still end with their calls.
  shell.on('error', () => undefined);
  shell.stdin?.on('error', () => undefined);
  const tell = (word: string, group: number) => {
    if (shell.stdin?.writable) shell.stdin.write(`${word} ${group}\n`);
  };
  return {
    mark: { [markName]: id },
    began(group) {
      tell('began', group);
      return () => tell('ended', group);
    },
    async close() {
      const isGone = shell.exitCode !== null || shell.signalCode !== null;
      if (isGone || shell.pid === undefined) return;
      const ended = new Promise((resolve) => shell.once('exit', resolve));
      shell.ref();
      shell.stdin?.end();
      await ended;
    },
  };
}
