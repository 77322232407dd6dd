/** What a job uses, looked at while it runs: kernels and clusters differ in which limits they enforce, this one is always there. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

export interface Usage {
  readonly processes: number;
  readonly memoryBytes: number;
}

const pageBytes = 4_096;

const fieldsOf = (path: string): number[] =>
  readFileSync(path, 'utf8').trim().split(' ').map(Number);
const meminfo = (name: string): number =>
  Number(new RegExp(`${name}:\\s+(\\d+)`).exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0) *
  1_024;
/** gVisor does not say which pages are shared; but its /proc/meminfo is that of this sandbox alone. */
const saysShared = (fieldsOf('/proc/self/statm')[2] ?? 0) > 0;

const others = (): string[] =>
  readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);

/**
 * What was there before the job: its part is what came on top. Processes are those of earlier jobs that ended without a parent to fetch
 * their end: zombies, which stay as long as the pod, because a Node program cannot wait for children that it did not start.
 *
 * Memory only where the kernel cannot say it of each process.
 */
export const baselineOfPod = (): Usage => ({
  processes: processesOfPod(),
  memoryBytes: saysShared ? 0 : meminfo('MemTotal') - meminfo('MemFree'),
});

/** Those that have ended and nobody has fetched among them. */
export const processesOfPod = (): number => others().length;

/**
 * What a job uses: all processes of this pod but our own. Only the first process of a pod may count like that: elsewhere there are others' processes.
 *
 * @param baseline      of before the job
 * @param processesMax  far beyond it only their number is told
 */
export function usageOfPod(baseline: Usage, processesMax: number): Usage {
  const names = others();
  // Too many to look at each: that they are too many is all that matters.
  if (names.length - baseline.processes > processesMax * 4)
    return { processes: names.length - baseline.processes, memoryBytes: 0 };
  let processes = 0;
  let memoryBytes = 0;
  for (const name of names) {
    try {
      const [size = 0, resident = 0, shared = 0] = fieldsOf(`/proc/${name}/statm`);
      if (size === 0) continue; // a zombie: it does nothing any more
      memoryBytes += (resident - shared) * pageBytes;
      processes += 1;
      if (processes > processesMax) break; // and each look at one more is time for ten more
    } catch {
      // it has ended in between
    }
  }
  return {
    processes,
    memoryBytes: saysShared ? memoryBytes : baselineOfPod().memoryBytes - baseline.memoryBytes,
  };
}

const entryBytes = 4_096; // what an entry takes at the least, folders and empty files as well: a block, or an inode and a name

/** Bytes below a folder; stops counting beyond `bytesMax`, so that what it looks at is bounded too. */
export function bytesBelow(folder: string, bytesMax: number): number {
  let bytes = 0;
  const open = [folder];
  for (let next = open.pop(); next !== undefined && bytes <= bytesMax; next = open.pop()) {
    try {
      for (const entry of readdirSync(next, { withFileTypes: true })) {
        const path = join(next, entry.name);
        if (entry.isDirectory()) open.push(path);
        bytes += entry.isFile() ? Math.max(entryBytes, statSync(path).blocks * 512) : entryBytes;
        if (bytes > bytesMax) return bytes;
      }
    } catch {
      // removed in between, or a folder that the job made unreadable: its disk limit is the volume's then
    }
  }
  return bytes;
}
