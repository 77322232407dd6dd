/** A turn: the model has spoken; which of its calls run, wait, or are refused. */
import { add, leftOf, nothing } from '../budget/budget.ts';
import { having, without } from '../keyed.ts';
import type { AgentContext } from './agent-context.ts';
import { askApproval, ruleFor } from './approvals.ts';
import { behaviourOf } from './behaviour.ts';
import type { Entry } from './conversation.ts';
import type { Effect } from './effects.ts';
import type { ModelReply } from './messages.ts';
import { noAnswerIn, paidFor, settleModelCall, turnsWith } from './model-call.ts';
import { append, type Plan, type Surroundings, toolEntry } from './plan.ts';
import { type Children, checkCall, isDelegation, notRun, startCall } from './tool-calls.ts';

const malformedMax = 4; // semantic retries in a row: a model that cannot be helped by then will not be

const repeatsKept = 32;

function remember(
  repeats: AgentContext['repeats'],
  signature: string,
  times: number,
): AgentContext['repeats'] {
  const others = without(repeats, signature);
  const [oldest, ...newer] = Object.keys(others);
  return having(
    oldest !== undefined && newer.length + 1 >= repeatsKept ? without(others, oldest) : others,
    signature,
    times,
  );
}

/** @param cutAt  tokens after which the answer was cut */
function refusedTurn(
  context: AgentContext,
  entries: Entry[],
  effects: Effect[],
  cutAt?: number,
): Plan {
  const malformed = context.malformed + 1;
  const next = { ...context, malformed };
  if (malformed <= malformedMax) return { context: next, entries, effects };
  const cut = cutAt === undefined ? '' : `; the last was cut at outputTokensMax (${cutAt})`;
  return {
    context: next,
    entries,
    effects,
    stop: {
      code: 'MODEL_MALFORMED',
      reason: `${malformed} answers in a row that could not be used${cut}`,
    },
  };
}

/** The model has spoken. */
export function planReply(before: AgentContext, reply: ModelReply, around: Surroundings): Plan {
  const { bundle } = around;
  let context = settleModelCall(before, paidFor(reply, around));
  const spoken: Entry = {
    role: 'assistant',
    content: reply.content,
    ...(reply.calls.length > 0 ? { calls: reply.calls } : {}),
    ...(reply.thought && reply.calls.length > 0 ? { thought: reply.thought } : {}),
  };
  // The provider has counted everything up to its own answer, and the answer itself.
  const isShortened = context.isShortened ? { isShortened: false } : {};
  context = {
    ...context,
    ...(behaviourOf(bundle) >= 4 ? { turns: turnsWith(context, spoken), ...isShortened } : {}),
    length: context.length + 1,
    seenTokens: reply.usage.promptTokens + reply.usage.completionTokens,
    bytesAfter: 0,
    messagesAfter: 1,
    succeeded: 0,
  };
  const entries: Entry[] = [spoken];
  const isNamed = reply.finish === 'length' && behaviourOf(bundle) >= 4;
  const cutAt = isNamed ? bundle.agent.outputTokensMax : undefined;
  if (behaviourOf(bundle) >= 3) {
    const stop = noAnswerIn(reply);
    const isCut = reply.finish === 'length' && reply.calls.length > 0;
    if (stop || isCut) {
      const why = stop?.reason ?? 'your answer was cut off at the length limit; call it again';
      const unrun = notRun(reply.calls, why);
      const next = append(context, unrun);
      if (stop) return { context: next, entries: [...entries, ...unrun], effects: [], stop };
      return refusedTurn(next, [...entries, ...unrun], [], cutAt);
    }
  }
  if (reply.calls.length === 0) {
    if (reply.content.trim() === '' || reply.finish === 'length') {
      const note: Entry = {
        role: 'user',
        content:
          reply.finish === 'length'
            ? 'Your answer was cut off at the length limit. Answer again, shorter.'
            : 'Your answer was empty. Call a tool or answer.',
      };
      return refusedTurn(append(context, [note]), [...entries, note], [], cutAt);
    }
    return { context: { ...context, malformed: 0 }, entries, effects: [], answer: reply.content };
  }

  const effects: Effect[] = [];
  const errors: Entry[] = [];
  const toolCallsLeft =
    context.limits.toolCallsMax - context.spent.toolCalls - context.reserved.toolCalls;
  if (reply.calls.length > toolCallsLeft) {
    const reason = `${reply.calls.length} tool calls wanted, ${Math.max(0, toolCallsLeft)} of ${context.limits.toolCallsMax} left`;
    const unrun = notRun(reply.calls, reason);
    return {
      context: append(context, unrun),
      entries: [...entries, ...unrun],
      effects: [],
      stop: { code: 'LIMIT_TOOLCALLS', reason },
    };
  }
  let isLooping: string | undefined;
  const all = reply.calls.map((call, index) =>
    checkCall(
      call,
      bundle,
      reply.checks?.find((one) => one.call === index),
    ),
  );
  const countsFirst = behaviourOf(bundle) >= 2;
  const called = { ...nothing, toolCalls: reply.calls.length };
  if (countsFirst) context = { ...context, spent: add(context.spent, called) };
  const children: Children | undefined = countsFirst
    ? {
        count: all.filter(({ ok, call }) => ok && isDelegation(call.name, bundle)).length,
        left: leftOf(context.limits, context.spent, context.reserved),
      }
    : undefined;
  for (const checked of all) {
    if (!countsFirst)
      context = { ...context, spent: add(context.spent, { ...nothing, toolCalls: 1 }) };
    if (!checked.ok) {
      errors.push(
        toolEntry(checked.call.id, checked.call.name, {
          error: { class: 'semantic', code: checked.code, message: checked.message },
        }),
      );
      continue;
    }
    const times = (context.repeats[checked.signature] ?? 0) + 1;
    context = { ...context, repeats: remember(context.repeats, checked.signature, times) };
    if (times >= bundle.agent.loop.sameCallMax)
      isLooping = `${checked.call.name} was called ${times} times with the same arguments`;
    const rule = ruleFor(bundle.agent.approvals, checked.call.name, checked.arguments);
    if (rule) {
      const asked = askApproval(context, around, checked.call, checked.arguments, rule.expiresMs);
      context = asked.context;
      effects.push(asked.effect);
      continue;
    }
    const started = startCall(context, around, checked, children);
    if ('refusal' in started) {
      errors.push(
        toolEntry(checked.call.id, checked.call.name, {
          error: { class: 'permanent', code: 'BUDGET', message: started.refusal },
        }),
      );
      continue;
    }
    context = started.context;
    effects.push(started.effect);
  }
  if (isLooping) {
    // Nothing of this turn is begun, and each call is told so: a conversation with unanswered calls is refused by model APIs.
    const unrun = notRun(reply.calls, isLooping);
    return {
      context: append(
        { ...context, calls: before.calls, approvals: before.approvals, reserved: nothing },
        unrun,
      ),
      entries: [...entries, ...unrun],
      effects: [],
      isLooping,
    };
  }
  context = append(context, errors);
  entries.push(...errors);
  if (effects.length === 0) return refusedTurn(context, entries, effects);
  return { context: { ...context, malformed: 0 }, entries, effects };
}
