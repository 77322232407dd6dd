/**
 * Performs tool calls, each at most once where it matters.
 *
 * Owns     the effects in hand of this executor.
 *
 * X1  What is not pure begins with a start record; who did not create it does not simply begin.
 * X2  After a death the class decides: keyed and workspace run again, queryable asks first, opaque is `unknown`.
 * X3  The result is mailed before the effect is acknowledged.
 * X4  Retries happen here, bounded, only for transient failures; an opaque tool only where nothing had begun.
 * X5  Where one of the tries may have taken effect, a side effect that did not succeed is `unknown` and not failed.
 */
import { backoffMs } from '../core/backoff.ts';
import { isForAnother, issuesOf, Later, messageOf, Unavailable } from '../core/errors.ts';
import { type EffectId, shardOf } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import { patiently } from '../core/patience.ts';
import type { RunTool } from '../core/session/effects.ts';
import type { Message } from '../core/session/messages.ts';
import { validatorOf } from '../core/session/tool-calls.ts';
import { type Capped, capped, type Failure, failed, type Outcome } from '../core/tools/job.ts';
import type { ToolSpec } from '../core/tools/tool-spec.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Effects, Taken, Taking } from '../ports/effects.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { ToolJob, ToolRunner } from '../ports/performers.ts';
import type { Start, Starts } from '../ports/starts.ts';
import type { Telemetry } from '../ports/telemetry.ts';

export interface ExecutorPorts {
  readonly effects: Effects;
  readonly starts: Starts;
  readonly mailbox: Mailbox;
  readonly archive: Pick<Archive, 'bundle'>;
  readonly runners: readonly ToolRunner[];
  readonly telemetry: Telemetry;
  readonly clock: Clock;
  readonly shards: number;
}

export function startExecutor(
  executor: string,
  pool: string,
  ports: ExecutorPorts,
  concurrency: number = limits.performMax,
): Promise<Taking> {
  const inHand = new Set<EffectId>();
  ports.starts.answerHolds(executor, (effect) => inHand.has(effect));
  return ports.effects.take(
    pool,
    concurrency,
    async (taken) => {
      const { effect, signal } = taken;
      if (effect.kind !== 'runTool') {
        ports.telemetry.refused('effect', 'WRONG_POOL', { effect: effect.id, kind: effect.kind });
        return false;
      }
      inHand.add(effect.id);
      const from = performance.now();
      let mayHaveRun = taken.isRedelivered;
      try {
        return await perform(executor, effect, taken, ports, () => {
          mayHaveRun = true;
        });
      } catch (error) {
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
        return await mail(
          executor,
          { effect, signal },
          mayHaveRun && hasSideEffect[effect.class] ? doubtful(failure.failure) : failure,
          0,
          from,
          ports,
        );
      } finally {
        inHand.delete(effect.id);
      }
    },
    (_raw, problem) =>
      ports.telemetry.refused('effect', 'EFFECT_INVALID', { problem: problem.slice(0, 200) }),
  );
}

/** @param onRun  told before its tool is run */
async function perform(
  executor: string,
  effect: RunTool,
  { signal, isRedelivered }: Taken,
  ports: ExecutorPorts,
  onRun: () => void,
): Promise<boolean> {
  const { telemetry, clock } = ports;
  const from = performance.now();
  if (effect.deadlineAt < clock.now()) return false; // its session has stopped waiting
  const bundle = await ports.archive.bundle(effect.revision);
  const spec = bundle?.tools[effect.tool];
  if (!spec)
    return mail(
      executor,
      { effect, signal },
      failed('permanent', 'TOOL_UNKNOWN', `revision ${effect.revision} has no tool ${effect.tool}`),
      0,
      from,
      ports,
    );

  const begun = await begin(executor, effect, spec, signal, ports);
  // The executor that began it lives, and will answer. This copy stays in the queue: it may be the last one, should that executor die.
  if (begun.kind === 'elsewhere')
    throw new Later(
      'EFFECT_HELD',
      `effect ${effect.id} is being performed elsewhere`,
      limits.effectAckWaitMs,
      true,
    );
  if (begun.kind === 'answer') {
    telemetry.performed(
      'tool',
      effect.tool,
      begun.outcome.ok ? 'ok' : begun.outcome.failure.class,
      (performance.now() - from) / 1_000,
    );
    return mail(executor, { effect, signal }, begun.outcome, 0, from, ports);
  }
  onRun();
  const { outcome, attempts } = await runWithRetries(effect, spec, begun.before, signal, ports);
  if (signal.aborted) return false;
  telemetry.performed(
    'tool',
    effect.tool,
    outcome.ok ? 'ok' : outcome.failure.class,
    (performance.now() - from) / 1_000,
  );
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
  return mail(executor, { effect, signal }, outcome, attempts, from, ports);
}

