/** A session of a user's own machine: answers become its events, and what it wants becomes effects and timers. */

import { nothing, type Spending } from '../budget/budget.ts';
import { assertNever, Refused } from '../errors.ts';
import { parseJson } from '../json.ts';
import { having } from '../keyed.ts';
import type { Failure } from '../tools/job.ts';
import { behaviourOf } from './behaviour.ts';
import { decisionOf, recordDecision } from './decisions.ts';
import { cancel, type Draft, end, liveOf, ownDriverFor, settle } from './draft.ts';
import type { Transitioned } from './machine-host.ts';
import { InvokeError } from './machine-state.ts';
import type { Message, MessageOf, ModelReply } from './messages.ts';
import { noAnswerIn, paidFor } from './model-call.ts';
import { type PipelineStep, questionCutLength, readTransition } from './pipeline.ts';
import { reserve, settled } from './pipeline-budget.ts';
import { eventsKept, type PendingNote } from './record.ts';

/** A pipeline's input is JSON where it can be read as such. */
export function inputOf(input: string): unknown {
  try {
    return parseJson(input);
  } catch {
    return input;
  }
}

/** Half of an answer is none to a machine: it cannot ask on as an agent does. */
function noAnswerFor(reply: ModelReply): Failure | undefined {
  const cut = { code: 'MODEL_CUT', reason: 'the answer was cut off at the length limit' };
  const stop = noAnswerIn(reply) ?? (reply.finish === 'length' ? cut : undefined);
  return stop && { class: 'permanent', code: stop.code, message: stop.reason };
}

export function applyToPipeline(
  draft: Draft,
  message: Exclude<Message, MessageOf<'pause' | 'resume' | 'halt' | 'wake'>>,
): void {
  const { record } = draft;
  switch (message.kind) {
    case 'task':
      throw new Refused(
        'SESSION_BUSY',
        `session ${record.session} runs a pipeline and takes one task only`,
      );
    case 'approve':
      noteDecision(draft, message);
      return answerInvoke(draft, record.pending[message.approval]!, message.approval, {
        ok: true,
        value: {
          approved: true,
          actor: message.actor,
          answer: message.arguments ?? message.reason,
        },
      });
    case 'reject':
      noteDecision(draft, message);
      return answerInvoke(draft, record.pending[message.approval]!, message.approval, {
        ok: true,
        value: { approved: false, actor: message.actor, answer: message.reason },
      });
    case 'modelReplied': {
      const failure =
        behaviourOf(draft.around.bundle) >= 3 ? noAnswerFor(message.reply) : undefined;
      draft.details = {
        effect: message.effect,
        model: message.reply.model,
        promptTokens: message.reply.usage.promptTokens,
        completionTokens: message.reply.usage.completionTokens,
        costMicros: message.reply.costMicros,
        latencyMs: message.reply.latencyMs,
      };
      return answerInvoke(
        draft,
        record.pending[message.effect]!,
        message.effect,
        failure ? { ok: false, failure } : { ok: true, value: message.reply.content },
        { steps: 1, toolCalls: 0, ...paidFor(message.reply, draft.around) },
      );
    }
    case 'event':
      return hearEvent(draft, message);
    case 'toolReturned':
      draft.details = {
        effect: message.effect,
        tool: record.pending[message.effect]?.what,
        outcome: 'ok',
        latencyMs: message.latencyMs,
      };
      return answerInvoke(draft, record.pending[message.effect]!, message.effect, {
        ok: true,
        value: message.value,
      });
    case 'agentEnded':
      return answerInvoke(
        draft,
        record.pending[message.effect]!,
        message.effect,
        message.outcome === 'completed'
          ? { ok: true, value: message.output }
          : {
              ok: false,
              failure: {
                class: 'permanent',
                code: `AGENT_${message.outcome.toUpperCase()}`,
                message: message.output,
              },
            },
        message.spent,
      );
    case 'modelFailed':
    case 'toolFailed':
      draft.details = {
        effect: message.effect,
        outcome: message.failure.class,
        code: message.failure.code,
      };
      return answerInvoke(
        draft,
        record.pending[message.effect]!,
        message.effect,
        { ok: false, failure: message.failure },
        message.kind === 'modelFailed' ? paidForFailed(message) : undefined,
      );
    default:
      return assertNever(message);
  }
}

/** An event from outside: what the machine does not listen to goes by, as under plain XState. */
function hearEvent(draft: Draft, { id, event }: MessageOf<'event'>): void {
  const { record } = draft;
  draft.record = { ...record, heard: [id, ...(record.heard ?? [])].slice(0, eventsKept) };
  draft.details = { event: event.type };
  movePipeline(draft, ownDriverFor(draft.definition).transition(liveOf(draft), event));
}

