import { expect, test } from 'vitest';
import { tallyLine } from '../../services/console/page/tally.ts';
import type { SessionSummary } from '../../services/core/session/summary.ts';

const rows = (count: number, status: string, waitingOn = ''): SessionSummary[] =>
  Array.from({ length: count }, () => ({ status, waitingOn }) as SessionSummary);

test('rows that are all there are counted themselves', () => {
  const some = [...rows(2, 'active', 'model x, approval refund'), ...rows(3, 'completed')];
  expect(tallyLine(some, { counts: undefined, max: 200 })).toBe(
    '2 active (2 wait for a person), 3 completed',
  );
});

test('what is counted is all that fits the filter, never the rows that are shown', () => {
  const counts = { total: 2_956, byStatus: { active: 2_950, parked: 6 }, waitingForPerson: 1 };
  expect(tallyLine(rows(200, 'active'), { counts, max: 200 })).toBe(
    '200 of 2,956: 2950 active (1 waits for a person), 6 parked',
  );
  // Until it is known, nothing is said of a part as though it were all.
  expect(tallyLine(rows(200, 'active'), { counts: undefined, max: 200 })).toBe(
    'the 200 that changed last, and there are more',
  );
});
