/** A tool call as it travels to an executor and back. */
import { z } from 'zod';
import { jsonText } from '../json.ts';

/** transient: same call may work later. semantic: other arguments may. permanent: neither. unknown: nobody can say whether it happened. */
export const failureClassSchema = z.enum(['transient', 'semantic', 'permanent', 'unknown']);
export type FailureClass = z.infer<typeof failureClassSchema>;

export const failureSchema = z.object({
  class: failureClassSchema,
  code: z.string(),
  message: z.string(),
  retryAfterMs: z.number().optional(),
  /**
   * False when it is certain that nothing reached the outside world: then even an opaque tool may be tried again. True when it is certain
   * that something did, though the call failed. Left out: a transient failure may have, any other is the tool's own refusal.
   */
  hasBegun: z.boolean().optional(),
});
export type Failure = z.infer<typeof failureSchema>;

export type Outcome<Value> =
  | { readonly ok: true; readonly value: Value }
  | { readonly ok: false; readonly failure: Failure };

export const failed = (
  failureClass: FailureClass,
  code: string,
  message: string,
  retryAfterMs?: number,
): { ok: false; failure: Failure } => ({
  ok: false,
  failure:
    retryAfterMs === undefined
      ? { class: failureClass, code, message }
      : { class: failureClass, code, message, retryAfterMs },
});

/** A result as its session is told it. */
export interface Capped {
  readonly value: unknown;
  readonly bytes: number;
  readonly truncated: boolean;
}

/**
 * Keep a result within `bytesMax`; what is cut is said, so that the model does not take a part for the whole.
 *
 * @throws RangeError or TypeError for what can be no message: nested too deep, or no JSON
 */
export function capped(value: unknown, bytesMax: number): Capped {
  const text = jsonText(value);
  const bytes = Buffer.byteLength(text);
  if (bytes <= bytesMax) return { value: value ?? null, bytes, truncated: false };
  const kept = Buffer.from(text)
    .subarray(0, bytesMax)
    .toString('utf8')
    .replace(/\uFFFD+$/, '');
  return { value: { truncated: true, bytes, kept }, bytes, truncated: true };
}
