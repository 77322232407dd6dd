/** What a model answered, as its session is told it. */
import { jsonOf } from '../core/json.ts';
import { own } from '../core/keyed.ts';
import { limits } from '../core/limits.ts';
import { isCheckedAtOnce } from '../core/schema/cost.ts';
import { behaviourOf } from '../core/session/behaviour.ts';
import { inPromptOrder, summaryWith, taskIn, transcript } from '../core/session/condensed.ts';
import type { Entry } from '../core/session/conversation.ts';
import type { CallModel } from '../core/session/effects.ts';
import type { ModelReply } from '../core/session/messages.ts';
import { contextLimitOf, isSummary } from '../core/session/model-call.ts';
import type { Bundle } from '../core/session/specs.ts';
import type { Clock } from '../ports/clock.ts';
import type { SchemaChecks } from '../ports/schema-checks.ts';

/** What its checks need. */
interface CheckPorts {
  readonly checks?: SchemaChecks | undefined;
  readonly clock: Pick<Clock, 'now'>;
}

/** One that is larger than a message may be counts as cut off at its length: what it cost is told, and the model is asked to be brief. */
export function replyThatFits<
  Reply extends Pick<ModelReply, 'content' | 'calls' | 'finish' | 'thought'>,
>(reply: Reply): Reply {
  const characters = reply.calls.reduce(
    (sum, { arguments: args }) => sum + args.length,
    reply.content.length + (reply.thought?.text.length ?? 0),
  );
  if (characters * 6 < limits.replyBytesMax) return reply; // JSON makes six bytes of one at the most
  const bytes = Buffer.byteLength(JSON.stringify([reply.content, reply.calls, reply.thought]));
  if (bytes <= limits.replyBytesMax) return reply;
  const { thought: _, ...rest } = reply;
  const cut = { content: reply.content.slice(0, 1_000), calls: [], finish: 'length' };
  return { ...(rest as Reply), ...cut };
}

/**
 * Sessions before behaviour 3 know no refusal and no filter: they are told of an empty answer, or
 * of one that was cut, as ever, and ask again. They would take the words for an answer.
 */
export function asHeard<Reply extends Pick<ModelReply, 'content' | 'calls' | 'finish'>>(
  reply: Reply,
  behaviour: number,
): Reply {
  if (behaviour >= 3) return reply;
  if (reply.finish === 'refusal') return { ...reply, content: '', finish: 'stop' };
  return reply.finish === 'content_filter' ? { ...reply, finish: 'length' } : reply;
}

const checksWithinMs = 5_000; // of all calls of one reply: beyond it they are too costly

/** Arguments that no step checks itself are checked here, beside the event loop. */
export async function checksOf(
  tenant: string,
  calls: ModelReply['calls'],
  { tools, ...bundle }: Bundle,
  { checks, clock }: CheckPorts,
): Promise<Pick<ModelReply, 'checks'>> {
  if (!checks || behaviourOf(bundle) < 4) return {};
  const found: NonNullable<ModelReply['checks']> = [];
  const until = clock.now() + checksWithinMs;
  for (const [index, { name, arguments: text }] of calls.entries()) {
    const input = own(tools, name)?.input;
    if (!input || isCheckedAtOnce(input, text.length) || jsonOf(text) === undefined) continue;
    const verdict =
      clock.now() > until
        ? { isTooCostly: true as const }
        : await checks.check(tenant, input, text);
    found.push(
      verdict.isTooCostly
        ? {
            call: index,
            code: 'ARGUMENTS_TOO_COSTLY',
            problem: 'to check them takes too long; send less at once',
          }
        : { call: index, problem: verdict.problem ?? '' },
    );
  }
  return found.length > 0 ? { checks: found } : {};
}

/**
 * A summary has the task's own words before it. Where a model was asked for one and called a tool,
 * said nothing or was cut, the conversation itself is told, shortened: it must not stay too long.
 */
export function summaryOf<
  Reply extends Pick<ModelReply, 'content' | 'calls' | 'finish' | 'thought'>,
>(reply: Reply, { purpose }: CallModel, bundle: Bundle, stored: readonly Entry[]): Reply {
  if (purpose !== 'summary' || behaviourOf(bundle) < 4) return reply;
  const entries = inPromptOrder(stored);
  const task = taskIn(entries);
  if (isSummary(reply)) return { ...reply, content: summaryWith(task, reply.content) };
  const { thought: _, ...rest } = reply;
  const told = transcript(entries, contextLimitOf(bundle));
  return { ...(rest as Reply), content: summaryWith(task, told), calls: [], finish: 'stop' };
}
