/** What changes nothing: messages that a session does not listen to now, and why. And what is due. */
import { assertNever, Refused } from '../errors.ts';
import type { AgentContext } from './agent-context.ts';
import type { Message } from './messages.ts';
import { isEnded, type PendingNote, type SessionRecord, tasksOf } from './record.ts';

/** Why a message changes nothing, if it does not. */
export function refuses(record: SessionRecord, message: Message, at: number): string | undefined {
  if (isEnded(record)) {
    if (message.kind === 'task' && !tasksOf(record).includes(message.task))
      throw new Refused('SESSION_ENDED', `session ${record.session} has ${record.status}, and task ${message.task} came after that`);
    return `the session has ${record.status}`;
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
      if (note?.kind !== 'askHuman') return `approval ${message.approval} is not open`;
      if (record.status === 'active' && note.deadlineAt < at) return `approval ${message.approval} has expired`;
      const hash = approvalHashOf(record, message.approval);
      if (hash !== undefined && hash !== message.hash) return `approval ${message.approval} is for another payload (hash ${hash.slice(0, 12)})`;
      return undefined;
    }
    case 'pause':
      return record.status === 'active' ? undefined : `the session is ${record.status}`;
    case 'resume':
      return record.status === 'paused' || record.status === 'parked' ? undefined : 'the session is not paused';
    case 'wake':
      return record.status === 'active' && dueOf(record, at).length > 0 ? undefined : 'nothing is due';
    case 'task':
      return record.isKeyed && !tasksOf(record).includes(message.task) ? undefined : `task ${message.task} was taken in before`;
    case 'halt':
      return undefined;
    default:
      return assertNever(message);
  }
}

/** A result settles only an effect of its own kind: a tool cannot answer for a model. */
function answers(record: SessionRecord, effect: string, kind: PendingNote['kind']): string | undefined {
  return record.pending[effect]?.kind === kind ? undefined : `effect ${effect} is not pending`;
}

/** The hash under which an open approval was asked for. */
export function approvalHashOf(record: SessionRecord, approval: string): string | undefined {
  const open = (record.context as unknown as AgentContext).approvals?.[approval];
  return record.machine === 'agent' ? open?.hash : undefined;
}

export const isControl = (message: Message) => message.kind === 'pause' || message.kind === 'resume' || message.kind === 'halt';

export type Due = { readonly kind: 'timer' | 'effect'; readonly id: string; readonly dueAt: number };

/** What is due at a time, earliest first. A paused session's deadlines stand still until it is resumed. */
export function dueOf(record: SessionRecord, at: number): Due[] {
  const due: Due[] = [];
  for (const [id, { dueAt }] of Object.entries(record.timers)) if (dueAt <= at) due.push({ kind: 'timer', id, dueAt });
  for (const [id, { deadlineAt }] of Object.entries(record.pending)) if (deadlineAt <= at) due.push({ kind: 'effect', id, dueAt: deadlineAt });
  return due.sort((left, right) => left.dueAt - right.dueAt || (left.id < right.id ? -1 : 1));
}
