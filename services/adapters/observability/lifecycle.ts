/** Start in order and with patience, stop in reverse, under a deadline; a second signal ends at once. */
import { flushCompileCache } from 'node:module';
import { patiently } from '../../core/patience.ts';
import type { Telemetry } from '../../ports/telemetry.ts';
import { systemClock } from './clock.ts';

export interface Part {
  readonly name: string;
  stop(): Promise<void> | void;
}

export async function runService(
  start: (started: (part: Part) => void) => Promise<void>,
  deadlineMs = 20_000,
): Promise<void> {
  const parts: Part[] = [];
  let isStopping = false;
  const stop = async (code: number) => {
    if (isStopping) process.exit(code || 1);
    isStopping = true;
    const timer = setTimeout(() => process.exit(1), deadlineMs);
    timer.unref();
    for (const part of parts.reverse()) {
      try {
        await part.stop();
      } catch (error) {
        process.stderr.write(
          `could not stop ${part.name}: ${error instanceof Error ? error.message : String(error)}\n`,
        );
      }
    }
    process.exit(code);
  };
  process.on('SIGTERM', () => void stop(0));
  process.on('SIGINT', () => void stop(0));
  try {
    await start((part) => parts.push(part));
    // A process that is killed would not keep what it compiled. Does nothing without NODE_COMPILE_CACHE.
    setTimeout(flushCompileCache, 1_000).unref();
  } catch (error) {
    const { message, code, cause } = error as {
      message?: string;
      code?: string;
      cause?: { message?: string };
    };
    process.stderr.write(
      `${JSON.stringify({ level: 'fatal', code, message, cause: cause?.message })}\n`,
    );
    await stop(1);
  }
}

/** What a service that starts waits for: asked for until it is there, and said in the log and to who asks why it is not ready. */
export function startingUp(telemetry: Telemetry): {
  why(): string;
  there<Value>(attempt: () => Promise<Value>): Promise<Value>;
} {
  let cause = '';
  return {
    why: () => `starting ${cause}`.trim(),
    async there(attempt) {
      const found = await patiently(
        attempt,
        (why) => {
          cause = `(${why})`;
          telemetry.log('warn', 'waiting', { cause: why });
        },
        systemClock.sleep,
      );
      cause = ''; // it is not what keeps us from serving any more
      return found;
    },
  };
}
