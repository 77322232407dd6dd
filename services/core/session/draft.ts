/**
 * A step under way: the record as it becomes, and what has been wanted so far. What every session shares stands here,
 * whatever its machine: settling, cancelling and ending.
 */

import type { AnyMachineSnapshot, AnyStateMachine } from 'xstate';
import { add, nothing, type Spending } from '../budget/budget.ts';
import { assertNever } from '../errors.ts';
import type { AgentName, EffectId, Revision, TaskId } from '../ids.ts';
import { beginningWithin } from '../json.ts';
import { having, own, without } from '../keyed.ts';
import { limits } from '../limits.ts';
import { modelPool } from '../pools.ts';
import type { AgentContext } from './agent-context.ts';
import { agentMachine } from './agent-machine.ts';
import { behaviourOf } from './behaviour.ts';
import type { Entry } from './conversation.ts';
import { durableDriverOf } from './durable-machine.ts';
import { type Effect, isPending, type PendingEffect } from './effects.ts';
import { type Choice, driverOf, type MachineDriver } from './machine-host.ts';
import { revived } from './machine-state.ts';
import type { Message } from './messages.ts';
import type { Surroundings } from './plan.ts';
import {
  type PendingNote,
  type Position,
  type SessionRecord,
  tasksKept,
  tasksOf,
} from './record.ts';
import type { Seen } from './seen.ts';
import type { Bundle } from './specs.ts';
import { isFinal } from './status.ts';
import { closeOpenCalls } from './tool-calls.ts';

export interface Incoming {
  readonly message: Message;
  /** The broker's timestamp of the message, epoch ms: the only time a step knows. */
  readonly at: number;
  readonly position: Position;
}

/** What a session is made of besides its record. */
export interface Definition {
  readonly bundle: Bundle;
  /** The user's own machine, when the agent has one. */
  readonly machine?: AnyStateMachine | undefined;
}

/** What happened, for the event stream: no prompt, no tool output, only names and figures. */
export interface Happened {
  readonly kind: string;
  readonly from: string;
  readonly to: string;
  readonly choices: readonly Choice[];
  readonly details: Readonly<Record<string, unknown>>;
}

export type Step =
  | {
      readonly kind: 'applied';
      readonly record: SessionRecord;
      readonly entries: readonly Entry[];
      readonly effects: readonly Effect[];
      /** Effects that are pending no longer. */
      readonly settled: readonly string[];
      readonly happened: Happened;
      readonly live: AnyMachineSnapshot | undefined;
    }
  | Seen;

/** What a step changes as it goes. */
export interface Draft {
  record: SessionRecord;
  live: AnyMachineSnapshot | undefined;
  readonly entries: Entry[];
  readonly effects: Effect[];
  readonly settled: string[];
  readonly choices: Choice[];
  details: Record<string, unknown>;
  readonly around: Surroundings;
  readonly definition: Definition;
}

const drivers = new WeakMap<AnyStateMachine, MachineDriver>();

const durableDrivers = new WeakMap<AnyStateMachine, MachineDriver>();

export const driverFor = (machine: AnyStateMachine): MachineDriver => {
  let driver = drivers.get(machine);
  if (!driver) {
    driver = driverOf(machine, machine === agentMachine);
    drivers.set(machine, driver);
  }
  return driver;
};

/** The driver of a user's own machine: its bundle says what it can do. */
export const ownDriverFor = ({ machine, bundle }: Definition): MachineDriver => {
  if (behaviourOf(bundle) < 4) return driverFor(machine!);
  let driver = durableDrivers.get(machine!);
  if (!driver) {
    driver = durableDriverOf(machine!);
    durableDrivers.set(machine!, driver);
  }
  return driver;
};

export const stateName = (record: Pick<SessionRecord, 'status' | 'value'>): string =>
  record.status === 'active' || isFinal(record.status) ? nameOf(record.value) : record.status;

export const nameOf = (value: unknown): string =>
  typeof value === 'string'
    ? value
    : Object.entries(value as object)
        .map(([key, inner]) =>
          typeof inner === 'object' && Object.keys(inner ?? {}).length === 0
            ? key
            : `${key}.${nameOf(inner)}`,
        )
        .join('+');

export const surroundingsOf = (
  record: SessionRecord,
  at: number,
  definition: Definition,
): Surroundings => ({
  tenant: record.tenant,
  session: record.session,
  agent: record.agent,
  revision: record.revision,
  traceparent: record.traceparent,
  version: record.version + 1,
  at,
  bundle: definition.bundle,
  ids: { count: 0 },
});

