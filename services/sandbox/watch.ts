/** What a job uses, looked at while it runs: kernels and clusters differ in which limits they enforce, this one is always there. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

export interface Usage {
  readonly processes: number;
  readonly memoryBytes: number;
}

const pageBytes = 4_096;

/** All processes of this pod but our own. Only the first process of a pod may count like that: elsewhere there are others' processes. */
export function usageOfPod(): Usage {
  let processes = 0;
  let memoryBytes = 0;
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    try {
      memoryBytes += Number(readFileSync(`/proc/${name}/statm`, 'utf8').split(' ')[1] ?? 0) * pageBytes;
      processes += 1;
    } catch {
      // it has ended in between
    }
  }
  return { processes, memoryBytes };
}

/** Bytes below a folder; stops counting beyond `bytesMax`. */
export function bytesBelow(folder: string, bytesMax: number): number {
  let bytes = 0;
  const open = [folder];
  for (let next = open.pop(); next !== undefined && bytes <= bytesMax; next = open.pop()) {
    try {
      for (const entry of readdirSync(next, { withFileTypes: true })) {
        const path = join(next, entry.name);
        if (entry.isDirectory()) open.push(path);
        else if (entry.isFile()) bytes += statSync(path).blocks * 512;
      }
    } catch {
      // removed in between, or a folder that the job made unreadable: its disk limit is the volume's then
    }
  }
  return bytes;
}
