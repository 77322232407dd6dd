/**
 * The step: record and message in, record and effects out. Pure: no clock, no chance, no I/O.
 *
 * P1  The same record, message and bundle give the same step, so `state = fold(step, mailbox)`.
 * P2  A message at or before the record's position, or a result for an effect that is not pending, changes nothing.
 * P3  Every effect that stays pending has a deadline, and a wake after it answers it: no session waits for ever.
 * P4  When a session ends, nothing of it is left pending.
 */
import type { AnyMachineSnapshot, AnyStateMachine } from 'xstate';
import { type BudgetLimits, limitsSchema, nothing } from '../budget/budget.ts';
import { assertNever, Refused } from '../errors.ts';
import type { AgentName, Revision, SessionId, TaskId, TenantId } from '../ids.ts';
import { limits } from '../limits.ts';
import type { Failure } from '../tools/job.ts';
import type { AgentContext } from './agent-context.ts';
import { type AgentEvent, agentMachine, agentMachineVersion } from './agent-machine.ts';
import {
  append,
  closeOpenCalls,
  isContextFull,
  type ModelCallPlan,
  type Plan,
  planApproval,
  planEscalation,
  planModelCall,
  planReply,
  planResult,
  planSummary,
  type Surroundings,
  settleModelCall,
} from './agent-plan.ts';
import type { Entry } from './conversation.ts';
import { type Effect, isPending, type PendingEffect } from './effects.ts';
import { type Choice, driverOf, type MachineDriver, type Transitioned } from './machine-host.ts';
import type { Message, MessageOf } from './messages.ts';
import { type PipelineStep, readTransition } from './pipeline.ts';
import { comparePositions, isEnded, type PendingNote, type Position, recordSchemaVersion, type SessionRecord, tasksOf } from './record.ts';
import type { Bundle } from './specs.ts';

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
  | { readonly kind: 'seen'; readonly why: string };

const drivers = new WeakMap<AnyStateMachine, MachineDriver>();
const driverFor = (machine: AnyStateMachine): MachineDriver => {
  let driver = drivers.get(machine);
  if (!driver) {
    driver = driverOf(machine);
    drivers.set(machine, driver);
  }
  return driver;
};

export const stateName = (record: Pick<SessionRecord, 'status' | 'value'>): string => (record.status === 'active' || isFinal(record.status) ? nameOf(record.value) : record.status);
const isFinal = (status: SessionRecord['status']) => status === 'completed' || status === 'failed' || status === 'halted';
const nameOf = (value: unknown): string =>
  typeof value === 'string'
    ? value
    : Object.entries(value as object)
        .map(([key, inner]) => (typeof inner === 'object' && Object.keys(inner ?? {}).length === 0 ? key : `${key}.${nameOf(inner)}`))
        .join('+');

/** What a step changes as it goes. */
interface Draft {
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
  if (record && comparePositions(position, record.position) <= 0) return { kind: 'seen', why: 'applied before' };
  if (!record) {
    if (message.kind !== 'task') throw new Refused('NO_SESSION', `session ${address.session} does not exist, and a ${message.kind} cannot begin it`);
    return begin(message, incoming, definition, address);
  }
  const refusal = refuses(record, message, at);
  if (refusal) return { kind: 'seen', why: refusal };

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
 * @param isHeld  keep the message for after the resume, because it is not the message that is at fault
 */
export function park(record: SessionRecord, { message, at, position }: Incoming, error: unknown, address: { tenant: TenantId; session: SessionId }, isHeld = false): Step {
  if (comparePositions(position, record.position) <= 0) return { kind: 'seen', why: 'applied before' };
  if (isEnded(record)) return { kind: 'seen', why: `the session has ${record.status}` };
  const code = error instanceof Refused ? error.code : 'STEP_CRASHED';
  const deferred = isHeld && !isControl(message) && record.deferred.length < limits.deferredMax ? [...record.deferred, { message, at }] : record.deferred;
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
      changedAt: record.status === 'parked' ? record.changedAt : at,
    },
    entries: [],
    effects: [],
    settled: [],
    happened: { kind: 'parked', from, to: 'parked', choices: [], details: { code } },
    live: undefined,
  };
}

