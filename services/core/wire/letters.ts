/** What a dead letter is about, and how its tenant hears of it. */
import { agentOf, sha256 } from '../ids.ts';
import type { Position } from '../session/record.ts';
import type { UnderstudyEvent } from './cloud-event.ts';
import { endIdOf } from './event-end.ts';

/** Of a task: the same letter, wherever and however often the task comes. 96 bits of a hash. */
export const taskIdentity = (session: string, task: string): string =>
  sha256(`${session}\n${task}`).slice(0, 24);

/** Of an event from outside: the same letter, however often the event comes. */
export const eventIdentity = (tenant: string, session: string, event: string): string =>
  sha256(`event\n${tenant}\n${session}\n${event}`).slice(0, 24);

/** Where the letter of an event says that it was for. */
export const eventSubject = (tenant: string, session: string): string =>
  `tell.${tenant}.${session}`;

/** Of its publisher, also where the session that it names is another's. */
export const eventLetterOf = (
  session: string,
  {
    id,
    from,
    event,
  }: {
    readonly id: string;
    readonly from: string;
    readonly event: Readonly<Record<string, unknown>>;
  },
) => ({
  tenant: from,
  agent: agentOf(session),
  session,
  subject: eventSubject(from, session),
  headers: { 'Understudy-Event': id },
  body: JSON.stringify(event),
  identity: eventIdentity(from, session, id),
});

/** The session that a letter's event was for; undefined for the letter of anything else. */
export const toldSession = (subject: string): string | undefined =>
  /^tell\.[^.]+\.([^.]+)$/.exec(subject)?.[1];

/** Of a message of MAIL that was not a task. */
export const mailIdentity = (shard: number, { incarnation, sequence, index }: Position): string =>
  `mail-${shard}-${incarnation}-${sequence}-${index}`;

/** Of an entry of the outbox that cannot be read. */
export const outboxIdentity = (shard: number, id: number, body: string): string =>
  `outbox-${shard}-${id}-${sha256(body).slice(0, 16)}`;

const wholeMax = 220; // characters of an id that is kept whole; a suffix of at most 28 follows
const beginningMax = 180; // characters of a longer id, before its identity (24) and the suffix
const cutMin = 64; // letters cut an id to this length at least: a shorter one is whole

/**
 * The id of a task that is published again. It counts how often, so that two requeues of one letter
 * make one task. Where the id is too long, or the letter has only its beginning, the letter's
 * identity keeps it apart from others that begin alike; so it does from letters of other agents that
 * go to the same one now.
 *
 * @param body     the new body, where it was edited
 * @param isMoved  it goes to another tenant or agent than before
 */
export function requeuedTask(
  { task, identity, isCut }: { task: string; identity: string; isCut?: boolean | undefined },
  body: string | undefined,
  isMoved = false,
): string {
  const counted = /^(.*)-requeued-(\d{1,9})(?:-[0-9a-f]{8})?$/s.exec(task);
  const [, first = task, times = '0'] = counted ?? [];
  const edited = body === undefined ? '' : `-${sha256(body).slice(0, 8)}`;
  const mayBeCut = isCut === true && task.length >= cutMin;
  const isAlone = first.length <= wholeMax && !mayBeCut && !isMoved;
  const name = isAlone ? first : `${beginningOf(first, beginningMax)}-${identity}`;
  return `${name}-requeued-${Number(times) + 1}${edited}`;
}

/** So many characters of a text; half a surrogate pair at the end is left out. */
const beginningOf = (text: string, length: number): string =>
  text.slice(0, length).replace(/[\ud800-\udbff]$/, '');

export interface StoredLetter {
  readonly subject?: string | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
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

/** Of an event from outside: the id that its publisher gave it. */
function eventOf({ subject = '', headers }: StoredLetter): { readonly event?: string } {
  const event = headers?.['Understudy-Event'];
  return event !== undefined && toldSession(subject) !== undefined ? { event } : {};
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
    details: { code: letter.code, letter: letter.id, ...eventOf(letter) },
    reason: `${letter.code}: ${letter.reason}`,
  },
});
