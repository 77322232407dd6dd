/** Does what is stored of a session agree with its log, and with what its publisher was told? */
import type { SessionId, ShardId, TenantId } from '../core/ids.ts';
import { isEnded, type SessionRecord, stateHashOf, wakeAtOf } from '../core/session/record.ts';
import type { Verdict } from '../core/wire/control-answers.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Events } from '../ports/events.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { SessionStore } from '../ports/session-store.ts';
import type { Definitions } from './definitions.ts';
import { type Folded, fold, historyOf } from './fold.ts';

export interface VerifyPorts {
  readonly store: Pick<SessionStore, 'pending' | 'wakeOf' | 'conversationLength'>;
  readonly mailbox: Mailbox;
  readonly archive: Archive;
  readonly events: Pick<Events, 'endsOf'>;
  readonly definitions: Definitions;
  readonly clock: Pick<Clock, 'now'>;
}

const eventsKeptMs = 7 * 86_400_000; // ends that are older may be gone from EVENTS

export async function verify(
  { record, shard, isArchived }: { record: SessionRecord; shard: ShardId; isArchived: boolean },
  ports: VerifyPorts,
): Promise<Verdict> {
  const { session, tenant } = record;
  const { mail } = await historyOf(shard, session, ports, isArchived ? undefined : record.position);
  const folded = await fold(mail, { tenant: tenant as TenantId, session }, ports.definitions);
  const stored = stateHashOf(record);
  const computed = folded.record ? stateHashOf(folded.record) : 'nothing';
  const differences = isArchived ? [] : await beside(record, folded, shard, ports);
  if (stored !== computed) differences.unshift('state');
  const end = await endOf(record, shard, ports);
  if (end.startsWith('differs')) differences.push(`end: ${end}`);
  return {
    session,
    isEqual: differences.length === 0,
    version: record.version,
    messages: folded.messages,
    stored,
    computed,
    isArchived,
    differences,
    end,
  };
}

/** What is stored beside the record: a fold that agrees with the record says nothing of it. */
async function beside(
  record: SessionRecord,
  folded: Folded,
  shard: ShardId,
  { store }: VerifyPorts,
): Promise<string[]> {
  const { session } = record;
  const isOf = (id: string) => id.startsWith(`${session}_`);
  const [pending, wake, entries] = await Promise.all([
    store.pending(shard),
    store.wakeOf(shard, session as SessionId),
    store.conversationLength(shard, session as SessionId),
  ]);
  const ids = (all: readonly { readonly id: string }[]) =>
    all
      .map(({ id }) => id as string)
      .filter(isOf)
      .sort()
      .join();
  const differences: string[] = [];
  if (ids(pending) !== ids(folded.pending)) differences.push('pending effects');
  if (wake !== wakeAtOf(record)) differences.push('wake-up time');
  if (entries !== folded.entries.length) differences.push('conversation length');
  return differences;
}

/** Was its end told, once, and as it is stored? */
async function endOf(
  record: SessionRecord,
  shard: ShardId,
  { events, clock }: VerifyPorts,
): Promise<string> {
  if (!isEnded(record)) return 'none yet';
  const { tenant, agent, session, startedAt, changedAt, status, task } = record;
  const ends = await events.endsOf({ tenant, agent, session }, shard, startedAt - 60_000);
  const told = ends.filter(({ data }) => data.task === task);
  if (told.length > 1) return `differs: it was told ${told.length} times`;
  const [one] = told;
  if (one)
    return one.data.to === status || record.isKeyed ? 'told' : `differs: told ${one.data.to}`;
  return clock.now() - changedAt > eventsKeptMs ? 'no longer kept' : 'not told yet';
}
