/** What a dead letter is about, and how its tenant hears of it. */
import { sha256 } from '../ids.ts';
import type { Position } from '../session/record.ts';
import type { UnderstudyEvent } from './cloud-event.ts';
import { endIdOf } from './event-end.ts';

/** Of a task: the same letter, wherever and however often the task comes. 96 bits of a hash. */
export const taskIdentity = (session: string, task: string): string =>
  sha256(`${session}\n${task}`).slice(0, 24);

/** Of a message of MAIL that was not a task. */
export const mailIdentity = (shard: number, { incarnation, sequence, index }: Position): string =>
  `mail-${shard}-${incarnation}-${sequence}-${index}`;

/** Of an entry of the outbox that cannot be read. */
export const outboxIdentity = (shard: number, id: number, body: string): string =>
  `outbox-${shard}-${id}-${sha256(body).slice(0, 16)}`;

/**
 * The id of a task that is published again: it counts how often, so that two requeues make one
 * task.
 */
export function requeuedTask(task: string, body: string | undefined): string {
  const [, first = task, times = '0'] = /^(.*)-requeued-(\d+)(?:-[0-9a-f]{8})?$/s.exec(task) ?? [];
  const edited = body === undefined ? '' : `-${sha256(body).slice(0, 8)}`;
  return `${first.slice(0, 200)}-requeued-${Number(times) + 1}${edited}`;
}

export interface StoredLetter {
  readonly id: number;
  readonly at: number;
  readonly tenant: string;
  readonly agent: string;
  readonly session?: string | undefined;
  readonly task?: string | undefined;
  readonly code: string;
  readonly reason: string;
  readonly identity: string;
}

/** The end of a task that could not be done: its publisher waits for it as for any other. */
export const letterEventOf = (letter: StoredLetter): UnderstudyEvent => ({
  specversion: '1.0',
  // With its number: thrown away and refused again, it is another letter.
  id: endIdOf(`${letter.identity}-${letter.id}`, 0),
  source: `understudy/${letter.tenant}/${letter.agent}`,
  type: 'dev.understudy.dead-lettered',
  subject: letter.session ?? '',
  time: new Date(letter.at).toISOString(),
  data: {
    tenant: letter.tenant,
    agent: letter.agent,
    session: letter.session ?? '',
    task: letter.task ?? '',
    version: 0,
    from: '',
    to: 'dead-lettered',
    status: 'dead-lettered',
    decisions: [],
    effects: [],
    details: { code: letter.code, letter: letter.id },
    reason: `${letter.code}: ${letter.reason}`,
  },
});
