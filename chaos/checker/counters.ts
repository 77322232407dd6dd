/** What runtimes have counted in a stretch of time. Counters begin at nought with their process: one that was ended took its own with it. */
import { z } from 'zod';

/** Of one process. */
const countsSchema = z.object({ startedAt: z.number(), steps: z.number(), fenced: z.number() });
/** By address of the process. */
export const countersSchema = z.record(z.string(), countsSchema);
export type Counters = z.infer<typeof countersSchema>;

/** @param text  what `/metrics` of a runtime says */
export function countsIn(text: string): z.infer<typeof countsSchema> {
  const sum = (name: string) =>
    [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? ([0-9.e+]+)$`, 'gm'))].reduce(
      (total, match) => total + Number(match[1]),
      0,
    );
  return {
    startedAt: sum('process_start_time_seconds'),
    steps: sum('understudy_steps_committed_total'),
    fenced: sum('understudy_fenced_total'),
  };
}

/** @returns what was counted between the two, and whether every process lived all the while */
export function countedBetween(
  before: Counters,
  after: Counters,
): { stepsCommitted: number; refusedZombies: number; isWhole: boolean } {
  let [stepsCommitted, refusedZombies] = [0, 0];
  for (const [address, { startedAt, steps, fenced }] of Object.entries(after)) {
    const known = before[address]?.startedAt === startedAt ? before[address] : undefined;
    stepsCommitted += steps - (known?.steps ?? 0);
    refusedZombies += fenced - (known?.fenced ?? 0);
  }
  const lived = Object.entries(before).filter(
    ([address, { startedAt }]) => after[address]?.startedAt === startedAt,
  ).length;
  return {
    stepsCommitted,
    refusedZombies,
    isWhole: lived === Object.keys(before).length && lived === Object.keys(after).length,
  };
}