export const contextOf = (draft: Draft): AgentContext => liveOf(draft).context as AgentContext;

export function liveOf(draft: Draft): AnyMachineSnapshot {
  if (!draft.live) {
    const { record, definition } = draft;
    const driver = record.machine === 'agent' ? driverFor(agentMachine) : ownDriverFor(definition);
    draft.live = driver.restore({
      value: record.value,
      context: revived(structuredClone(record.context), record.forms),
      history: record.history,
      output: record.output,
      children: record.children,
      stopped: record.stopped,
      nodes: record.nodes,
      waiting: new Set(Object.values(record.pending).map(({ invoke }) => invoke)),
    });
  }
  return draft.live;
}

export function emit(draft: Draft, effects: readonly Effect[]): void {
  for (const effect of effects) {
    draft.effects.push(effect);
    if (isPending(effect))
      draft.record = {
        ...draft.record,
        pending: having(draft.record.pending, effect.id, noteOf(effect, draft)),
      };
  }
}

function noteOf(effect: PendingEffect, draft: Draft): PendingNote {
  const since = draft.around.at;
  const { deadlineAt } = effect;
  switch (effect.kind) {
    case 'callModel':
      return {
        kind: 'callModel',
        what: draft.definition.bundle.models[0]?.name ?? 'model',
        since,
        deadlineAt,
      };
    case 'runTool':
      return { kind: 'runTool', what: effect.tool, pool: effect.pool, since, deadlineAt };
    case 'startAgent':
      return {
        kind: 'startAgent',
        what: effect.childAgent,
        child: effect.child,
        since,
        deadlineAt,
      };
    case 'askHuman':
      return { kind: 'askHuman', what: effect.tool, since, deadlineAt };
    default:
      return assertNever(effect);
  }
}

export function settle(draft: Draft, effect: string): void {
  if (!draft.record.pending[effect]) return;
  draft.record = { ...draft.record, pending: without(draft.record.pending, effect) };
  draft.settled.push(effect);
}

/** Tell performers that nobody waits for these any more. */
export function cancel(draft: Draft, ids: readonly string[]): void {
  const { pending } = draft.record;
  const pooled = ids.flatMap((id) => {
    const note = pending[id];
    if (note?.kind === 'callModel') return [{ id, pool: modelPool }];
    if (note?.kind !== 'runTool') return [];
    const effectClass = own(draft.definition.bundle.tools, note.what)?.class;
    const tool = effectClass ? { tool: note.what, class: effectClass } : { tool: note.what };
    return [{ id, pool: note.pool ?? 'tools', ...tool }];
  });
  if (pooled.length > 0) draft.effects.push({ kind: 'cancel', effects: pooled });
  for (const id of ids) {
    const note = pending[id];
    if (note?.kind === 'startAgent' && note.child)
      draft.effects.push({
        kind: 'haltChild',
        child: note.child,
        actor: draft.record.session,
        reason: 'the parent no longer waits',
        ...startOf(draft, id, note),
      });
  }
}

/** What would have begun a child: should the halt come first, it begins halted. */
function startOf(draft: Draft, id: string, note: PendingNote) {
  const { tenant, session } = draft.record;
  const agent = note.what as AgentName;
  const revision = own(draft.definition.bundle.agents, agent)?.revision as Revision | undefined;
  if (!revision) return {};
  const effect = id as EffectId;
  const task = id as string as TaskId;
  return { start: { agent, revision, task, parent: { tenant, session, effect } } };
}

/** A task that cannot be done gets its answer all the same, and an event that nobody hears its letter. */
export function refuseTask(draft: Draft, message: Message, reason: string): void {
  if (message.kind === 'event') {
    const { id, from, event } = message;
    if (draft.record.heard?.includes(id)) return;
    draft.effects.push({ kind: 'unheard', id, from, event });
    return;
  }
  if (message.kind !== 'task') return;
  // It may have been kept twice: it is answered once.
  const isAnswered = draft.effects.some(
    (effect) => effect.kind === 'reply' && effect.task === message.task,
  );
  if (isAnswered) return;
  answerUnbegun(draft, message, 'failed', reason);
}

