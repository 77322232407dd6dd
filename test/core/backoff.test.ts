import fc from 'fast-check';
import { expect, test } from 'vitest';
import { backoffMs } from '../../services/core/backoff.ts';

test('a wait is never longer than its doubled bound, nor shorter than what the other side asked for', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 5_000 }),
      fc.nat(20),
      fc.nat(60_000),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (baseMs, attempt, retryAfterMs, chance) => {
        const wait = backoffMs({ baseMs, maxMs: 20_000, attempt, retryAfterMs, chance });
        expect(wait).toBeGreaterThanOrEqual(retryAfterMs);
        expect(wait).toBeLessThanOrEqual(
          Math.max(retryAfterMs, Math.min(20_000, baseMs * 2 ** attempt)),
        );
      },
    ),
  );
});

test('chance spreads waits over the whole of the bound', () => {
  const wait = (chance: number) => backoffMs({ baseMs: 100, maxMs: 20_000, attempt: 3, chance });
  expect([wait(0), wait(0.5), wait(1)]).toEqual([0, 400, 800]);
});
