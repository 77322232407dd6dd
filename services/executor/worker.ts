/**
 * Performs tool calls, each at most once where it matters.
 *
 * Owns     the effects in hand of this executor, and which it has performed lately.
 * Asks     place.ts who may begin, tries.ts to run it.
 *
 * X1  What is not pure begins with a start record; who did not create it does not simply begin.
 * X2  After a death the class decides: keyed and workspace run again, queryable asks first, opaque is
 *     `unknown`. What was in the hands of `lostMax` executors that died is not given to another.
 * X3  The result is mailed before the effect is acknowledged.
 * X4  Nothing is begun, tried again, asked or handed back once it was cancelled.
 * X5  What an executor that is gone had begun may have been answered: its session is asked whether it
 *     still waits, after a record of our own stands, so that an end names this call or cancels it.
 */

import { isForAnother, Later, messageOf } from '../core/errors.ts';
import { type EffectId, shardOf } from '../core/ids.ts';
import { own } from '../core/keyed.ts';
import { limits } from '../core/limits.ts';
import { patiently } from '../core/patience.ts';
import { Recent } from '../core/recent.ts';
import type { RunTool } from '../core/session/effects.ts';
import type { Message } from '../core/session/messages.ts';
import { type Capped, failed, type Outcome } from '../core/tools/job.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Effects, Taken, Taking } from '../ports/effects.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { ToolRunner } from '../ports/performers.ts';
import type { SchemaChecks } from '../ports/schema-checks.ts';
import type { Starts } from '../ports/starts.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { begin, Place, placeMs } from './place.ts';
import { doubtful, hasSideEffect, runWithRetries } from './tries.ts';

export interface ExecutorPorts {
  readonly effects: Effects;
  readonly starts: Starts;
  readonly mailbox: Mailbox;
  readonly archive: Pick<Archive, 'bundle'>;
  readonly runners: readonly ToolRunner[];
  readonly telemetry: Telemetry;
  readonly clock: Clock;
  readonly shards: number;
  /** Absent: a result that is too costly to be checked at once is refused. */
  readonly checks?: SchemaChecks | undefined;
}

const performedKept = 20_000; // copies of an effect that come after so many others would be minutes late

export function startExecutor(
  executor: string,
  pool: string,
  ports: ExecutorPorts,
  concurrency: number = limits.performMax,
): Promise<Taking> {
  const inHand = new Set<EffectId>();
  const performed = new Recent<EffectId, true>(performedKept);
  const places = new Recent<EffectId, Place>(performedKept);
  const unheard = new Recent<EffectId, number>(performedKept);
  ports.starts.answerHolds(executor, (effect) =>
    inHand.has(effect) ? 'holding' : performed.has(effect) ? 'done' : 'unknown',
  );
  return ports.effects.take(
    pool,
    concurrency,
    async (taken) => {
      const { effect, signal } = taken;
      if (effect.kind !== 'runTool') {
        ports.telemetry.refused('effect', 'WRONG_POOL', { effect: effect.id, kind: effect.kind });
        return false;
      }
      if (performed.has(effect.id)) {
        ports.telemetry.dropped('done'); // its result is in the log, and our word of it was lost
        return false;
      }
      inHand.add(effect.id);
      const from = performance.now();
      let mayHaveRun = taken.isRedelivered;
      try {
        const onRun = () => {
          mayHaveRun = true;
        };
        const self = { name: executor, places, unheard };
        const isPerformed = await perform(self, effect, taken, ports, onRun);
        if (isPerformed) performed.set(effect.id, true);
        return isPerformed;
      } catch (error) {
        if (signal.aborted) return false;
        if (isForAnother(error)) throw error;
        // A mistake of ours would be made again with every redelivery.
        ports.telemetry.log('error', 'a tool call could not be judged', {
          effect: effect.id,
          session: effect.session,
          tool: effect.tool,
          cause: messageOf(error),
        });
        const failure = failed(
          'permanent',
          'EXECUTOR_DEFECT',
          `the executor failed at ${effect.tool}: ${messageOf(error).slice(0, 200)}`,
        );
        const isDoubtful = mayHaveRun && hasSideEffect[effect.class];
        const outcome = isDoubtful ? doubtful(failure.failure) : failure;
        return await mail(executor, { effect, signal }, outcome, 0, from, ports);
      } finally {
        inHand.delete(effect.id);
      }
    },
    (_raw, problem) =>
      ports.telemetry.refused('effect', 'EFFECT_INVALID', { problem: problem.slice(0, 200) }),
  );
}

