import type { Clock } from '../../ports/clock.ts';

export const systemClock: Clock = {
  now: () => Date.now(),
  sleep: (ms, signal) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      signal?.addEventListener(
        'abort',
        () => {
          clearTimeout(timer);
          resolve();
        },
        { once: true },
      );
    }),
  every(ms, tick) {
    const timer = setInterval(tick, ms);
    return { stop: () => clearInterval(timer) };
  },
  timeLimit(ms, signal) {
    // By hand: composite and time-out signals cost more than a small call.
    const controller = new AbortController();
    let isOver = false;
    const timer = setTimeout(() => {
      isOver = true;
      controller.abort();
    }, ms);
    const abort = () => controller.abort(signal.reason);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
    return {
      signal: controller.signal,
      get isOver() {
        return isOver;
      },
      again() {
        timer.refresh();
      },
      stop() {
        clearTimeout(timer);
        signal.removeEventListener('abort', abort);
      },
    };
  },
};
