/** What a process has used so far, as Linux counts it. */
import { readFileSync } from 'node:fs';

const ticksPerSecond = 100; // USER_HZ, fixed on Linux

/** Seconds of CPU, the kernel's on its behalf included. */
export const cpuSecondsOf = (pid: number): number => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
};

/** System calls that read, and that write. */
export const callsOf = (pid: number): { reads: number; writes: number } => {
  const text = readFileSync(`/proc/${pid}/io`, 'utf8');
  return {
    reads: Number(/syscr: (\d+)/.exec(text)?.[1] ?? 0),
    writes: Number(/syscw: (\d+)/.exec(text)?.[1] ?? 0),
  };
};

/** Bytes that went to the disk. */
export const writtenBy = (pid: number): number =>
  Number(/write_bytes: (\d+)/.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1] ?? 0);
