/** Lists of sessions and what they count: all that are stored, and those that ended lately. */
import { z } from 'zod';
import { Refused } from '../core/errors.ts';
import type { ShardId } from '../core/ids.ts';
import { jsonStored } from '../core/json.ts';
import { parseRecord } from '../core/session/migrate.ts';
import { isEnded, type SessionRecord } from '../core/session/record.ts';
import { waitsForPerson } from '../core/session/status.ts';
import { type SessionSummary, summaryOf } from '../core/session/summary.ts';
import { type SessionCounts, summarySchema } from '../core/wire/control-answers.ts';
import type { Clock } from '../ports/clock.ts';
import type { SessionStore } from '../ports/session-store.ts';

export const filterSchema = z
  .object({
    tenant: z.string().optional(),
    agent: z.string().optional(),
    status: z.string().optional(),
    ended: z.boolean().default(false),
    max: z.number().int().positive().max(10_000).default(500),
  })
  .strict();

type Filter = z.infer<typeof filterSchema>;

export interface ListPorts {
  readonly store: Pick<SessionStore, 'records' | 'recent'>;
  readonly clock: Pick<Clock, 'now'>;
  readonly shards: number;
}

const haltingMs = 1_000; // an end is told, and its session put away, in less

/** The sessions that changed last. */
export async function list(filter: Filter, ports: ListPorts): Promise<SessionSummary[]> {
  const found: SessionSummary[] = [];
  for await (const summary of summaries(filter, ports)) found.push(summary);
  return found.sort((left, right) => right.changedAt - left.changedAt).slice(0, filter.max);
}

/** Of all that a list would show, had it no bound. */
export async function countSessions(filter: Filter, ports: ListPorts): Promise<SessionCounts> {
  const byStatus: Record<string, number> = {};
  let total = 0;
  let waitingForPerson = 0;
  for await (const summary of summaries(filter, ports)) {
    const { status } = summary;
    total += 1;
    byStatus[status] = (byStatus[status] ?? 0) + 1;
    if (waitsForPerson(summary)) waitingForPerson += 1;
  }
  return { total, byStatus, waitingForPerson };
}

async function* summaries(filter: Filter, ports: ListPorts): AsyncIterable<SessionSummary> {
  const now = ports.clock.now();
  for await (const record of allRecords(ports)) {
    const summary = summaryOf(record);
    if (!matches(summary, filter)) continue;
    if (!isEnded(record)) yield summary;
    // Its end waits, for the start records say: until then its calls are being cancelled.
    else if (now - record.changedAt > haltingMs) yield { ...summary, state: 'halting' };
    else if (filter.ended) yield summary;
  }
  if (!filter.ended) return;
  for (let shard = 0; shard < ports.shards; shard += 1) {
    for (const text of await ports.store.recent(shard as ShardId)) {
      const summary = summarySchema.safeParse(jsonStored(text));
      if (summary.success && matches(summary.data, filter)) yield summary.data;
    }
  }
}

export async function* allRecords({
  store,
  shards,
}: Omit<ListPorts, 'clock'>): AsyncIterable<SessionRecord> {
  for (let shard = 0; shard < shards; shard += 1) {
    for await (const { record } of store.records(shard as ShardId)) {
      try {
        yield parseRecord(record);
      } catch (error) {
        // A poisoned record is rebuilt when its session is next spoken to.
        if (!(error instanceof Refused)) throw error;
      }
    }
  }
}

export const matches = (
  session: { tenant: string; agent: string; status: string },
  { tenant, agent, status }: Pick<Filter, 'tenant' | 'agent' | 'status'>,
): boolean =>
  (!tenant || session.tenant === tenant) &&
  (!agent || session.agent === agent) &&
  (!status || session.status === status);
