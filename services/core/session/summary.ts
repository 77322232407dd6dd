/** A session in a list: what it waits on and since when is a first-class column. */
import type { AgentContext } from './agent-context.ts';
import { stateName } from './draft.ts';
import type { SessionRecord } from './record.ts';

export interface SessionSummary {
  readonly session: string;
  readonly tenant: string;
  readonly agent: string;
  readonly task: string;
  readonly status: string;
  readonly state: string;
  readonly version: number;
  readonly waitingOn: string;
  readonly since: number;
  readonly startedAt: number;
  readonly changedAt: number;
  readonly steps: number;
  readonly toolCalls: number;
  readonly tokens: number;
  readonly costMicros: number;
  readonly reason?: string | undefined;
}

/** What waits for a person, in a list. */
export interface ApprovalSummary {
  readonly id: string;
  readonly session: string;
  readonly tenant: string;
  readonly agent: string;
  readonly kind: string;
  readonly tool: string;
  readonly arguments: string;
  /** Of what is asked: a decision names it, so that it is for nothing else. */
  readonly hash: string;
  readonly since: number;
  readonly expiresAt: number;
  /** Somebody has: the session is paused, and hears of it when it is resumed. */
  readonly isDecided: boolean;
}

const whatMax = 200; // characters: a question may be long, and lists carry many sessions

/** Nothing outside is awaited: its own next timer, or a message. */
function timerOf({ timers }: SessionRecord): string {
  const due = Math.min(...Object.values(timers).map(({ dueAt }) => dueAt));
  return isDate(due) ? `a timer, due ${secondsOf(due)}` : 'a message';
}

/** A machine of users may wait on several things at once: its timers and events beside its calls. */
function alsoOf({ timers, hears = [] }: SessionRecord): string[] {
  const { wall: _, ...own } = timers;
  const due = Math.min(...Object.values(own).map(({ dueAt }) => dueAt));
  return [
    ...(isDate(due) ? [`a timer, due ${secondsOf(due)}`] : []),
    ...(hears.length > 0 ? [`${hears.length > 1 ? 'events' : 'event'} ${hears.join(', ')}`] : []),
  ];
}

/** What no calendar has is no time to tell. */
const isDate = (at: number): boolean => Math.abs(at) <= 8.64e15;

const secondsOf = (at: number): string => new Date(at).toISOString().replace(/\.\d+Z$/, 'Z');

export function summaryOf(record: SessionRecord): SessionSummary {
  const spent =
    record.machine === 'agent'
      ? (record.context as unknown as Partial<AgentContext>).spent
      : record.budget?.spent;
  const notes = Object.values(record.pending).sort((left, right) => left.since - right.since);
  const words = {
    callModel: 'model',
    runTool: 'tool',
    startAgent: 'agent',
    askHuman: 'approval',
  } as const;
  const waitingOn =
    record.status === 'active'
      ? [
          ...notes.map((note) => `${words[note.kind]} ${note.what.slice(0, whatMax)}`),
          ...(record.machine === 'agent' ? [] : alsoOf(record)),
        ].join(', ')
      : '';
  return {
    session: record.session,
    tenant: record.tenant,
    agent: record.agent,
    task: record.task,
    status: record.status,
    state: stateName(record),
    version: record.version,
    waitingOn: waitingOn || (record.status === 'active' ? timerOf(record) : ''),
    since: notes[0]?.since ?? record.changedAt,
    startedAt: record.startedAt,
    changedAt: record.changedAt,
    steps: spent?.steps ?? 0,
    toolCalls: spent?.toolCalls ?? 0,
    tokens: spent?.tokens ?? 0,
    costMicros: spent?.costMicros ?? 0,
    ...(record.reason ? { reason: record.reason } : {}),
  };
}
