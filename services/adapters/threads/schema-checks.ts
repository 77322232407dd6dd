/**
 * Checks in a thread beside the event loop. One that takes too long is ended with its thread: there is
 * no other way to end it, and the next one gets a new thread.
 */
import { Worker } from 'node:worker_threads';
import type { SchemaChecks, Verdict } from '../../ports/schema-checks.ts';

const withinMs = 2_000; // of one check, from its turn on: longer is too costly
const waitingMax = 8; // checks of one tenant that wait; beyond it who comes is told that it is too costly
const memoryMb = 256; // of the thread's heap

interface Waiting {
  readonly id: number;
  readonly schema: Readonly<Record<string, unknown>>;
  readonly text: string;
  readonly resolve: (verdict: Verdict) => void;
}

export function threadedChecks(
  limitMs: number = withinMs,
): SchemaChecks & { stop(): Promise<void> } {
  /** By tenant, in the order of their turns: each has one, then goes to the end. */
  const queues = new Map<string, Waiting[]>();
  let current: Waiting | undefined;
  let worker: Worker | undefined;
  let timer: NodeJS.Timeout | undefined;
  let count = 0;

  const settle = (verdict: Verdict) => {
    clearTimeout(timer);
    const done = current;
    current = undefined;
    done?.resolve(verdict);
    next();
  };
  const started = (): Worker => {
    const made = new Worker(new URL('./check-thread.ts', import.meta.url), {
      resourceLimits: { maxOldGenerationSizeMb: memoryMb },
      // No variable of this process is its business.
      env: {},
    });
    made.unref();
    made.on('message', ({ id, problem }: { id: number; problem?: string }) => {
      if (worker === made && current?.id === id) settle({ isTooCostly: false, problem });
    });
    // Out of memory, or a stack that is too deep: it could not be checked.
    const gone = () => {
      if (worker !== made) return;
      worker = undefined;
      settle({ isTooCostly: true });
    };
    made.on('error', gone);
    made.on('exit', gone);
    return made;
  };
  const next = (): void => {
    if (current) return;
    const [turn] = queues;
    if (!turn) return;
    const [tenant, [first, ...others]] = turn;
    queues.delete(tenant);
    if (others.length > 0) queues.set(tenant, others);
    if (!first) return;
    current = first;
    worker ??= started();
    const { id, schema, text } = current;
    timer = setTimeout(() => {
      const late = worker;
      worker = undefined;
      void late?.terminate();
      settle({ isTooCostly: true });
    }, limitMs);
    timer.unref();
    worker.postMessage({ id, schema, text });
  };
  return {
    check: (tenant, schema, text) =>
      new Promise((resolve) => {
        const waiting = queues.get(tenant) ?? [];
        if (waiting.length >= waitingMax) return resolve({ isTooCostly: true });
        count += 1;
        queues.set(tenant, [...waiting, { id: count, schema, text, resolve }]);
        next();
      }),
    async stop() {
      const last = worker;
      worker = undefined;
      await last?.terminate();
    },
  };
}
