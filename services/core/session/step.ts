/**
 * The step: record and message in, record and effects out. Pure: no clock, no chance, no I/O.
 *
 * P1  The same record, message and bundle give the same step, so `state = fold(step, mailbox)`.
 * P2  A message at or before the record's position, or a result for an effect that is not pending, changes nothing.
 * P3  Every effect that stays pending has a deadline, and a wake after it answers it: no session waits for ever.
 * P4  When a session ends, nothing of it is left pending.
 */
import type { AnyMachineSnapshot, AnyStateMachine } from 'xstate';
import { nothing } from '../budget/budget.ts';
import { assertNever, Refused, UnderstudyError } from '../errors.ts';
import type { SessionId, TenantId } from '../ids.ts';
import { own } from '../keyed.ts';
import { limits } from '../limits.ts';
import type { Failure } from '../tools/job.ts';
import { agentMachineVersion } from './agent-machine.ts';
import {
  applyToAgent,
  beginAgent,
  failCall,
  limitsFor,
  sendToAgent,
  startNext,
} from './agent-session.ts';
import { planApproval } from './approvals.ts';
import { behaviourOf, currentBehaviour } from './behaviour.ts';
import {
  cancel,
  contextOf,
  type Definition,
  type Draft,
  emit,
  end,
  type Incoming,
  liveOf,
  ownDriverFor,
  refuseTask,
  type Step,
  settle,
  stateName,
  surroundingsOf,
} from './draft.ts';
import type { Effect } from './effects.ts';
import { fired } from './machine-actions.ts';
import { revived } from './machine-state.ts';
import { unperformable } from './machine-walk.ts';
import type { Message, MessageOf } from './messages.ts';
import { planModelCall } from './model-call.ts';
import { freshBudget } from './pipeline-budget.ts';
import { answerInvoke, applyToPipeline, inputOf, movePipeline } from './pipeline-session.ts';
import { comparePositions, isEnded, recordSchemaVersion, type SessionRecord } from './record.ts';
import { type Due, dueOf, isControl, seen, unheard, whySeen } from './seen.ts';
import type { Bundle } from './specs.ts';

/**
 * Apply one message to a session.
 *
 * @param live  the machine's snapshot as the last step left it, if it is still in memory: spares a restore
 * @throws Refused when the message cannot begin a session
 */
export function step(
  record: SessionRecord | undefined,
  incoming: Incoming,
  definition: Definition,
  address: { tenant: TenantId; session: SessionId },
  live?: AnyMachineSnapshot,
): Step {
  const { message, at, position } = incoming;
  if (record && comparePositions(position, record.position) <= 0)
    return seen('applied-before', 'applied before');
  if (!record) {
    if (message.kind === 'halt' && message.child) {
      return beginHalted(message, message.child, incoming, definition, address);
    }
    if (message.kind === 'event') throw unheard(address.session, message.from);
    if (message.kind !== 'task')
      throw new Refused(
        'NO_SESSION',
        `session ${address.session} does not exist, and a ${message.kind} cannot begin it`,
      );
    return begin(message, incoming, definition, address);
  }
  const passed = whySeen(record, message, at);
  if (passed) return passed;

  const draft: Draft = {
    record: { ...record, version: record.version + 1, position },
    live,
    entries: [],
    effects: [],
    settled: [],
    choices: [],
    details: {},
    around: surroundingsOf(record, at, definition),
    definition,
  };
  const from = stateName(record);
  apply(draft, message, at);
  return finish(draft, message, from, at);
}

/**
 * Park a session that cannot step: a person looks at it, and resumes or halts it.
 *
 * @param behaviour  of its bundle; left out where that cannot be loaded
 * @param isHeld  keep the message for after the resume, because it is not the message that is at fault
 * @throws Refused when the message would have to be kept: DEFERRED_FULL where there is no room,
 *         SESSION_ENDED for a task that came after the end
 */
