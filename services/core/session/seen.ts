/** What changes nothing: messages that a session does not listen to now, and why. And what is due. */
import { assertNever, Refused } from '../errors.ts';
import type { AgentContext } from './agent-context.ts';
import type { Message, MessageOf } from './messages.ts';
import { isEnded, type PendingNote, type SessionRecord, tasksOf } from './record.ts';

/** Why a message changed nothing, in a word that can be counted. */
export type SeenCode =
  | 'applied-before'
  | 'session-ended'
  | 'not-pending'
  | 'approval-not-open'
  | 'task-known'
  | 'event-known'
  | 'nothing-due'
  | 'not-now'
  | 'refused'
  | 'no-session';

export interface Seen {
  readonly kind: 'seen';
  readonly code: SeenCode;
  readonly why: string;
}

export const seen = (code: SeenCode, why: string): Seen => ({ kind: 'seen', code, why });

/**
 * Why a message changes nothing, if it does not.
 *
 * @throws Refused for a task that nobody will ever answer: it must not go by in silence
 */
export function whySeen(record: SessionRecord, message: Message, at: number): Seen | undefined {
  if (message.kind === 'event') return whyEventSeen(record, message);
  if (isEnded(record)) {
    if (message.kind === 'task' && !tasksOf(record).includes(message.task))
      throw new Refused(
        'SESSION_ENDED',
        `session ${record.session} has ${record.status}, and task ${message.task} came after that`,
      );
    return seen('session-ended', `the session has ${record.status}`);
  }
  switch (message.kind) {
    case 'modelReplied':
    case 'modelFailed':
      return answers(record, message.effect, 'callModel');
    case 'toolReturned':
    case 'toolFailed':
      return answers(record, message.effect, 'runTool');
    case 'agentEnded':
      return answers(record, message.effect, 'startAgent');
    case 'approve':
    case 'reject': {
      const note = record.pending[message.approval];
      if (note?.kind !== 'askHuman')
        return seen('approval-not-open', `approval ${message.approval} is not open`);
      if (record.status === 'active' && note.deadlineAt < at)
        return seen('approval-not-open', `approval ${message.approval} has expired`);
      const hash = approvalHashOf(record, message.approval);
      if (hash !== undefined && hash !== message.hash)
        return seen(
          'approval-not-open',
          `approval ${message.approval} is for another payload (hash ${hash.slice(0, 12)})`,
        );
      return undefined;
    }
    case 'pause':
      return record.status === 'active'
        ? undefined
        : seen('not-now', `the session is ${record.status}`);
    case 'resume':
      return record.status === 'paused' || record.status === 'parked'
        ? undefined
        : seen('not-now', 'the session is not paused');
    case 'wake':
      return record.status === 'active' && dueOf(record, at).length > 0
        ? undefined
        : seen('nothing-due', 'nothing is due');
    case 'task':
      return record.isKeyed && !tasksOf(record).includes(message.task)
        ? undefined
        : seen('task-known', `task ${message.task} was taken in before`);
    case 'halt':
      return undefined;
    default:
      return assertNever(message);
  }
}

/**
 * An event that nobody hears is told to whoever published it. Who names a session of another tenant
 * hears what they would hear of none.
 *
 * @throws Refused (EVENT_UNHEARD)
 */
function whyEventSeen(record: SessionRecord, { id, from }: MessageOf<'event'>): Seen | undefined {
  if (from !== record.tenant) throw unheard(record.session, from);
  if (record.heard?.includes(id)) return seen('event-known', `event ${id} was heard before`);
  if (isEnded(record) || record.hears === undefined) throw unheard(record.session, from);
  return undefined;
}

export const unheard = (session: string, tenant: string): Refused =>
  new Refused(
    'EVENT_UNHEARD',
    `no session ${session} of ${tenant} listens to events: there is none, it has ended, or its agent has no machine of its own`,
  );

/** A result settles only an effect of its own kind: a tool cannot answer for a model. */
function answers(
  record: SessionRecord,
  effect: string,
  kind: PendingNote['kind'],
): Seen | undefined {
  return record.pending[effect]?.kind === kind
    ? undefined
    : seen('not-pending', `effect ${effect} is not pending`);
}

/** The hash under which an open approval was asked for. */
export function approvalHashOf(record: SessionRecord, approval: string): string | undefined {
  const open = (record.context as unknown as AgentContext).approvals?.[approval];
  return record.machine === 'agent' ? open?.hash : undefined;
}

export const isControl = (message: Message) =>
  message.kind === 'pause' || message.kind === 'resume' || message.kind === 'halt';

export type Due = {
  readonly kind: 'timer' | 'effect';
  readonly id: string;
  readonly dueAt: number;
  /** Of timers of a user's own machine: as they were set. */
  readonly order?: number | undefined;
};

/** What is due at a time, earliest first. A paused session's deadlines stand still until it is resumed. */
export function dueOf(record: SessionRecord, at: number): Due[] {
  const due: Due[] = [];
  for (const [id, { dueAt, order }] of Object.entries(record.timers))
    if (dueAt <= at) due.push({ kind: 'timer', id, dueAt, order });
  for (const [id, { deadlineAt }] of Object.entries(record.pending))
    if (deadlineAt <= at) due.push({ kind: 'effect', id, dueAt: deadlineAt });
  return due.sort(
    (left, right) =>
      left.dueAt - right.dueAt ||
      (left.order ?? 0) - (right.order ?? 0) ||
      (left.id < right.id ? -1 : 1),
  );
}
