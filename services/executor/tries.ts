/**
 * The tries of one tool call: bounded, by class, and never after it was cancelled.
 *
 * R1  Only transient failures are tried again; an opaque tool only where nothing had begun.
 * R2  Where one of the tries may have taken effect, a side effect that did not succeed is
 *     `unknown`.
 * R3  A queryable tool is asked before it is tried again; "it did not happen" counts only when
 *     nothing can still happen.
 * R4  After an abort there is no further try and no query.
 */

import { backoffMs } from '../core/backoff.ts';
import { issuesOf, messageOf } from '../core/errors.ts';
import { limits } from '../core/limits.ts';
import { isCheckedAtOnce } from '../core/schema/cost.ts';
import { compiledSchema } from '../core/schema/json-schema.ts';
import type { RunTool } from '../core/session/effects.ts';
import { validatorOf } from '../core/session/tool-calls.ts';
import { type Capped, capped, type Failure, failed, type Outcome } from '../core/tools/job.ts';
import { settledAfterMsOf, type ToolSpec } from '../core/tools/tool-spec.ts';
import type { Clock } from '../ports/clock.ts';
import type { ToolJob, ToolRunner } from '../ports/performers.ts';
import type { SchemaChecks } from '../ports/schema-checks.ts';
import type { Place } from './place.ts';

export interface Tried {
  readonly outcome: Outcome<Capped>;
  readonly attempts: number;
}
/** It gave up its place: another has it, or nobody is to begin it any more. */
export interface GaveUp {
  readonly gaveUp: 'elsewhere' | 'cancelled';
}

export interface Trying {
  readonly effect: RunTool;
  readonly spec: ToolSpec;
  readonly place: Place;
  /** An earlier executor's last request may have begun until then, epoch ms; undefined for none. */
  readonly begunBefore: number | undefined;
  readonly signal: AbortSignal;
  /** Told before a request is made. */
  readonly onRun: () => void;
}

export interface TryingPorts {
  readonly runners: readonly ToolRunner[];
  readonly clock: Clock;
  /** Absent: a result that is too costly to be checked at once is refused. */
  readonly checks?: SchemaChecks | undefined;
}

const cancelled: Outcome<never> = failed('permanent', 'CANCELLED', 'nobody waits for it any more');

/** A workspace call that fails is undone: its files go back to the last checkpoint. */
export const hasSideEffect: Readonly<Record<ToolSpec['class'], boolean>> = {
  pure: false,
  workspace: false,
  keyed: true,
  queryable: true,
  opaque: true,
};

export const doubtful = ({ code, message }: Failure): Outcome<never> =>
  failed('unknown', code, `${message}; it is not tried again, and may have taken effect`);

/** @throws Unavailable when the start records cannot be asked */
export async function runWithRetries(
  { effect, spec, place, begunBefore, signal, onRun }: Trying,
  { runners, clock, checks }: TryingPorts,
): Promise<Tried | GaveUp> {
  const runner = runners.find(({ kind }) => kind === spec.run.kind);
  const job = jobOf(effect, spec);
  if (!runner) {
    const message = `this executor runs no tools of kind ${spec.run.kind}`;
    return { outcome: failed('permanent', 'TOOL_KIND_UNKNOWN', message), attempts: 0 };
  }
  /** When the last request may have begun that nobody knows the outcome of. */
  let doubtSince = begunBefore;
  const settle = (since: number) => settled(job, runner, { since, effect, signal, clock });
  if (spec.class === 'queryable' && doubtSince !== undefined) {
    const answer = await settle(doubtSince);
    if (answer !== 'never') return { outcome: answer, attempts: 0 };
    doubtSince = undefined;
  }
  for (let attempts = 1; ; attempts += 1) {
    if (signal.aborted) return { outcome: cancelled, attempts: attempts - 1 };
    const gaveUp = await place.whyNot(attempts > 1);
    if (gaveUp) return { gaveUp };
    if (signal.aborted) return { outcome: cancelled, attempts: attempts - 1 };
    const couldHaveRun = place.mayHaveRun;
    place.mayHaveRun = true;
    onRun();
    const outcome = await runOnce(runner, job, signal, { clock, checks });
    if (outcome.ok) return { outcome, attempts };
    if (signal.aborted) return { outcome: cancelled, attempts };
    const { failure } = outcome;
    // Until it ended, its request may still have left.
    if (mayHaveBegun(failure)) doubtSince = clock.now();
    else place.mayHaveRun = couldHaveRun;
    if (spec.class === 'queryable' && doubtSince !== undefined) {
      const answer = await settle(doubtSince);
      if (answer !== 'never') return { outcome: answer, attempts };
      doubtSince = undefined;
    }
    const isInDoubt = doubtSince !== undefined;
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
      !(spec.class === 'opaque' && isInDoubt) &&
      clock.now() + waitMs < effect.deadlineAt; // the other side may ask for more patience than its session has
    if (!isTriedAgain) {
      const isDoubtful = isInDoubt && hasSideEffect[spec.class];
      return { outcome: isDoubtful ? doubtful(failure) : outcome, attempts };
    }
    await clock.sleep(waitMs, signal);
  }
}

