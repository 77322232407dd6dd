import { expect, test } from 'vitest';
import type { SessionId } from '../../services/core/ids.ts';
import type { SessionStore } from '../../services/ports/session-store.ts';
import { countSessions, filterSchema, list } from '../../services/runtime/session-lists.ts';
import { Talk, task } from '../support/sessions.ts';

/** Two shards: five sessions of acme and one of globex each, and two that ended lately. */
async function ports() {
  const talk = new Talk();
  talk.say(task('hello'));
  const record = talk.record as object;
  const stored = (tenant: string, number: number) => ({
    session: `s-${tenant}-${number}` as SessionId,
    record: JSON.stringify({ ...record, tenant, session: `s-${tenant}-${number}` }),
  });
  const records = [...Array.from({ length: 5 }, (_, n) => stored('acme', n)), stored('globex', 1)];
  const ended = (tenant: string) =>
    JSON.stringify({
      ...{ session: 's-old', tenant, agent: 'desk', task: 't', status: 'failed', state: 'failed' },
      ...{ version: 1, waitingOn: '', since: 0, startedAt: 0, changedAt: 0, steps: 0 },
      ...{ toolCalls: 0, tokens: 0, costMicros: 0 },
    });
  const store: Pick<SessionStore, 'records' | 'recent'> = {
    async *records() {
      yield* [...records, { session: 's-bad' as SessionId, record: '{"schema":2}' }];
    },
    recent: async () => [ended('acme'), ended('globex'), 'not JSON'],
  };
  return { store, clock: { now: () => Date.now() }, shards: 2 };
}

test.each([
  [{}, 12],
  [{ tenant: 'acme' }, 10],
  [{ ended: true }, 16],
  [{ ended: true, status: 'failed', tenant: 'globex' }, 2],
  [{ agent: 'nobody' }, 0],
])('%j: a list is cut and a count is not', async (filter, total) => {
  const given = await ports();
  const all = filterSchema.parse(filter);
  expect(await list({ ...all, max: 3 }, given)).toHaveLength(Math.min(3, total));
  const counts = await countSessions({ ...all, max: 3 }, given);
  expect(counts.total).toBe(total);
  expect(Object.values(counts.byStatus).reduce((sum, one) => sum + one, 0)).toBe(total);
  expect(await list({ ...all, max: 1_000 }, given)).toHaveLength(total);
});