/** `before`: it was begun by an executor that is gone, and may have taken effect. */
type Begun =
  | { readonly kind: 'run'; readonly before: boolean }
  | { readonly kind: 'elsewhere' }
  | { readonly kind: 'answer'; readonly outcome: Outcome<Capped> };

/** May this effect be run, and if it was begun before, what does its class say? */
async function begin(
  executor: string,
  effect: RunTool,
  spec: ToolSpec,
  signal: AbortSignal,
  ports: ExecutorPorts,
): Promise<Begun> {
  const { starts, telemetry } = ports;
  if (spec.class === 'pure') return { kind: 'run', before: false };
  let start = await starts.create(effect.id, executor, spec.class);
  if (start.created) return { kind: 'run', before: false };
  telemetry.startRefused(spec.class);
  if (await livesElsewhere(start.first, executor, effect, starts)) return { kind: 'elsewhere' };
  telemetry.log('warn', 'begun before by an executor that is gone', {
    effect: effect.id,
    session: effect.session,
    tool: effect.tool,
    class: spec.class,
    first: start.first.performer,
  });
  if (spec.class === 'opaque')
    return { kind: 'answer', outcome: unknownOf(effect, start.first.performer) };
  const first = start.first.performer;
  // Each take-over has a create-only record of its own, so that of several who find the first dead one goes on.
  for (let takeover = 2; !start.created; takeover += 1) {
    start = await starts.create(`${effect.id}-${takeover}` as EffectId, executor, spec.class);
    if (!start.created && (await livesElsewhere(start.first, executor, effect, starts)))
      return { kind: 'elsewhere' };
  }
  return spec.class === 'queryable'
    ? ask(effect, spec, first, signal, ports)
    : { kind: 'run', before: true };
}

const livesElsewhere = async (
  start: Start,
  executor: string,
  effect: RunTool,
  starts: Starts,
): Promise<boolean> =>
  start.performer !== executor && (await starts.isHeld(start.performer, effect.id, 1_000));

/** Did the effect happen already? */
async function ask(
  effect: RunTool,
  spec: ToolSpec,
  performer: string,
  signal: AbortSignal,
  { runners, clock }: Pick<ExecutorPorts, 'runners' | 'clock'>,
): Promise<Begun> {
  const runner = runners.find(({ kind }) => kind === spec.run.kind);
  const limit = clock.timeLimit(spec.timeoutMs, signal);
  let answer: Outcome<unknown> | 'never' | undefined;
  try {
    answer = await runner?.query?.(jobOf(effect, spec), spec.run as never, limit.signal);
  } finally {
    limit.stop();
  }
  if (answer === 'never') return { kind: 'run', before: false };
  // It happened, whatever its answer looks like: only what no message can hold is not told.
  if (answer?.ok)
    return {
      kind: 'answer',
      outcome: told(spec, answer.value) ?? doubtful(unfit(effect.tool).failure),
    };
  if (answer && answer.failure.class === 'transient')
    throw new Unavailable('QUERY_UNAVAILABLE', answer.failure.message);
  return { kind: 'answer', outcome: unknownOf(effect, performer) };
}

const unknownOf = (effect: RunTool, performer: string): Outcome<never> =>
  failed(
    'unknown',
    'OUTCOME_UNKNOWN',
    `executor ${performer} died after it had begun ${effect.tool}; nobody can say whether it took effect, and it was not run again`,
  );

const jobOf = (effect: RunTool, spec: ToolSpec): ToolJob => ({
  tool: effect.tool,
  spec,
  arguments: effect.arguments,
  tenant: effect.tenant,
  session: effect.session,
  idempotencyKey: effect.id,
  traceparent: effect.traceparent,
});

/** Whether a request that broke off took effect, its sender cannot say. */
const mayHaveBegun = ({ class: failureClass, hasBegun }: Failure): boolean =>
  hasBegun ?? failureClass === 'transient';