export function park(
  record: SessionRecord,
  { message, at, position }: Incoming,
  error: unknown,
  address: { tenant: TenantId; session: SessionId },
  isHeld = false,
  behaviour: number = currentBehaviour,
): Step {
  if (comparePositions(position, record.position) <= 0)
    return seen('applied-before', 'applied before');
  const keeps = isHeld && !isControl(message);
  const passed = keeps ? whySeen(record, message, at) : undefined;
  if (passed) return passed;
  if (isEnded(record)) return seen('session-ended', `the session has ${record.status}`);
  if (keeps) mustFit(record, message, currentBehaviour, limits.parkedMax);
  const code = error instanceof UnderstudyError ? error.code : 'STEP_CRASHED';
  const deferred = keeps ? [...record.deferred, { message, at }] : record.deferred;
  // Deadlines stand still from the pause on, if it was paused when it was parked.
  const stands = record.status === 'parked' || (behaviour >= 2 && record.status === 'paused');
  const from = stateName(record);
  return {
    kind: 'applied',
    record: {
      ...record,
      session: address.session,
      version: record.version + 1,
      position,
      status: 'parked',
      deferred,
      reason: `${code}: ${error instanceof Error ? error.message.slice(0, 200) : 'crashed'}`,
      changedAt: stands ? record.changedAt : at,
    },
    entries: [],
    effects: [],
    settled: [],
    happened: { kind: 'parked', from, to: 'parked', choices: [], details: { code } },
    live: undefined,
  };
}

/**
 * End a session whose definition cannot be loaded: an end decides nothing that it would need.
 *
 * @param behaviour  of its bundle, as far as it is known
 */
export function haltWithout(
  record: SessionRecord,
  incoming: Incoming,
  behaviour: number = currentBehaviour,
  address: { tenant: TenantId; session: SessionId },
): Step {
  const bundle = { tools: {}, agents: {}, models: [], behaviour } as unknown as Bundle;
  return step(record, incoming, { bundle, machine: undefined }, address);
}

/** Its parent's halt came before its first task: it begins halted, and the task finds it so. */
function beginHalted(
  message: MessageOf<'halt'>,
  { agent, revision, task, parent }: NonNullable<MessageOf<'halt'>['child']>,
  { at, position }: Incoming,
  definition: Definition,
  address: { tenant: TenantId; session: SessionId },
): Step {
  const reason = `halted by ${message.actor}${message.reason ? `: ${message.reason}` : ''}`;
  const record: SessionRecord = {
    ...recordOf(definition, address),
    agent,
    revision,
    task,
    isKeyed: false,
    parent,
    version: 1,
    position,
    status: 'halted',
    value: 'halted',
    context: {},
    reason,
    startedAt: at,
    changedAt: at,
    length: 0,
    pending: {},
    timers: {},
    deferred: [],
  };
  const reply: Effect = {
    kind: 'reply',
    task,
    outcome: 'halted',
    output: '',
    reason,
    parent,
    spent: nothing,
  };
  return {
    kind: 'applied',
    record,
    entries: [],
    effects: [reply],
    settled: [],
    happened: {
      kind: 'halt-asked',
      from: 'none',
      to: 'halted',
      choices: [],
      details: { actor: message.actor },
    },
    live: undefined,
  };
}

const recordOf = (
  { machine }: Definition,
  { tenant, session }: { tenant: TenantId; session: SessionId },
): Pick<SessionRecord, 'schema' | 'machine' | 'machineVersion' | 'session' | 'tenant'> => ({
  schema: recordSchemaVersion,
  machine: machine ? `xstate:${machine.id}` : 'agent',
  machineVersion: machine ? Number.parseInt(machine.version ?? '1', 10) || 1 : agentMachineVersion,
  session,
  tenant,
});

function begin(
  message: MessageOf<'task'>,
  { at, position }: Incoming,
  definition: Definition,
  address: { tenant: TenantId; session: SessionId },
): Step {
  const { machine } = definition;
  const budget = limitsFor(definition, message);
  const hasBudget = machine !== undefined && behaviourOf(definition.bundle) >= 2;
  const record: SessionRecord = {
    ...recordOf(definition, address),
    agent: message.agent,
    revision: message.revision,
    task: message.task,
    isKeyed: message.isKeyed,
    ...(message.parent ? { parent: message.parent } : {}),
    ...(message.traceparent ? { traceparent: message.traceparent } : {}),
    version: 1,
    position,
    status: 'active',
    value: 'idle',
    context: {},
    startedAt: at,
    changedAt: at,
    length: 0,
    pending: {},
    timers: { wall: { dueAt: at + budget.wallClockMs } },
    ...(hasBudget ? { budget: freshBudget(budget) } : {}),
    deferred: [],
  };
  const draft: Draft = {
    record,
    live: undefined,
    entries: [],
    effects: [],
    settled: [],
    choices: [],
    details: { task: message.task },
    around: { ...surroundingsOf(record, at, definition), version: 1 },
    definition,
  };
  if (machine) {
    mustBePerformable(machine, definition);
    movePipeline(draft, ownDriverFor(definition).initial(inputOf(message.input)));
  } else {
    beginAgent(draft, message, budget);
  }
  return finish(draft, message, 'none', at);
}