/** A task that never began is answered, and known from then on: a repeat gets no second answer. */
function answerUnbegun(
  draft: Draft,
  {
    task,
    parent,
  }: { readonly task: TaskId; readonly parent?: SessionRecord['parent'] | undefined },
  outcome: 'completed' | 'failed' | 'halted',
  reason: string,
): void {
  draft.effects.push({ kind: 'reply', task, outcome, output: '', reason, parent, spent: nothing });
  const { record } = draft;
  if (behaviourOf(draft.definition.bundle) < 3 || tasksOf(record).includes(task)) return;
  draft.record = {
    ...record,
    tasksBefore: [task, ...(record.tasksBefore ?? [])].slice(0, tasksKept),
  };
}

/**
 * An answer that no message could carry would never leave; what is cut is said. Measured is its
 * JSON, as it is sent: up to six times the text.
 *
 * @param isEncoded  false: the text itself is measured (behaviour 1)
 */
export function cutAnswer(text: string, isEncoded = true): string {
  const bytes = Buffer.byteLength(text);
  if (isEncoded) {
    if (text.length * 6 <= limits.answerBytesMax) return text;
    const kept = beginningWithin(text, limits.answerBytesMax);
    return kept.length === text.length ? text : `${kept} [cut: ${bytes} bytes]`;
  }
  if (bytes <= limits.answerBytesMax) return text;
  return `${Buffer.from(text)
    .subarray(0, limits.answerBytesMax)
    .toString('utf8')
    .replace(/\uFFFD+$/, '')} [cut: ${bytes} bytes]`;
}

const isIdle = ({ machine, isKeyed, value }: SessionRecord): boolean =>
  machine === 'agent' && isKeyed && nameOf(value) === 'idle';

const spentBy = ({ budget }: SessionRecord, context: AgentContext | undefined): Spending => {
  if (context) return add(context.spent, context.reserved);
  if (!budget) return nothing;
  return Object.values(budget.held).reduce(add, budget.spent);
};

export function end(
  draft: Draft,
  outcome: 'completed' | 'failed' | 'halted',
  reason: string | undefined,
  output?: unknown,
): void {
  const { record } = draft;
  const open = Object.keys(record.pending);
  cancel(draft, open);
  for (const id of open) settle(draft, id);
  const context = record.machine === 'agent' ? contextOf(draft) : undefined;
  const isEncoded = behaviourOf(draft.definition.bundle) >= 2;
  const whole =
    typeof output === 'string' ? output : output === undefined ? '' : JSON.stringify(output);
  const text = cutAnswer(whole, isEncoded);
  const goesOn = record.isKeyed && record.machine === 'agent' && outcome !== 'halted';
  if (goesOn && context) {
    // A model that is asked again wants an answer to every call it made.
    const closed = closeOpenCalls(context);
    draft.live = { ...liveOf(draft), context: closed.context } as AnyMachineSnapshot;
    draft.entries.push(...closed.entries);
  }
  // The last task of an idle virtual actor has been answered.
  if (!isIdle(record)) {
    draft.effects.push({
      kind: 'reply',
      task: draft.record.task,
      outcome,
      output: text,
      reason,
      parent: draft.record.parent,
      // What is still out may have been spent, or may be yet: nobody will hear of it, so it counts as spent.
      spent: spentBy(record, context),
    });
  }
  const { reason: _r, output: _o, ...rest } = draft.record;
  const { wall: _w, ...timers } = rest.timers;
  draft.record = {
    ...rest,
    timers: goesOn ? timers : {},
    deferred: [],
    ...(goesOn
      ? {}
      : {
          status: outcome,
          ...(outcome === 'completed' ? {} : { value: outcome }),
          ...(reason ? { reason } : {}),
          ...(text ? { output: text } : {}),
        }),
  };
  if (!goesOn || !context) {
    for (const { message } of record.deferred)
      refuseTask(draft, message, 'the session ended before this task began');
    for (const queued of context?.queue ?? [])
      answerUnbegun(draft, queued, outcome, 'the session ended before this task began');
    if (context && behaviourOf(draft.definition.bundle) >= 3)
      draft.live = {
        ...liveOf(draft),
        context: { ...contextOf(draft), queue: [] },
      } as AnyMachineSnapshot;
    return;
  }
  // A keyed session is a virtual actor: it goes back to idle; `startNext` goes on with the next task that waits.
  const idle: AgentContext = { ...contextOf(draft), calls: {}, approvals: {}, reserved: nothing };
  draft.live = driverFor(agentMachine).restore({ value: 'idle', context: idle });
  draft.record = { ...draft.record, value: 'idle', parent: undefined };
}
