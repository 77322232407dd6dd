/** A session of the default agent: what each message means to it, and how its machine is moved. */
import type { AnyMachineSnapshot } from 'xstate';
import { type BudgetLimits, limitsSchema, narrowed, nothing } from '../budget/budget.ts';
import { assertNever, Refused } from '../errors.ts';
import type { TaskId } from '../ids.ts';
import { limits } from '../limits.ts';
import type { Failure } from '../tools/job.ts';
import type { AgentContext } from './agent-context.ts';
import { type AgentEvent, agentMachine } from './agent-machine.ts';
import { planApproval, planEscalation } from './approvals.ts';
import { behaviourOf } from './behaviour.ts';
import type { Entry } from './conversation.ts';
import { decisionOf, recordDecision } from './decisions.ts';
import {
  contextOf,
  type Definition,
  type Draft,
  driverFor,
  emit,
  end,
  liveOf,
  nameOf,
  settle,
} from './draft.ts';
import type { Effect } from './effects.ts';
import type { Message, MessageOf } from './messages.ts';
import {
  isContextFull,
  type ModelCallPlan,
  paidForFailure,
  planModelCall,
  planSummary,
  settleModelCall,
} from './model-call.ts';
import { append, type Plan } from './plan.ts';
import { type PendingNote, tasksKept, tasksOf } from './record.ts';
import { planResult } from './tool-calls.ts';
import { planReply } from './turn.ts';

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

/** What a task may spend: the session's agent may be of an earlier revision than the one that let the task in. */
export const limitsFor = (
  { bundle }: Definition,
  { limits: asked = {} }: MessageOf<'task'>,
): BudgetLimits =>
  limitsSchema.parse({ ...bundle.agent.limits, ...narrowed(bundle.agent.limits, asked) });

/** The first task of a new session. */
export function beginAgent(draft: Draft, message: MessageOf<'task'>, limits: BudgetLimits): void {
  const context: AgentContext = {
    ...freshContext,
    task: message.task,
    parent: message.parent,
    limits,
  };
  draft.live = driverFor(agentMachine).initial(context).snapshot;
  takeTask(draft, message.input);
}

function takeTask(draft: Draft, input: string): void {
  const entry: Entry = { role: 'user', content: input };
  const { outcome: _o, reason: _r, output: _t, ...context } = contextOf(draft);
  sendToAgent(draft, 'task', {
    context: append({ ...context, repeats: {}, failures: 0, malformed: 0 }, [entry]),
    entries: [entry],
    effects: [],
  });
}