const walked = new WeakMap<AnyStateMachine, readonly string[]>();

/** @throws Refused (MACHINE_UNSUPPORTED) before anything of it runs */
function mustBePerformable(machine: AnyStateMachine, { bundle }: Definition): void {
  if (behaviourOf(bundle) < 4) return;
  let flaws = walked.get(machine);
  if (!flaws) {
    flaws = unperformable(machine);
    walked.set(machine, flaws);
  }
  if (flaws.length > 0) throw new Refused('MACHINE_UNSUPPORTED', flaws.join('; ').slice(0, 2_000));
}

function apply(draft: Draft, message: Message, at: number): void {
  const { record } = draft;
  if ((record.status === 'paused' || record.status === 'parked') && !isControl(message)) {
    mustFit(record, message, behaviourOf(draft.definition.bundle));
    draft.record = { ...record, deferred: [...record.deferred, { message, at }] };
    return;
  }
  switch (message.kind) {
    case 'pause':
      draft.record = {
        ...record,
        status: 'paused',
        reason: `paused by ${message.actor}${message.reason ? `: ${message.reason}` : ''}`,
      };
      draft.details = { actor: message.actor };
      return;
    case 'resume':
      draft.details = { actor: message.actor };
      resume(draft, at);
      return;
    case 'halt':
      draft.details = { actor: message.actor };
      end(
        draft,
        'halted',
        `halted by ${message.actor}${message.reason ? `: ${message.reason}` : ''}`,
      );
      return;
    case 'wake':
      for (const due of dueOf(record, at)) {
        if (isEnded(draft.record)) return;
        expire(draft, due);
        startNext(draft);
      }
      return;
    default:
      if (draft.record.machine !== 'agent') return applyToPipeline(draft, message);
      if (message.kind === 'event') return; // an agent listens to none: whySeen has said so
      applyToAgent(draft, message, at);
      startNext(draft);
  }
}

/**
 * A session that stands still keeps what comes for later. Results are never counted: there are no
 * more of them than effects that are pending.
 *
 * @throws Refused (DEFERRED_FULL)
 */
function mustFit(
  { session, status, deferred }: SessionRecord,
  message: Message,
  behaviour: number,
  max: number = limits.deferredMax,
) {
  const isResult = ({ kind }: Message) =>
    kind === 'modelReplied' ||
    kind === 'modelFailed' ||
    kind === 'toolReturned' ||
    kind === 'toolFailed' ||
    kind === 'agentEnded';
  if (behaviour >= 2 && isResult(message)) return;
  const kept =
    behaviour >= 2 ? deferred.filter(({ message: one }) => !isResult(one)).length : deferred.length;
  const bytes = [...deferred.map(({ message: one }) => one), message].reduce(
    (sum, one) => sum + bytesOf(one),
    0,
  );
  const fits = behaviour < 2 || bytes <= limits.deferredBytesMax;
  if (kept < max && fits) return;
  const most = fits ? `${max} messages` : `tasks of ${limits.deferredBytesMax} bytes`;
  throw new Refused('DEFERRED_FULL', `session ${session} is ${status} and keeps ${most} already`);
}

/** What others wrote into a message that is kept: characters of it. */
function bytesOf(message: Message): number {
  if (message.kind === 'task') return message.input.length;
  return message.kind === 'event' ? JSON.stringify(message.event).length : 0;
}

