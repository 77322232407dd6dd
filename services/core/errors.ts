/**
 * Errors, by the one question that matters: what may the caller do?
 *
 * Unavailable  try again later
 * Refused      do not: the input or the policy is at fault
 * Defect       our own mistake; the supervisor decides
 *
 * That another host owns a shard now is no error but an answer: `commit` says 'fenced'.
 *
 * Codes are stable and listed in docs/errors.md.
 */
import type { z } from 'zod';

export interface ErrorDetails {
  readonly cause?: unknown;
  readonly [field: string]: unknown;
}

export class UnderstudyError extends Error {
  readonly code: string;
  readonly details: Readonly<Record<string, unknown>>;
  constructor(code: string, message: string, details: ErrorDetails = {}) {
    const { cause, ...rest } = details;
    super(message, cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    this.code = code;
    this.details = rest;
  }
}

/** Try again later; nothing is known to have happened. */
export class Unavailable extends UnderstudyError {}
/** Offer it again after a while. */
export class Later extends Unavailable {
  readonly retryAfterMs: number;
  /** Somebody may have begun it: whoever is offered it next must know. */
  readonly mayHaveBegun: boolean;
  constructor(code: string, message: string, retryAfterMs: number, mayHaveBegun: boolean) {
    super(code, message);
    this.retryAfterMs = retryAfterMs;
    this.mayHaveBegun = mayHaveBegun;
  }
}
/** Do not try again with the same input. */
export class Refused extends UnderstudyError {}
/** A mistake of ours: an invariant did not hold. */
export class Defect extends UnderstudyError {}

const newer = new Set([
  'RECORD_NEWER',
  'BASELINE_NEWER',
  'BUNDLE_NEWER',
  'MAIL_NEWER',
  'OUTBOX_NEWER',
]);

/** It was written by a newer release: not broken, and not ours to read, discard or dead-letter. */
export const isNewer = (error: unknown): error is Refused =>
  error instanceof Refused && newer.has(error.code);

/** Another replica may be able to: this one is of an older version than what it was given. */
export const isForAnother = (error: unknown): boolean =>
  error instanceof Unavailable ||
  isNewer(error) ||
  (error instanceof Refused && error.code === 'BUNDLE_UNREADABLE');

export function assertNever(value: never): never {
  throw new Defect('NEVER', `unexpected case ${JSON.stringify(value)}`);
}

/** The first zod issues as one sentence: `limits.stepsMax: expected number, got string`. */
export function issuesOf(error: z.ZodError, max = 3): string {
  const lines = error.issues.map((issue) => {
    const path = issue.path.join('.');
    return path ? `${path}: ${issue.message}` : issue.message;
  });
  const rest = lines.length > max ? ` (+${lines.length - max} more)` : '';
  return lines.slice(0, max).join('; ') + rest;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** No message carries it, and tried again it would be as large. (A full stream says another code.) */
export const isTooLarge = (error: unknown): error is Refused =>
  error instanceof Refused && error.code === 'MESSAGE_TOO_LARGE';