export function applyToAgent(
  draft: Draft,
  message: Exclude<Message, MessageOf<'pause' | 'resume' | 'halt' | 'wake' | 'event'>>,
  at: number,
): void {
  const { around, record } = draft;
  const context = contextOf(draft);
  switch (message.kind) {
    case 'task':
      if (nameOf(record.value) === 'idle') {
        const allowed = limitsFor(draft.definition, message);
        draft.record = {
          ...record,
          task: message.task,
          tasksBefore: tasksOf(record).slice(0, tasksKept),
          parent: message.parent,
          timers: { ...record.timers, wall: { dueAt: at + allowed.wallClockMs } },
        };
        draft.live = {
          ...liveOf(draft),
          context: {
            ...context,
            task: message.task,
            parent: message.parent,
            limits: allowed,
            spent: nothing,
            reserved: nothing,
          },
        } as AnyMachineSnapshot;
        takeTask(draft, message.input);
        return;
      }
      if (context.queue.some((queued) => queued.task === message.task)) return;
      if (context.queue.length >= limits.queueMax)
        throw new Refused(
          'QUEUE_FULL',
          `session ${record.session} has ${limits.queueMax} tasks waiting already`,
        );
      draft.live = {
        ...liveOf(draft),
        context: {
          ...context,
          queue: [
            ...context.queue,
            {
              task: message.task,
              input: message.input,
              parent: message.parent,
              limits: message.limits,
              at,
            },
          ],
        },
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
      if (nameOf(record.value) === 'compacting')
        sendToAgent(draft, 'summarised', planSummary(context, reply, around));
      else sendToAgent(draft, 'replied', planReply(context, reply, around));
      return;
    }
    case 'modelFailed': {
      const note = record.pending[message.effect]!;
      draft.details = {
        effect: message.effect,
        code: message.failure.code,
        class: message.failure.class,
        attempts: message.attempts,
      };
      const told = behaviourOf(around.bundle) >= 3 ? message : undefined;
      failCall(draft, note, message.effect, message.failure, told);
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
      sendToAgent(
        draft,
        'resulted',
        planResult(context, message.effect, { error: message.failure }, false),
      );
      return;
    case 'agentEnded':
      draft.details = {
        effect: message.effect,
        agent: record.pending[message.effect]?.what,
        outcome: message.outcome,
        costMicros: message.spent.costMicros,
      };
      settle(draft, message.effect);
      sendToAgent(
        draft,
        'resulted',
        planResult(
          context,
          message.effect,
          { outcome: message.outcome, output: message.output },
          message.outcome === 'completed',
          message.spent,
        ),
      );
      return;
    case 'approve':
    case 'reject':
      draft.details = decisionOf(message, context.approvals[message.approval]?.tool);
      recordDecision(draft, message, context.approvals[message.approval]?.tool ?? '', at);
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

/** A keyed session that has become idle goes on with the next task that waits, and with the one after it if that is refused at once. */
export function startNext(draft: Draft): void {
  while (
    draft.record.machine === 'agent' &&
    draft.record.status === 'active' &&
    nameOf(draft.record.value) === 'idle'
  ) {
    const { record, around } = draft;
    const [next, ...queue] = contextOf(draft).queue;
    if (!next) return;
    draft.live = {
      ...liveOf(draft),
      context: { ...contextOf(draft), queue },
    } as AnyMachineSnapshot;
    const { task, input, parent, limits: narrower } = next;
    applyToAgent(
      draft,
      {
        kind: 'task',
        task,
        agent: record.agent,
        revision: record.revision,
        input,
        isKeyed: true,
        parent,
        limits: narrower,
      },
      around.at,
    );
  }
}

export function sendToAgent(draft: Draft, type: AgentEvent['type'], plan: Plan): void {
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
    mustShorten: () => behaviourOf(around.bundle) >= 4 && isContextFull(plan.context, around),
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
  if (moved.snapshot.status !== 'active')
    end(
      draft,
      context.outcome === 'completed' ? 'completed' : 'failed',
      context.reason,
      context.output,
    );
}

/** What a gateway told of a call that failed; undefined where none told anything. */
type Told = Pick<MessageOf<'modelFailed'>, 'spent' | 'attempts'>;

export function failCall(
  draft: Draft,
  note: PendingNote,
  effect: string,
  failure: Failure,
  told?: Told,
): void {
  settle(draft, effect);
  const before = contextOf(draft);
  if (note.kind === 'callModel') {
    const context = settleModelCall(before, paidForFailure(before, draft.around, told));
    if (isFirstTooLong(draft, failure, context))
      return sendToAgent(draft, 'tooLong', {
        context: { ...context, isShortened: true },
        entries: [],
        effects: [],
        stop: { code: failure.code, reason: failure.message },
      });
    if (draft.definition.bundle.agent.onModelFailure === 'pause' && failure.code !== 'DEADLINE')
      return pauseForModel(draft, failure, context);
    sendToAgent(draft, 'modelFailed', {
      context,
      entries: [],
      effects: [],
      stop: { code: failure.code, reason: failure.message },
    });
  } else {
    // A child that no longer answers may have spent all that it was given.
    sendToAgent(
      draft,
      'resulted',
      planResult(before, effect, { error: failure }, false, before.calls[effect]?.reserved),
    );
  }
}

/** A prompt that is too long is summarised once; should that not help, the session ends with the reason. */
const isFirstTooLong = (draft: Draft, { code }: Failure, context: AgentContext): boolean =>
  code === 'MODEL_CONTEXT_TOO_LONG' &&
  behaviourOf(draft.definition.bundle) >= 4 &&
  nameOf(draft.record.value) === 'thinking' &&
  context.isShortened !== true;

/** Every try and fallback failed, and the agent would rather wait than fail: the call is planned again on resume. */
function pauseForModel(draft: Draft, failure: Failure, context: AgentContext): void {
  const retry = nameOf(draft.record.value) === 'compacting' ? 'summary' : 'turn';
  draft.live = {
    ...liveOf(draft),
    context: { ...context, retry },
  } as AnyMachineSnapshot;
  draft.record = {
    ...draft.record,
    status: 'paused',
    reason: `${failure.code}: ${failure.message}`,
  };
}
