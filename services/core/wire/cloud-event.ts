/** Events at the edge: CloudEvents 1.0, structured JSON. One per step, named by session and version, so a repeat is known as one. */

import type { Happened } from '../session/draft.ts';
import { type Effect, isTold } from '../session/effects.ts';
import type { SessionRecord } from '../session/record.ts';
import { endIdOf } from './event-end.ts';

export interface UnderstudyEvent {
  readonly specversion: '1.0';
  readonly id: string;
  readonly source: string;
  readonly type: string;
  readonly subject: string;
  readonly time: string;
  readonly traceparent?: string | undefined;
  readonly data: EventData;
}

export interface EventData {
  readonly tenant: string;
  readonly agent: string;
  readonly session: string;
  readonly task: string;
  readonly version: number;
  readonly from: string;
  readonly to: string;
  readonly status: string;
  /** What was chosen, and what stood beside it: the machine's own guards, in order. */
  readonly decisions: Happened['choices'];
  readonly effects: readonly {
    readonly id?: string | undefined;
    readonly kind: string;
    readonly what?: string | undefined;
  }[];
  readonly details: Happened['details'];
  /** Events that a user's own machine emitted in this step, in their order. */
  readonly emitted?: readonly unknown[] | undefined;
  readonly reason?: string | undefined;
  /** Only of an end: calls that had begun when it was told. No other call of its session begins after it. */
  readonly underWay?: readonly { readonly id: string; readonly what: string }[] | undefined;
  /** Only of an end: the answer to whoever published the task, and what it came to. */
  readonly output?: string | undefined;
  readonly spent?: Extract<Effect, { kind: 'reply' }>['spent'] | undefined;
}

export function eventOf(
  record: SessionRecord,
  happened: Happened,
  effects: readonly Effect[],
  at: number,
): UnderstudyEvent {
  return {
    specversion: '1.0',
    id: `${record.session}-${record.version}`,
    source: `understudy/${record.tenant}/${record.agent}`,
    type: `dev.understudy.${happened.kind}`,
    subject: record.session,
    time: new Date(at).toISOString(),
    ...(record.traceparent ? { traceparent: record.traceparent } : {}),
    data: {
      tenant: record.tenant,
      agent: record.agent,
      session: record.session,
      task: record.task,
      version: record.version,
      from: happened.from,
      to: happened.to,
      status: record.status,
      decisions: happened.choices,
      effects: effects.filter((effect) => !isTold(effect)).map(briefly),
      details: happened.details,
      ...emittedIn(effects),
      ...(record.reason ? { reason: record.reason } : {}),
    },
  };
}

/** A task ended: what its publisher waits for. */
export function endEventOf(
  record: SessionRecord,
  reply: Extract<Effect, { kind: 'reply' }>,
  at: number,
  index: number,
): UnderstudyEvent {
  const base = eventOf(
    record,
    { kind: reply.outcome, from: '', to: reply.outcome, choices: [], details: {} },
    [],
    at,
  );
  return {
    ...base,
    id: endIdOf(base.id, index),
    data: {
      ...base.data,
      task: reply.task,
      output: reply.output,
      spent: reply.spent,
      ...(reply.reason ? { reason: reply.reason } : {}),
    },
  };
}

/** A step's event as JSON, with what its subject needs: the object itself is not kept until it leaves. */
export interface StepEvent {
  readonly tenant: string;
  readonly agent: string;
  readonly text: string;
}

export const stepEventOf = (event: UnderstudyEvent): StepEvent => ({
  tenant: event.data.tenant,
  agent: event.data.agent,
  text: JSON.stringify(event),
});

/** A message of EVENTS: one event, or a batch of them (CloudEvents JSON batch format). @throws SyntaxError for what is no JSON */
export function parseEvents(text: string): readonly UnderstudyEvent[] {
  const body = JSON.parse(text) as UnderstudyEvent | readonly UnderstudyEvent[];
  return Array.isArray(body) ? body : [body as UnderstudyEvent];
}

function emittedIn(effects: readonly Effect[]): Pick<EventData, 'emitted'> {
  const emitted = effects.flatMap((effect) => (effect.kind === 'emit' ? [effect.event] : []));
  return emitted.length > 0 ? { emitted } : {};
}

function briefly(effect: Effect): { id?: string; kind: string; what?: string } {
  switch (effect.kind) {
    case 'runTool':
      return { id: effect.id, kind: effect.kind, what: `${effect.tool} (${effect.class})` };
    case 'startAgent':
      return { id: effect.id, kind: effect.kind, what: effect.child };
    case 'askHuman':
      return { id: effect.id, kind: effect.kind, what: effect.tool };
    case 'callModel':
      return { id: effect.id, kind: effect.kind };
    case 'reply':
      return { kind: effect.kind, what: effect.outcome };
    default:
      return { kind: effect.kind };
  }
}