/** @param before  a try of an earlier executor may have taken effect */
async function runWithRetries(
  effect: RunTool,
  spec: ToolSpec,
  before: boolean,
  signal: AbortSignal,
  { runners, clock }: ExecutorPorts,
): Promise<{ outcome: Outcome<Capped>; attempts: number }> {
  const runner = runners.find(({ kind }) => kind === spec.run.kind);
  if (!runner)
    return {
      outcome: failed(
        'permanent',
        'TOOL_KIND_UNKNOWN',
        `this executor runs no tools of kind ${spec.run.kind}`,
      ),
      attempts: 0,
    };
  let isInDoubt = before;
  for (let attempts = 1; ; attempts += 1) {
    // Cancelled before it began, or between two tries: nobody waits, and nothing more happens.
    if (signal.aborted)
      return {
        outcome: failed('permanent', 'CANCELLED', 'nobody waits for it any more'),
        attempts: attempts - 1,
      };
    const outcome = await runOnce(runner, jobOf(effect, spec), signal, clock);
    if (outcome.ok) return { outcome, attempts };
    const { failure } = outcome;
    isInDoubt ||= mayHaveBegun(failure);
    if (spec.class === 'queryable' && isInDoubt) {
      const asked = await ask(effect, spec, 'this one', signal, { runners, clock });
      if (asked.kind === 'answer') return { outcome: asked.outcome, attempts };
      isInDoubt = false;
    }
    const { backoffMs: baseMs, backoffMaxMs: maxMs } = spec.retry;
    const waitMs = backoffMs({
      baseMs,
      maxMs,
      attempt: attempts - 1,
      retryAfterMs: failure.retryAfterMs,
      chance: Math.random(),
    });
    const isTriedAgain =
      failure.class === 'transient' &&
      attempts < spec.retry.attempts &&
      !signal.aborted &&
      !(spec.class === 'opaque' && isInDoubt) &&
      clock.now() + waitMs < effect.deadlineAt; // the other side may ask for more patience than its session has
    if (!isTriedAgain)
      return {
        outcome: isInDoubt && hasSideEffect[spec.class] ? doubtful(failure) : outcome,
        attempts,
      };
    await clock.sleep(waitMs, signal);
  }
}

/** A workspace call that fails is undone: its files go back to the last checkpoint. */
const hasSideEffect: Readonly<Record<ToolSpec['class'], boolean>> = {
  pure: false,
  workspace: false,
  keyed: true,
  queryable: true,
  opaque: true,
};

const doubtful = ({ code, message }: Failure): Outcome<never> =>
  failed('unknown', code, `${message}; it is not tried again, and may have taken effect`);

async function runOnce(
  runner: ToolRunner,
  job: ToolJob,
  signal: AbortSignal,
  clock: Clock,
): Promise<Outcome<Capped>> {
  const { spec } = job;
  const limit = clock.timeLimit(spec.timeoutMs, signal);
  let outcome: Outcome<unknown>;
  try {
    outcome = await runner.run(job, spec.run as never, limit.signal);
  } catch (error) {
    outcome = afterwards(
      'TOOL_CRASHED',
      `tool ${job.tool} crashed: ${messageOf(error).slice(0, 200)}`,
    );
  } finally {
    limit.stop();
  }
  if (limit.isOver && !outcome.ok) {
    const late = failed(
      'transient',
      'TOOL_TIMEOUT',
      `tool ${job.tool} took longer than ${spec.timeoutMs} ms`,
    );
    return outcome.failure.hasBegun === undefined
      ? late
      : { ok: false, failure: { ...late.failure, hasBegun: outcome.failure.hasBegun } };
  }
  return outcome.ok ? answered(job, outcome.value) : outcome;
}

/** What a tool returned, as its session can be told it. */
function answered({ tool, spec }: ToolJob, value: unknown): Outcome<Capped> {
  const outcome = told(spec, value);
  if (!outcome) return unfit(tool);
  const checked = spec.output && validatorOf(spec.output)?.safeParse(value);
  return checked && !checked.success
    ? afterwards(
        'TOOL_OUTPUT_INVALID',
        `tool ${tool} returned what its schema does not allow: ${issuesOf(checked.error)}`,
      )
    : outcome;
}

/** As much as a message may hold, or undefined for what can be no message: nested too deep, or no JSON. */
function told(spec: ToolSpec, value: unknown): Outcome<Capped> | undefined {
  try {
    return { ok: true, value: capped(value, spec.outputBytesMax) };
  } catch {
    return undefined;
  }
}
const unfit = (tool: string) =>
  afterwards(
    'TOOL_OUTPUT_INVALID',
    `tool ${tool} returned what can be no message: no JSON, or nested deeper than ${limits.nestingMax} levels`,
  );

/** It went wrong after the tool had been called. */
const afterwards = (code: string, message: string): { ok: false; failure: Failure } => ({
  ok: false,
  failure: { class: 'permanent', code, message, hasBegun: true },
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
