/**
 * Code of users that comes to an end. It may run in circles, and with it would stand still all
 * sessions of this process, and after it those of every other that takes its shards over.
 */
import { Script } from 'node:vm';
import { Defect } from './errors.ts';

/** V8 ends what a script calls when its time is over, whatever that catches; there is no other way. */
const entry = Symbol.for('understudy.bounded');
const script = new Script(`globalThis[Symbol.for('understudy.bounded')]()`);
const place = globalThis as unknown as Record<symbol, unknown>;

/** @throws as `work` does; Stuck */
export function bounded<Result>(work: () => Result, withinMs: number): Result {
  // A machine that is loaded within a step of another finds its own.
  const before = place[entry];
  place[entry] = work;
  try {
    return script.runInThisContext({ timeout: withinMs, displayErrors: false }) as Result;
  } catch (error) {
    const { code } = (error ?? {}) as { code?: unknown };
    if (code === 'ERR_SCRIPT_EXECUTION_TIMEOUT') throw new Stuck(withinMs);
    throw error;
  } finally {
    place[entry] = before;
  }
}

export class Stuck extends Defect {
  constructor(withinMs: number) {
    super('MACHINE_STUCK', `its machine did not come to an end within ${withinMs} ms`);
  }
}
