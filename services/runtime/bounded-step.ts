/** A step that comes to an end, also one of a user's own machine. */
import { bounded, Stuck } from '../core/bounded.ts';
import { limits } from '../core/limits.ts';
import { step } from '../core/session/step.ts';

/**
 * As `step`. A machine that is too late gets a second chance: the process itself may have stood still.
 *
 * @throws as `step` does; Stuck
 */
export const boundedStep: typeof step = (record, incoming, definition, address, live) => {
  if (!definition.machine) return step(record, incoming, definition, address, live);
  const within = limits.machineStepMs;
  try {
    return bounded(() => step(record, incoming, definition, address, live), within);
  } catch (error) {
    if (!(error instanceof Stuck)) throw error;
    return bounded(() => step(record, incoming, definition, address), within);
  }
};