function noteDecision(draft: Draft, message: MessageOf<'approve' | 'reject'>): void {
  const what = (draft.record.pending[message.approval]?.what ?? '').slice(0, questionCutLength);
  draft.details = decisionOf(message, what);
  recordDecision(draft, message, what, draft.around.at);
}

/** What its gateway told; undefined where it told nothing, and all that was held counts. */
const paidForFailed = ({ spent, attempts }: MessageOf<'modelFailed'>): Spending | undefined =>
  spent || attempts === 0 ? { ...nothing, steps: 1, ...spent } : undefined;

/** @param paid  what it cost; undefined where nobody knows: all that was held for it */
export function answerInvoke(
  draft: Draft,
  note: PendingNote,
  effect: string,
  answer: { ok: true; value: unknown } | { ok: false; failure: Failure },
  paid?: Spending,
): void {
  settle(draft, effect);
  settleBudget(draft, effect, paid);
  const id = note.invoke ?? '';
  const event = answer.ok
    ? { type: `xstate.done.actor.${id}`, output: answer.value, actorId: id }
    : { type: `xstate.error.actor.${id}`, error: errorOf(answer.failure, draft), actorId: id };
  movePipeline(draft, ownDriverFor(draft.definition).transition(liveOf(draft), event as never));
}

/** Before behaviour 4 a machine was told of a failure by a plain object. */
const errorOf = (failure: Failure, { definition }: Draft): Failure | InvokeError =>
  behaviourOf(definition.bundle) < 4 ? failure : new InvokeError(failure);

function settleBudget(draft: Draft, effect: string, paid: Spending | undefined): void {
  const { budget } = draft.record;
  if (!budget) return;
  draft.record = { ...draft.record, budget: settled(budget, effect, paid) };
}

/** Hold back what a step's effects may cost. A session of behaviour 1 has no budget of its own. */
function reserveFor(
  draft: Draft,
  { started }: PipelineStep,
): { ok: true; started: PipelineStep['started'] } | { ok: false; reason: string } {
  const { budget } = draft.record;
  if (!budget) return { ok: true, started };
  const wanted = started.map(({ effect }) => effect);
  const reserved = reserve(budget, wanted, draft.definition.bundle);
  if (!reserved.ok) return reserved;
  draft.record = { ...draft.record, budget: reserved.budget };
  const held = started.map(({ note }, index) => ({ note, effect: reserved.effects[index]! }));
  return { ok: true, started: held };
}

export function movePipeline(draft: Draft, moved: Transitioned): void {
  const { wall, ...timers } = draft.record.timers;
  let read: PipelineStep;
  try {
    const { pending, children, stopped } = draft.record;
    read = readTransition(moved, { pending, timers, children, stopped }, draft.around);
  } catch (error) {
    // At its beginning the task is refused as a whole; later the session fails, or its next wake would fail the same way for ever.
    if (!(error instanceof Refused) || draft.record.version === 1) throw error;
    return end(draft, 'failed', `${error.code}: ${error.message}`);
  }
  // Children are remembered by us; a snapshot without them restores the same from JSON and from memory.
  draft.live = undefined;
  cancel(draft, read.cancelled);
  for (const id of read.cancelled) {
    settle(draft, id);
    settleBudget(draft, id, undefined);
  }
  const {
    history: _1,
    forms: _2,
    children: _3,
    hears: _4,
    nodes: _5,
    stopped: _6,
    ...rest
  } = draft.record;
  draft.record = {
    ...rest,
    value: read.value,
    context: read.context,
    ...(read.history ? { history: read.history } : {}),
    ...(read.forms ? { forms: read.forms } : {}),
    ...(read.children ? { children: [...read.children] } : {}),
    ...(read.stopped?.length ? { stopped: [...read.stopped] } : {}),
    ...(read.hears ? { hears: [...read.hears] } : {}),
    ...(read.nodes ? { nodes: [...read.nodes] } : {}),
    timers: { ...(wall ? { wall } : {}), ...read.timers },
  };
  draft.choices.push(...moved.choices);
  draft.effects.push(...read.told);
  const reserved = reserveFor(draft, read);
  if (!reserved.ok) return end(draft, 'failed', reserved.reason);
  for (const { effect, note } of reserved.started) {
    draft.effects.push(effect);
    draft.record = { ...draft.record, pending: having(draft.record.pending, effect.id, note) };
  }
  if (read.status !== 'active') end(draft, read.status, read.reason, read.output);
}