const surroundingsOf = (record: SessionRecord, at: number, definition: Definition): Surroundings => ({
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

/** Why a message changes nothing, if it does not. */
function refuses(record: SessionRecord, message: Message, at: number): string | undefined {
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

// ---- beginning --------------------------------------------------------------------------------

function begin(message: MessageOf<'task'>, { at, position }: Incoming, definition: Definition, address: { tenant: TenantId; session: SessionId }): Step {
  const { bundle, machine } = definition;
  const budget: BudgetLimits = limitsSchema.parse({ ...bundle.agent.limits, ...message.limits });
  const record: SessionRecord = {
    schema: recordSchemaVersion,
    machine: machine ? `xstate:${machine.id}` : 'agent',
    machineVersion: machine ? Number.parseInt(machine.version ?? '1', 10) || 1 : agentMachineVersion,
    session: address.session,
    tenant: address.tenant,
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
    movePipeline(draft, driverFor(machine).initial(inputOf(message.input)));
  } else {
    const driver = driverFor(agentMachine);
    const context: AgentContext = { ...freshContext, task: message.task, parent: message.parent, limits: budget };
    draft.live = driver.initial(context).snapshot;
    takeTask(draft, message.input);
  }
  return finish(draft, message, 'none', at);
}

/** A pipeline's input is JSON where it can be read as such. */
function inputOf(input: string): unknown {
  try {
    return JSON.parse(input);
  } catch {
    return input;
  }
}

/** Tasks a keyed session remembers; a repeat that comes later than so many others is taken for new. */
const tasksKept = 256;

const freshContext: AgentContext = {
  task: '' as TaskId,
  queue: [],
  limits: limitsSchema.parse({}),
  spent: nothing,
  reserved: nothing,
  from: 0,
  length: 0,
  seenTokens: 0,
  bytesAfter: 0,
  messagesAfter: 0,
  calls: {},
  approvals: {},
  repeats: {},
  succeeded: 0,
  failures: 0,
  malformed: 0,
};

function takeTask(draft: Draft, input: string): void {
  const entry: Entry = { role: 'user', content: input };
  const { outcome: _o, reason: _r, output: _t, ...context } = contextOf(draft);
  sendToAgent(draft, 'task', { context: append({ ...context, repeats: {}, failures: 0, malformed: 0 }, [entry]), entries: [entry], effects: [] });
}

// ---- one message ------------------------------------------------------------------------------

function apply(draft: Draft, message: Message, at: number): void {
  const { record } = draft;
  if ((record.status === 'paused' || record.status === 'parked') && !isControl(message)) {
    if (record.deferred.length >= limits.deferredMax)
      throw new Refused('DEFERRED_FULL', `session ${record.session} is ${record.status} and keeps ${limits.deferredMax} messages already`);
    draft.record = { ...record, deferred: [...record.deferred, { message, at }] };
    return;
  }
  switch (message.kind) {
    case 'pause':
      draft.record = { ...record, status: 'paused', reason: `paused by ${message.actor}${message.reason ? `: ${message.reason}` : ''}` };
      draft.details = { actor: message.actor };
      return;
    case 'resume':
      draft.details = { actor: message.actor };
      resume(draft, at);
      return;
    case 'halt':
      draft.details = { actor: message.actor };
      end(draft, 'halted', `halted by ${message.actor}${message.reason ? `: ${message.reason}` : ''}`);
      return;
    case 'wake':
      for (const due of dueOf(record, at)) {
        if (isEnded(draft.record)) return;
        expire(draft, due);
      }
      return;
    default:
      if (draft.record.machine === 'agent') applyToAgent(draft, message, at);
      else applyToPipeline(draft, message);
  }
}

/** Go on: deadlines stood still meanwhile, a failed model call is made again, and what was kept is heard now. */
function resume(draft: Draft, at: number): void {
  const { reason: _, ...record } = draft.record;
  const stoodMs = at - record.changedAt;
  const later = <Dated extends object>(all: Readonly<Record<string, Dated>>, field: keyof Dated): Record<string, Dated> =>
    Object.fromEntries(Object.entries(all).map(([id, one]) => [id, { ...one, [field]: (one[field] as number) + stoodMs }]));
  draft.record = { ...record, status: 'active', deferred: [], pending: later(record.pending, 'deadlineAt'), timers: later(record.timers, 'dueAt') };
  const { retry } = draft.record.machine === 'agent' ? contextOf(draft) : { retry: undefined };
  if (retry) {
    const { retry: _retry, ...context } = contextOf(draft);
    const planned = planModelCall(context, draft.around, retry);
    if (!planned.ok) return end(draft, 'failed', `${planned.code}: ${planned.reason}`);
    draft.live = { ...liveOf(draft), context: planned.context } as AnyMachineSnapshot;
    emit(draft, [planned.effect]);
  }
  for (const deferred of record.deferred) {
    if (refusalOf(draft.record, deferred.message, at) !== undefined) continue;
    try {
      apply(draft, deferred.message, at);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      refuseTask(draft, deferred.message, `${error.code}: ${error.message}`);
    }
  }
}

/** What `refuses` says, with a refusal in words too: a kept message must not stop the others. */
function refusalOf(record: SessionRecord, message: Message, at: number): string | undefined {
  try {
    return refuses(record, message, at);
  } catch (error) {
    if (error instanceof Refused) return error.message;
    throw error;
  }
}

/** A task that cannot be done gets its answer all the same. */
function refuseTask(draft: Draft, message: Message, reason: string): void {
  if (message.kind !== 'task') return;
  draft.effects.push({ kind: 'reply', task: message.task, outcome: 'failed', output: '', reason, parent: message.parent, spent: nothing });
}

const isControl = (message: Message) => message.kind === 'pause' || message.kind === 'resume' || message.kind === 'halt';

type Due = { readonly kind: 'timer' | 'effect'; readonly id: string; readonly dueAt: number };

/** What is due at a time, earliest first. A paused session's deadlines stand still until it is resumed. */
function dueOf(record: SessionRecord, at: number): Due[] {
  const due: Due[] = [];
  for (const [id, { dueAt }] of Object.entries(record.timers)) if (dueAt <= at) due.push({ kind: 'timer', id, dueAt });
  for (const [id, { deadlineAt }] of Object.entries(record.pending)) if (deadlineAt <= at) due.push({ kind: 'effect', id, dueAt: deadlineAt });
  return due.sort((left, right) => left.dueAt - right.dueAt || (left.id < right.id ? -1 : 1));
}

function expire(draft: Draft, due: Due): void {
  const { record } = draft;
  if (due.kind === 'timer') {
    const timer = record.timers[due.id];
    // It may have been set anew since it was found due.
    if (!timer || timer.dueAt !== due.dueAt) return;
    const { [due.id]: _, ...timers } = record.timers;
    draft.record = { ...record, timers };
    if (due.id === 'wall') return end(draft, 'failed', 'LIMIT_WALLCLOCK: the session took longer than it is allowed to');
    if (timer.event) movePipeline(draft, driverFor(draft.definition.machine!).transition(liveOf(draft), timer.event as { type: string }));
    return;
  }
  const note = record.pending[due.id];
  if (!note) return;
  if (note.kind === 'askHuman' && record.machine === 'agent') {
    settle(draft, due.id);
    sendToAgent(draft, 'decided', planApproval(contextOf(draft), draft.around, { id: due.id, approved: false, actor: 'expiry', reason: 'nobody answered in time' }));
    return;
  }
  const failure: Failure = {
    class: note.kind === 'runTool' ? 'unknown' : 'permanent',
    code: 'DEADLINE',
    message: `${note.what} did not answer before its deadline`,
  };
  cancel(draft, [due.id]);
  if (record.machine === 'agent') failCall(draft, note, due.id, failure);
  else answerInvoke(draft, note, due.id, { ok: false, failure });
}

function failCall(draft: Draft, note: PendingNote, effect: string, failure: Failure): void {
  settle(draft, effect);
  const context = contextOf(draft);
  if (note.kind === 'callModel') {
    if (draft.definition.bundle.agent.onModelFailure === 'pause' && failure.code !== 'DEADLINE') return pauseForModel(draft, failure);
    sendToAgent(draft, 'modelFailed', { context: settleModelCall(context, undefined), entries: [], effects: [], stop: { code: failure.code, reason: failure.message } });
  } else {
    sendToAgent(draft, 'resulted', planResult(context, effect, { error: failure }, false));
  }
}

/** Every try and fallback failed, and the agent would rather wait than fail: the call is planned again on resume. */
function pauseForModel(draft: Draft, failure: Failure): void {
  const retry = nameOf(draft.record.value) === 'compacting' ? 'summary' : 'turn';
  draft.live = { ...liveOf(draft), context: { ...settleModelCall(contextOf(draft), undefined), retry } } as AnyMachineSnapshot;
  draft.record = { ...draft.record, status: 'paused', reason: `${failure.code}: ${failure.message}` };
}

// ---- the default agent ------------------------------------------------------------------------

function applyToAgent(draft: Draft, message: Exclude<Message, MessageOf<'pause' | 'resume' | 'halt' | 'wake'>>, at: number): void {
  const { around, record } = draft;
  const context = contextOf(draft);
  switch (message.kind) {
    case 'task':
      if (nameOf(record.value) === 'idle') {
        draft.record = {
          ...record,
          task: message.task,
          tasksBefore: tasksOf(record).slice(0, tasksKept),
          parent: message.parent,
          timers: { ...record.timers, wall: { dueAt: at + context.limits.wallClockMs } },
        };
        draft.live = { ...liveOf(draft), context: { ...context, task: message.task, parent: message.parent, spent: nothing, reserved: nothing } } as AnyMachineSnapshot;
        takeTask(draft, message.input);
        return;
      }
      if (context.queue.some((queued) => queued.task === message.task)) return;
      if (context.queue.length >= limits.queueMax) throw new Refused('QUEUE_FULL', `session ${record.session} has ${limits.queueMax} tasks waiting already`);
      draft.live = {
        ...liveOf(draft),
        context: { ...context, queue: [...context.queue, { task: message.task, input: message.input, parent: message.parent, at }] },
      } as AnyMachineSnapshot;
      return;
    case 'modelReplied': {
      settle(draft, message.effect);
      const { reply } = message;
      draft.details = {
        effect: message.effect,
        model: reply.model,
        promptTokens: reply.usage.promptTokens,
        completionTokens: reply.usage.completionTokens,
        costMicros: reply.costMicros,
        latencyMs: reply.latencyMs,
        attempts: reply.attempts,
        tools: reply.calls.map((call) => call.name.slice(0, 64)),
      };
      if (nameOf(record.value) === 'compacting') sendToAgent(draft, 'summarised', planSummary(context, reply, around));
      else sendToAgent(draft, 'replied', planReply(context, reply, around));
      return;
    }
    case 'modelFailed': {
      const note = record.pending[message.effect]!;
      draft.details = { effect: message.effect, code: message.failure.code, class: message.failure.class, attempts: message.attempts };
      failCall(draft, note, message.effect, message.failure);
      return;
    }
    case 'toolReturned':
      draft.details = {
        effect: message.effect,
        tool: record.pending[message.effect]?.what,
        outcome: 'ok',
        latencyMs: message.latencyMs,
        attempts: message.attempts,
        bytes: message.bytes,
        executor: message.executor,
      };
      settle(draft, message.effect);
      sendToAgent(draft, 'resulted', planResult(context, message.effect, message.value, true));
      return;
    case 'toolFailed':
      draft.details = {
        effect: message.effect,
        tool: record.pending[message.effect]?.what,
        outcome: message.failure.class,
        code: message.failure.code,
        latencyMs: message.latencyMs,
        attempts: message.attempts,
        executor: message.executor,
      };
      settle(draft, message.effect);
      sendToAgent(draft, 'resulted', planResult(context, message.effect, { error: message.failure }, false));
      return;
    case 'agentEnded':
      draft.details = { effect: message.effect, agent: record.pending[message.effect]?.what, outcome: message.outcome, costMicros: message.spent.costMicros };
      settle(draft, message.effect);
      sendToAgent(draft, 'resulted', planResult(context, message.effect, { outcome: message.outcome, output: message.output }, message.outcome === 'completed', message.spent));
      return;
    case 'approve':
    case 'reject':
      draft.details = { approval: message.approval, actor: message.actor, decision: message.kind, tool: context.approvals[message.approval]?.tool };
      settle(draft, message.approval);
      sendToAgent(
        draft,
        'decided',
        planApproval(context, around, {
          id: message.approval,
          approved: message.kind === 'approve',
          actor: message.actor,
          reason: message.reason,
          edited: message.kind === 'approve' ? message.arguments : undefined,
        }),
      );
      return;
    default:
      assertNever(message);
  }
}

const contextOf = (draft: Draft): AgentContext => liveOf(draft).context as AgentContext;

function liveOf(draft: Draft): AnyMachineSnapshot {
  if (!draft.live) {
    const { record, definition } = draft;
    const driver = driverFor(record.machine === 'agent' ? agentMachine : definition.machine!);
    draft.live = driver.restore({ value: record.value, context: structuredClone(record.context), history: record.history, output: record.output });
  }
  return draft.live;
}

function sendToAgent(draft: Draft, type: AgentEvent['type'], plan: Plan): void {
  const { around } = draft;
  const { loop } = around.bundle.agent;
  let thought: ModelCallPlan | undefined;
  let summary: ModelCallPlan | undefined;
  let escalation: ReturnType<typeof planEscalation> | undefined;
  const event: AgentEvent = {
    type,
    plan,
    think: () => (thought ??= planModelCall(plan.context, around, 'turn')),
    isContextFull: () => isContextFull(plan.context, around),
    summarise: () => (summary ??= planModelCall(plan.context, around, 'summary')),
    escalate: (reason) => (escalation ??= planEscalation(plan.context, around, reason)),
    loop: { failuresMax: loop.failuresMax, escalates: loop.verdict === 'escalate' },
  };
  const before = draft.live ?? liveOf(draft);
  const moved = driverFor(agentMachine).transition(before, event as never);
  draft.live = moved.snapshot;
  draft.entries.push(...plan.entries);
  draft.choices.push(...moved.choices);
  for (const action of moved.actions) {
    if (action.type === 'perform') emit(draft, action.params as readonly Effect[]);
  }
  const context = moved.snapshot.context as AgentContext;
  draft.record = { ...draft.record, value: moved.snapshot.value };
  if (moved.snapshot.status !== 'active') end(draft, context.outcome === 'completed' ? 'completed' : 'failed', context.reason, context.output);
}

// ---- users' own machines ----------------------------------------------------------------------

function applyToPipeline(draft: Draft, message: Exclude<Message, MessageOf<'pause' | 'resume' | 'halt' | 'wake'>>): void {
  const { record } = draft;
  switch (message.kind) {
    case 'task':
      throw new Refused('SESSION_BUSY', `session ${record.session} runs a pipeline and takes one task only`);
    case 'approve':
      return answerInvoke(draft, record.pending[message.approval]!, message.approval, {
        ok: true,
        value: { approved: true, actor: message.actor, answer: message.arguments ?? message.reason },
      });
    case 'reject':
      return answerInvoke(draft, record.pending[message.approval]!, message.approval, { ok: true, value: { approved: false, actor: message.actor, answer: message.reason } });
    case 'modelReplied':
      draft.details = {
        effect: message.effect,
        model: message.reply.model,
        promptTokens: message.reply.usage.promptTokens,
        completionTokens: message.reply.usage.completionTokens,
        costMicros: message.reply.costMicros,
        latencyMs: message.reply.latencyMs,
      };
      return answerInvoke(draft, record.pending[message.effect]!, message.effect, { ok: true, value: message.reply.content });
    case 'toolReturned':
      draft.details = { effect: message.effect, tool: record.pending[message.effect]?.what, outcome: 'ok', latencyMs: message.latencyMs };
      return answerInvoke(draft, record.pending[message.effect]!, message.effect, { ok: true, value: message.value });
    case 'agentEnded':
      return answerInvoke(
        draft,
        record.pending[message.effect]!,
        message.effect,
        message.outcome === 'completed'
          ? { ok: true, value: message.output }
          : { ok: false, failure: { class: 'permanent', code: `AGENT_${message.outcome.toUpperCase()}`, message: message.output } },
      );
    case 'modelFailed':
    case 'toolFailed':
      draft.details = { effect: message.effect, outcome: message.failure.class, code: message.failure.code };
      return answerInvoke(draft, record.pending[message.effect]!, message.effect, { ok: false, failure: message.failure });
    default:
      return assertNever(message);
  }
}

function answerInvoke(draft: Draft, note: PendingNote, effect: string, answer: { ok: true; value: unknown } | { ok: false; failure: Failure }): void {
  settle(draft, effect);
  const id = note.invoke ?? '';
  const event = answer.ok ? { type: `xstate.done.actor.${id}`, output: answer.value, actorId: id } : { type: `xstate.error.actor.${id}`, error: answer.failure, actorId: id };
  movePipeline(draft, driverFor(draft.definition.machine!).transition(liveOf(draft), event as never));
}

function movePipeline(draft: Draft, moved: Transitioned): void {
  const { wall, ...timers } = draft.record.timers;
  let read: PipelineStep;
  try {
    read = readTransition(moved, { pending: draft.record.pending, timers }, draft.around);
  } catch (error) {
    // At its beginning the task is refused as a whole; later the session fails, or its next wake would fail the same way for ever.
    if (!(error instanceof Refused) || draft.record.version === 1) throw error;
    return end(draft, 'failed', `${error.code}: ${error.message}`);
  }
  // Children are remembered by us; a snapshot without them restores the same from JSON and from memory.
  draft.live = undefined;
  cancel(draft, read.cancelled);
  for (const id of read.cancelled) settle(draft, id);
  const { history: _, ...rest } = draft.record;
  draft.record = {
    ...rest,
    value: read.value,
    context: read.context,
    ...(read.history ? { history: read.history } : {}),
    timers: { ...(wall ? { wall } : {}), ...read.timers },
  };
  draft.choices.push(...moved.choices);
  for (const { effect, note } of read.started) {
    draft.effects.push(effect);
    draft.record = { ...draft.record, pending: { ...draft.record.pending, [effect.id]: note } };
  }
  if (read.status !== 'active') end(draft, read.status, read.reason, read.output);
}

// ---- what every session shares ----------------------------------------------------------------

function emit(draft: Draft, effects: readonly Effect[]): void {
  for (const effect of effects) {
    draft.effects.push(effect);
    if (isPending(effect)) draft.record = { ...draft.record, pending: { ...draft.record.pending, [effect.id]: noteOf(effect, draft) } };
  }
}

function noteOf(effect: PendingEffect, draft: Draft): PendingNote {
  const since = draft.around.at;
  const { deadlineAt } = effect;
  switch (effect.kind) {
    case 'callModel':
      return { kind: 'callModel', what: draft.definition.bundle.models[0]?.name ?? 'model', since, deadlineAt };
    case 'runTool':
      return { kind: 'runTool', what: effect.tool, pool: effect.pool, since, deadlineAt };
    case 'startAgent':
      return { kind: 'startAgent', what: effect.childAgent, child: effect.child, since, deadlineAt };
    case 'askHuman':
      return { kind: 'askHuman', what: effect.tool, since, deadlineAt };
    default:
      return assertNever(effect);
  }
}

function settle(draft: Draft, effect: string): void {
  if (!draft.record.pending[effect]) return;
  const { [effect]: _, ...pending } = draft.record.pending;
  draft.record = { ...draft.record, pending };
  draft.settled.push(effect);
}

/** Tell performers that nobody waits for these any more. */
function cancel(draft: Draft, ids: readonly string[]): void {
  const { pending } = draft.record;
  const pooled = ids.flatMap((id) => {
    const note = pending[id];
    if (note?.kind === 'callModel') return [{ id, pool: 'models' }];
    return note?.kind === 'runTool' ? [{ id, pool: note.pool ?? 'tools' }] : [];
  });
  if (pooled.length > 0) draft.effects.push({ kind: 'cancel', effects: pooled });
  for (const id of ids) {
    const note = pending[id];
    if (note?.kind === 'startAgent' && note.child) draft.effects.push({ kind: 'haltChild', child: note.child, actor: draft.record.session, reason: 'the parent no longer waits' });
  }
}

function end(draft: Draft, outcome: 'completed' | 'failed' | 'halted', reason: string | undefined, output?: unknown): void {
  const { record } = draft;
  const open = Object.keys(record.pending);
  cancel(draft, open);
  for (const id of open) settle(draft, id);
  const context = record.machine === 'agent' ? contextOf(draft) : undefined;
  const text = typeof output === 'string' ? output : output === undefined ? '' : JSON.stringify(output);
  const goesOn = record.isKeyed && record.machine === 'agent' && outcome !== 'halted';
  if (goesOn && context) {
    // A model that is asked again wants an answer to every call it made.
    const closed = closeOpenCalls(context);
    draft.live = { ...liveOf(draft), context: closed.context } as AnyMachineSnapshot;
    draft.entries.push(...closed.entries);
  }
  draft.effects.push({
    kind: 'reply',
    task: draft.record.task,
    outcome,
    output: text,
    reason,
    parent: draft.record.parent,
    spent: context?.spent ?? nothing,
  });
  const { reason: _r, output: _o, ...rest } = draft.record;
  const { wall: _w, ...timers } = rest.timers;
  draft.record = {
    ...rest,
    timers: goesOn ? timers : {},
    deferred: [],
    ...(goesOn ? {} : { status: outcome, ...(outcome === 'completed' ? {} : { value: outcome }), ...(reason ? { reason } : {}), ...(text ? { output: text } : {}) }),
  };
  if (!goesOn || !context) {
    for (const { message } of record.deferred) refuseTask(draft, message, 'the session ended before this task began');
    for (const queued of context?.queue ?? []) {
      draft.effects.push({ kind: 'reply', task: queued.task, outcome, output: '', reason: 'the session ended before this task began', parent: queued.parent, spent: nothing });
    }
    return;
  }
  // A keyed session is a virtual actor: it goes back to idle, and on with the next task that waits.
  const [next, ...queue] = contextOf(draft).queue;
  const idle: AgentContext = { ...contextOf(draft), calls: {}, approvals: {}, reserved: nothing, queue };
  draft.live = driverFor(agentMachine).restore({ value: 'idle', context: idle });
  draft.record = { ...draft.record, value: 'idle', parent: undefined };
  if (next)
    applyToAgent(
      draft,
      { kind: 'task', task: next.task, agent: record.agent as AgentName, revision: record.revision as Revision, input: next.input, isKeyed: true, parent: next.parent },
      draft.around.at,
    );
}

function finish(draft: Draft, message: Message, from: string, at: number): Step {
  const length = draft.record.length + draft.entries.length;
  const context = draft.record.machine === 'agent' && draft.live ? (draft.live.context as unknown as Record<string, unknown>) : draft.record.context;
  const moved = { ...draft.record, length, context };
  const to = stateName(moved);
  const record: SessionRecord = to === from ? moved : { ...moved, changedAt: at };
  return {
    kind: 'applied',
    record,
    entries: draft.entries,
    effects: draft.effects,
    settled: draft.settled,
    happened: { kind: happenedOf(message), from, to, choices: draft.choices, details: draft.details },
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