export const jobOf = (effect: RunTool, spec: ToolSpec): ToolJob => ({
  tool: effect.tool,
  spec,
  arguments: effect.arguments,
  tenant: effect.tenant,
  session: effect.session,
  idempotencyKey: effect.id,
  traceparent: effect.traceparent,
});

/** The sender cannot know whether a broken request took effect. */
const mayHaveBegun = ({ class: failureClass, hasBegun }: Failure): boolean =>
  hasBegun ?? failureClass === 'transient';

interface Doubt {
  /** When the last request may have begun, epoch ms. */
  readonly since: number;
  readonly effect: RunTool;
  readonly signal: AbortSignal;
  readonly clock: Clock;
}

const askAgainMaxMs = 5_000;

/** Did the effect happen? Asked until it says yes, or nothing can still happen (R3). */
async function settled(
  job: ToolJob,
  runner: ToolRunner,
  { since, effect, signal, clock }: Doubt,
): Promise<Outcome<Capped> | 'never'> {
  const { spec, tool } = job;
  const settledAt = since + settledAfterMsOf(spec);
  for (let waitMs = 250; ; waitMs = Math.min(2 * waitMs, askAgainMaxMs)) {
    if (signal.aborted) return cancelled;
    const askedAt = clock.now();
    const answer = await ask(job, runner, signal, clock);
    if (signal.aborted) return cancelled;
    if (answer === 'never' && askedAt >= settledAt) return 'never';
    // It happened, whatever its answer looks like: only what no message can hold is not told.
    if (answer !== 'never' && answer?.ok)
      return told(spec, answer.value) ?? doubtful(unfit(tool).failure);
    const isAskedAgain = answer === 'never' || answer?.failure.class === 'transient';
    const wait = answer === 'never' ? Math.min(waitMs, settledAt - clock.now()) : waitMs;
    if (!isAskedAgain || clock.now() + wait >= effect.deadlineAt) return unknownOf(tool);
    await clock.sleep(Math.max(1, wait), signal);
  }
}

async function ask(
  job: ToolJob,
  runner: ToolRunner,
  signal: AbortSignal,
  clock: Clock,
): Promise<Outcome<unknown> | 'never' | undefined> {
  const limit = clock.timeLimit(job.spec.timeoutMs, signal);
  try {
    return await runner.query?.(job, job.spec.run as never, limit.signal);
  } catch (error) {
    const why = messageOf(error).slice(0, 200);
    return failed('permanent', 'QUERY_CRASHED', `the query of tool ${job.tool} crashed: ${why}`);
  } finally {
    limit.stop();
  }
}

const unknownOf = (tool: string): Outcome<never> =>
  failed(
    'unknown',
    'OUTCOME_UNKNOWN',
    `a call of ${tool} may have taken effect, and asking did not tell; it is not run again`,
  );

async function runOnce(
  runner: ToolRunner,
  job: ToolJob,
  signal: AbortSignal,
  { clock, checks }: Pick<TryingPorts, 'clock' | 'checks'>,
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
  return outcome.ok ? answered(job, outcome.value, checks) : outcome;
}

/** What a tool returned, as its session can be told it. */
async function answered(
  { tool, spec, tenant }: ToolJob,
  value: unknown,
  checks: SchemaChecks | undefined,
): Promise<Outcome<Capped>> {
  const outcome = told(spec, value);
  if (!outcome) return unfit(tool);
  const problem = spec.output && (await problemOf(tenant, spec.output, value, checks));
  return problem === undefined
    ? outcome
    : afterwards(
        'TOOL_OUTPUT_INVALID',
        `tool ${tool} returned what its schema does not allow: ${problem}`,
      );
}

/** A schema of a bundle that began before may have words that none of today has: it is read as ever. */
async function problemOf(
  tenant: string,
  schema: NonNullable<ToolSpec['output']>,
  value: unknown,
  checks: SchemaChecks | undefined,
): Promise<string | undefined> {
  const compiled = compiledSchema(schema);
  if (!compiled.ok) {
    const checked = validatorOf(schema)?.safeParse(value);
    return checked && !checked.success ? issuesOf(checked.error) : undefined;
  }
  const text = JSON.stringify(value) ?? 'null';
  if (isCheckedAtOnce(schema, text.length)) return compiled.check(value);
  const verdict = checks
    ? await checks.check(tenant, schema, text)
    : { isTooCostly: true as const };
  return verdict.isTooCostly ? 'to check it takes too long' : verdict.problem;
}

/**
 * As much as a message may hold, or undefined for what can be no message: nested too deep, or no
 * JSON.
 */
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