interface Executor {
  readonly name: string;
  /** Those that it had lately. */
  readonly places: Recent<EffectId, Place>;
  /** How often nobody heard whether a call is still waited for. */
  readonly unheard: Recent<EffectId, number>;
}

/** @param onRun  told before its tool is run */
async function perform(
  { name: executor, places, unheard }: Executor,
  effect: RunTool,
  { signal, isRedelivered, lost }: Taken,
  ports: ExecutorPorts,
  onRun: () => void,
): Promise<boolean> {
  const { telemetry, clock } = ports;
  const from = performance.now();
  const tell = (outcome: Outcome<Capped>, attempts: number): Promise<boolean> => {
    const seconds = (performance.now() - from) / 1_000;
    const word = outcome.ok ? 'ok' : outcome.failure.class;
    telemetry.performed('tool', effect.tool, word, seconds);
    return mail(executor, { effect, signal }, outcome, attempts, from, ports);
  };
  if (effect.deadlineAt < clock.now()) {
    telemetry.dropped('deadline'); // its session has stopped waiting
    return false;
  }
  const bundle = await ports.archive.bundle(effect.revision);
  const spec = bundle && own(bundle.tools, effect.tool);
  if (!spec) {
    const message = `revision ${effect.revision} has no tool ${effect.tool}`;
    return mail(
      executor,
      { effect, signal },
      failed('permanent', 'TOOL_UNKNOWN', message),
      0,
      from,
      ports,
    );
  }
  const begun = await begin(executor, effect.id, spec.class, ports, places.get(effect.id));
  if (begun.kind === 'done') {
    telemetry.dropped('done');
    return false;
  }
  if (begun.kind === 'cancelled') {
    if (begun.first !== undefined) return tell(outcomeUnknown(effect, begun.first), 0);
    return cancelled(executor, { effect, signal }, from, ports);
  }
  // The executor that began it lives, and will answer. This copy stays in the queue: it may be the last one, should that executor die.
  if (begun.kind === 'elsewhere') throw elsewhere(effect);
  const { first } = begun;
  if (first !== undefined) {
    telemetry.startRefused(spec.class);
    telemetry.log('warn', 'begun before by an executor that is gone', {
      effect: effect.id,
      session: effect.session,
      tool: effect.tool,
      class: spec.class,
      first,
    });
  }
  if (begun.kind === 'lost') {
    const outcome =
      spec.class === 'opaque'
        ? outcomeUnknown(effect, begun.first)
        : executorLost(effect, limits.lostMax);
    return tell(outcome, 0);
  }
  // Nobody holds it, and so many fell silent with it in hand. Where there are records, they count:
  // an executor may have died of what lay beside it.
  if (spec.class === 'pure' && lost >= limits.lostMax) return tell(executorLost(effect, lost), 0);
  if (first === undefined && lost >= limits.lostUnbegunMax)
    return tell(neverBegun(effect, lost), 0);
  const place = new Place(executor, effect.id, spec.class, begun, ports);
  places.set(effect.id, place);
  if (first !== undefined) {
    const isWanted = await isStillWanted(effect, unheard, ports);
    if (isWanted === undefined) throw unsure(effect);
    if (!isWanted) {
      telemetry.dropped('done');
      return false;
    }
  }
  // Those before us are gone, or look at the records again when their places are old.
  const begunBefore = first === undefined ? undefined : clock.now() + placeMs;
  const tried = await runWithRetries(
    { effect, spec, place, begunBefore, signal, onRun },
    { runners: ports.runners, clock, checks: ports.checks },
  );
  if (signal.aborted) return false;
  if ('gaveUp' in tried) {
    if (tried.gaveUp === 'cancelled') return cancelled(executor, { effect, signal }, from, ports);
    throw elsewhere(effect);
  }
  const { outcome, attempts } = tried;
  telemetry.log(outcome.ok ? 'debug' : 'warn', outcome.ok ? 'tool returned' : 'tool failed', {
    effect: effect.id,
    session: effect.session,
    tool: effect.tool,
    class: spec.class,
    attempts,
    isRedelivered,
    code: outcome.ok ? undefined : outcome.failure.code,
    trace: effect.traceparent,
  });
  return tell(outcome, attempts);
}

