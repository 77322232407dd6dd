/** What a provider's failures mean: what may the caller do, and may the call have cost something? */
import { APIConnectionError, APIConnectionTimeoutError, APIError, APIUserAbortError } from 'openai';
import { z } from 'zod';
import { failed, type Outcome } from '../../core/tools/job.ts';
import { wasNeverMade } from '../../core/tools/never-made.ts';
import { laterStatuses, temperatureWords, tooLongWords } from './dialect.ts';

/** Nothing was paid: no request was sent, or it was refused as a whole before any output. */
export const unpaid = (outcome: ReturnType<typeof failed>): ReturnType<typeof failed> => ({
  ok: false,
  failure: { ...outcome.failure, hasBegun: false },
});

/**
 * Once, at the edge: what may the caller do about it, and may it have cost something?
 *
 * @param reasonOf  what may be told of the provider's own words
 */
export function classify(
  error: unknown,
  isTimeout: boolean,
  model: string,
  reasonOf: (said: unknown) => string,
): Outcome<never> {
  if (isTimeout || error instanceof APIConnectionTimeoutError)
    return failed('transient', 'MODEL_TIMEOUT', `model ${model} did not answer in time`);
  if (error instanceof APIUserAbortError || error instanceof APIConnectionError) {
    const outcome = failed('transient', 'MODEL_UNREACHABLE', `model ${model} could not be reached`);
    return wasNeverMade(error) ? unpaid(outcome) : outcome;
  }
  if (error instanceof z.ZodError)
    return failed(
      'transient',
      'MODEL_ANSWER_INVALID',
      `model ${model} answered something that is not a completion`,
    );
  if (error instanceof APIError) {
    const outcome = refusalOf(error, model, reasonOf);
    const status = statusOf(error);
    const isWhole = (status >= 400 && status < 500) || status === 503;
    return isWhole ? unpaid(outcome) : outcome;
  }
  // A stream that ends in the middle, a socket that is reset: the same call may work the next time.
  return failed('transient', 'MODEL_STREAM_BROKEN', `the answer of model ${model} broke off`);
}

/** A provider's code or type, where it has the form of one; what else stands there nobody is told. */
function wordOf(value: unknown): string {
  const text = typeof value === 'number' ? String(value) : value;
  return typeof text === 'string' && /^[\w.-]{1,64}$/.test(text) ? text : '';
}

const statusOf = (error: APIError): number => (error.status as number | undefined) ?? 0;
const codeOf = (error: APIError): string => wordOf(error.code);

/** Statuses of a request that was read, and is not liked. */
const refusedStatuses: ReadonlySet<number> = new Set([400, 413, 422]);

/** Looked for in what the provider wrote of its refusal; nothing of it is told to anyone. */
function speaksOf(error: APIError, words: readonly (readonly [RegExp, string])[]): boolean {
  if (!refusedStatuses.has(statusOf(error))) return false;
  const said = typeof error.message === 'string' ? error.message : '';
  const text = `${codeOf(error)} ${wordOf(error.type)} ${said}`.slice(0, 4_000);
  return words.some(([pattern]) => pattern.test(text));
}

/** The whole request was refused, for a temperature that this model does not take. */
export function refusesTemperature(error: unknown): boolean {
  if (!(error instanceof APIError) || !refusedStatuses.has(statusOf(error))) return false;
  const code = codeOf(error);
  const isNamed = error.param === 'temperature' && /^unsupported_/.test(code);
  // A code of another kind says that something else was wrong, whatever words are quoted.
  return isNamed || (/^(\d*|unsupported_.*)$/.test(code) && speaksOf(error, temperatureWords));
}

/** The package puts the status before the message. */
const saidBy = ({ message }: APIError): unknown =>
  typeof message === 'string' ? message.replace(/^\d{3} /, '') : undefined;

function refusalOf(
  error: APIError,
  model: string,
  reasonOf: (said: unknown) => string,
): ReturnType<typeof failed> {
  const status = statusOf(error);
  const code = codeOf(error);
  const reason = reasonOf(saidBy(error));
  // A key, or a word of the prompt, has the form of a code, too.
  const told = code && reasonOf(code) === code ? ` (${code})` : '';
  const text = `model ${model} answered ${status || 'an error'}${told}${reason ? `: ${reason}` : ''}`;
  if (code === 'context_length_exceeded' || speaksOf(error, tooLongWords))
    return failed('permanent', 'MODEL_CONTEXT_TOO_LONG', text);
  if (code === 'insufficient_quota') return failed('permanent', 'MODEL_QUOTA', text);
  if (laterStatuses.has(status) || status >= 500)
    return failed(
      'transient',
      status === 429 ? 'MODEL_RATE_LIMITED' : 'MODEL_OVERLOADED',
      text,
      retryAfterOf(error),
    );
  if (status === 0) return failed('transient', 'MODEL_STREAM_BROKEN', text);
  return failed('permanent', 'MODEL_REFUSED', text);
}

const retryAfterMax = 120_000; // ms

/** In milliseconds, in seconds, or as a date. */
function retryAfterOf(error: APIError): number | undefined {
  const headers = error.headers as Headers | undefined;
  const ms = numberIn(headers?.get?.('retry-after-ms'));
  if (ms !== undefined) return Math.min(retryAfterMax, ms);
  const text = headers?.get?.('retry-after');
  const seconds = numberIn(text);
  if (seconds !== undefined) return Math.min(retryAfterMax, seconds * 1_000);
  const at = text && /[a-z]/i.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(at) ? undefined : Math.min(retryAfterMax, Math.max(0, at - Date.now()));
}

function numberIn(text: string | null | undefined): number | undefined {
  const value = text?.trim() ? Number(text) : Number.NaN;
  return Number.isFinite(value) && value >= 0 ? value : undefined;
}
