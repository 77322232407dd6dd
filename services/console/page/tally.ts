/** The line above the list: how many sessions fit the filter, of each status. */
import { waitsForPerson } from '../../core/session/status.ts';
import type { SessionCounts, SessionSummary } from './api.ts';

export const statuses = ['active', 'paused', 'parked', 'completed', 'failed', 'halted'];

/** Counts every session that fits the filter, not only the rows that are shown. */
export function tallyLine(
  sessions: readonly SessionSummary[],
  { counts, max }: { readonly counts: SessionCounts | undefined; readonly max: number },
): string {
  if (sessions.length < max) return tally(countsOf(sessions));
  if (!counts) return `the ${max} that changed last, and there are more`;
  if (counts.total <= sessions.length) return tally(counts);
  return `${sessions.length} of ${counts.total.toLocaleString('en')}: ${tally(counts)}`;
}

function countsOf(sessions: readonly SessionSummary[]): SessionCounts {
  const byStatus: Record<string, number> = {};
  for (const { status } of sessions) byStatus[status] = (byStatus[status] ?? 0) + 1;
  const waitingForPerson = sessions.filter(waitsForPerson).length;
  return { total: sessions.length, byStatus, waitingForPerson };
}

/** How many of each: 3 active (1 waits for a person), 20 completed. */
function tally({ byStatus, waitingForPerson: waiting }: SessionCounts): string {
  const people =
    waiting > 0 ? ` (${waiting} ${waiting === 1 ? 'waits' : 'wait'} for a person)` : '';
  return statuses
    .filter((status) => (byStatus[status] ?? 0) > 0)
    .map((status) => `${byStatus[status]} ${status}${status === 'active' ? people : ''}`)
    .join(', ');
}
