import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  afterAnswer,
  afterIdle,
  firstWindow,
  type Window,
} from '../../services/core/cluster/window.ts';
import { limits } from '../../services/core/limits.ts';

/** A tenant that always wants more, before a pool with so many hands that take so long. @returns waits in the queue, and the window at the end */
function crowdBefore(
  hands: number,
  performedMs: number,
  rounds: number,
): { waits: number[]; window: Window } {
  let window = firstWindow;
  const queue: number[] = [];
  const busy: number[] = [];
  const waits: number[] = [];
  for (let now = 0; now < rounds * performedMs; now += performedMs) {
    for (const offeredAt of busy.splice(0))
      window = afterAnswer(window, { offeredAt, now, performedMs, isFull: true });
    while (queue.length + Math.min(hands, busy.length) < window.size) queue.push(now);
    while (busy.length < hands && queue.length > 0) {
      const offeredAt = queue.shift()!;
      waits.push(now - offeredAt);
      busy.push(offeredAt);
    }
  }
  return { waits, window };
}

test.each([
  [4, 50],
  [8, 20],
  [64, 100],
  [512, 200],
])(
  'before %i hands that take %i ms a crowd soon waits about as long as it may, and every hand has work',
  (hands, performedMs) => {
    const { waits, window } = crowdBefore(hands, performedMs, 400);

    const late = waits.slice(Math.floor(waits.length / 2)).sort((left, right) => left - right);
    expect(late[Math.floor(late.length * 0.9)]).toBeLessThanOrEqual(
      2 * limits.queueWaitMs + performedMs,
    );
    expect(window.size).toBeGreaterThanOrEqual(hands);
  },
);

test('answers to what was offered before a cut do not cut again', () => {
  const late = { offeredAt: 0, now: 10_000, performedMs: 0, isFull: true };
  const cut = afterAnswer(firstWindow, late);

  expect(cut).toEqual({ size: 32, cutAt: 10_000, lateAt: 10_000 });
  expect(afterAnswer(cut, { ...late, now: 10_001 })).toEqual({ ...cut, lateAt: 10_001 });
});

test('a window that is not used up does not grow', () => {
  expect(afterAnswer(firstWindow, { offeredAt: 0, now: 5, performedMs: 5, isFull: false })).toEqual(
    firstWindow,
  );
  expect(
    afterAnswer(firstWindow, { offeredAt: 0, now: 5, performedMs: 5, isFull: true }).size,
  ).toBe(firstWindow.size + 1);
});

test('an empty queue widens a window, but not while answers tell of waiting: what a rate limit sends back stands in no queue', () => {
  expect(afterIdle(firstWindow, 10_000).size).toBe(2 * firstWindow.size);
  expect(afterIdle({ ...firstWindow, lateAt: 9_000 }, 10_000)).toEqual({
    ...firstWindow,
    lateAt: 9_000,
  });
});

test('a window never closes, and never grows without end', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          offeredAt: fc.nat(100_000),
          now: fc.nat(200_000),
          performedMs: fc.nat(1_000),
          isFull: fc.boolean(),
        }),
      ),
      (answers) => {
        let window = firstWindow;
        for (const answer of answers) {
          window = afterAnswer(window, answer);
          expect(window.size).toBeGreaterThanOrEqual(16);
        }
        for (let count = 0; count < 20; count += 1) window = afterIdle(window, 1_000_000);
        expect(window.size).toBeLessThanOrEqual(4_096);
      },
    ),
  );
});