const wantedWaitMs = 3_000;

const unheardMax = 3; // runtimes of an earlier version hear no such questions; those that restart do soon

/** @returns undefined when nobody can say now */
async function isStillWanted(
  { id, tenant, session }: RunTool,
  unheard: Recent<EffectId, number>,
  { starts, shards }: ExecutorPorts,
): Promise<boolean | undefined> {
  const call = { shard: shardOf(tenant, session, shards), tenant, session, effect: id };
  const answer = await starts.isWanted(call, wantedWaitMs);
  if (answer !== 'unheard') return answer;
  const times = (unheard.get(id) ?? 0) + 1;
  unheard.set(id, times);
  return times >= unheardMax ? true : undefined;
}

const unsure = ({ id }: RunTool): Later =>
  new Later(
    'EFFECT_UNSURE',
    `the owner of the session of effect ${id} did not answer; the call is offered again`,
    limits.effectAckWaitMs,
    true,
  );

const elsewhere = ({ id }: RunTool): Later =>
  new Later(
    'EFFECT_HELD',
    `effect ${id} is being performed elsewhere`,
    limits.effectAckWaitMs,
    true,
  );

/** Nobody is to begin it: who waits for it all the same (the log lost its end) is told so. */
function cancelled(
  executor: string,
  taken: Pick<Taken & { effect: RunTool }, 'effect' | 'signal'>,
  from: number,
  ports: ExecutorPorts,
): Promise<boolean> {
  ports.telemetry.dropped('cancelled');
  const outcome = failed('permanent', 'CANCELLED', 'nobody waits for this call any more');
  return mail(executor, taken, outcome, 0, from, ports);
}

const outcomeUnknown = ({ tool }: RunTool, performer: string): Outcome<never> =>
  failed(
    'unknown',
    'OUTCOME_UNKNOWN',
    `executor ${performer} died after it had begun ${tool}; nobody can say whether it took effect, and it was not run again`,
  );

const executorLost = ({ tool }: RunTool, lost: number): Outcome<never> =>
  failed(
    'unknown',
    'EXECUTOR_LOST',
    `${lost} executors died with ${tool} in hand; it is not given to another, and may have taken effect`,
  );

/** No record says that anybody began it. */
const neverBegun = ({ tool }: RunTool, lost: number): Outcome<never> => ({
  ok: false,
  failure: {
    class: 'permanent',
    code: 'EXECUTOR_LOST',
    message: `${lost} executors died with ${tool} in hand; it was not begun, and is not given to another`,
    hasBegun: false,
  },
});

async function mail(
  executor: string,
  { effect, signal }: Pick<Taken & { effect: RunTool }, 'effect' | 'signal'>,
  outcome: Outcome<Capped>,
  attempts: number,
  from: number,
  { mailbox, shards, telemetry, clock }: ExecutorPorts,
): Promise<boolean> {
  const common = {
    effect: effect.id,
    latencyMs: Math.round(performance.now() - from),
    attempts,
    executor,
  };
  const message: Message = outcome.ok
    ? { kind: 'toolReturned', ...common, ...outcome.value }
    : {
        kind: 'toolFailed',
        ...common,
        failure: { ...outcome.failure, message: outcome.failure.message.slice(0, 2_000) },
      };
  const { tenant, session } = effect;
  // What was done must be told, however long the log is away: handed back to the queue, an opaque call could only be called unknown.
  await patiently(
    () => mailbox.deliver(shardOf(tenant, session, shards), { tenant, session, message }),
    (cause) =>
      telemetry.log('warn', 'an outcome waits to be told', { effect: effect.id, session, cause }),
    clock.sleep,
    () => !signal.aborted,
  );
  return true;
}