/** Go on: deadlines stood still meanwhile, a failed model call is made again, and what was kept is heard now. */
function resume(draft: Draft, at: number): void {
  const { reason: _, ...record } = draft.record;
  const stoodMs = at - record.changedAt;
  const later = <Dated extends object>(
    all: Readonly<Record<string, Dated>>,
    field: keyof Dated,
  ): Record<string, Dated> =>
    Object.fromEntries(
      Object.entries(all).map(([id, one]) => [
        id,
        { ...one, [field]: (one[field] as number) + stoodMs },
      ]),
    );
  draft.record = {
    ...record,
    status: 'active',
    deferred: [],
    pending: later(record.pending, 'deadlineAt'),
    timers: later(record.timers, 'dueAt'),
  };
  const { retry } = draft.record.machine === 'agent' ? contextOf(draft) : { retry: undefined };
  if (retry) {
    const { retry: _retry, ...context } = contextOf(draft);
    const planned = planModelCall(context, draft.around, retry);
    draft.live = {
      ...liveOf(draft),
      context: planned.ok ? planned.context : context,
    } as AnyMachineSnapshot;
    if (planned.ok) emit(draft, [planned.effect]);
    else {
      end(draft, 'failed', `${planned.code}: ${planned.reason}`);
      startNext(draft);
    }
  }
  for (const deferred of record.deferred) {
    try {
      if (whySeen(draft.record, deferred.message, at)) continue;
      apply(draft, deferred.message, at);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      refuseTask(draft, deferred.message, `${error.code}: ${error.message}`);
    }
  }
}

function expire(draft: Draft, due: Due): void {
  const { record } = draft;
  if (due.kind === 'timer') {
    const timer = record.timers[due.id];
    // It may have been set anew since it was found due.
    if (!timer || timer.dueAt !== due.dueAt) return;
    draft.record = { ...record, timers: fired(record.timers, due.id) };
    if (due.id === 'wall')
      return end(draft, 'failed', 'LIMIT_WALLCLOCK: the session took longer than it is allowed to');
    if (timer.event) {
      const event = revived(structuredClone(timer.event), timer.forms) as { type: string };
      movePipeline(draft, ownDriverFor(draft.definition).transition(liveOf(draft), event));
    }
    return;
  }
  const note = record.pending[due.id];
  if (!note) return;
  if (note.kind === 'askHuman' && record.machine === 'agent') {
    settle(draft, due.id);
    sendToAgent(
      draft,
      'decided',
      planApproval(contextOf(draft), draft.around, {
        id: due.id,
        approved: false,
        actor: 'expiry',
        reason: 'nobody answered in time',
      }),
    );
    return;
  }
  const { bundle } = draft.definition;
  // A read that nobody made in time has changed nothing.
  const isPure = behaviourOf(bundle) >= 3 && own(bundle.tools, note.what)?.class === 'pure';
  const failure: Failure = {
    class: note.kind === 'runTool' && !isPure ? 'unknown' : 'permanent',
    code: 'DEADLINE',
    message: `${note.what} did not answer before its deadline`,
  };
  cancel(draft, [due.id]);
  if (record.machine === 'agent') failCall(draft, note, due.id, failure);
  else answerInvoke(draft, note, due.id, { ok: false, failure });
}

function finish(draft: Draft, message: Message, from: string, at: number): Step {
  const length = draft.record.length + draft.entries.length;
  const context =
    draft.record.machine === 'agent' && draft.live
      ? (draft.live.context as unknown as Record<string, unknown>)
      : draft.record.context;
  const moved = { ...draft.record, length, context };
  const to = stateName(moved);
  const record: SessionRecord = to === from ? moved : { ...moved, changedAt: at };
  return {
    kind: 'applied',
    record,
    entries: draft.entries,
    effects: draft.effects,
    settled: draft.settled,
    happened: {
      kind: happenedOf(message),
      from,
      to,
      choices: draft.choices,
      details: draft.details,
    },
    live: draft.live,
  };
}

/** The event's name, in the past tense. */
function happenedOf(message: Message): string {
  switch (message.kind) {
    case 'task':
      return 'task-received';
    case 'modelReplied':
      return 'model-replied';
    case 'modelFailed':
      return 'model-failed';
    case 'toolReturned':
      return 'tool-returned';
    case 'toolFailed':
      return 'tool-failed';
    case 'agentEnded':
      return 'agent-ended';
    case 'event':
      return 'event-heard';
    case 'wake':
      return 'timer-fired';
    case 'approve':
      return 'approved';
    case 'reject':
      return 'rejected';
    case 'pause':
      return 'paused';
    case 'resume':
      return 'resumed';
    case 'halt':
      return 'halt-asked';
    default:
      return assertNever(message);
  }
}
