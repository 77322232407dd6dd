/** How long to wait before the next try. */

export interface Backoff {
  readonly baseMs: number;
  readonly maxMs: number;
  /** Tries so far, from 0. */
  readonly attempt: number;
  /** What the other side asked for. */
  readonly retryAfterMs?: number | undefined;
  /** Between 0 and 1, drawn by the caller: the core knows no chance. */
  readonly chance: number;
}

/** Exponential with full jitter, never less than the other side asked for (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015). */
export function backoffMs({ baseMs, maxMs, attempt, retryAfterMs = 0, chance }: Backoff): number {
  return Math.max(retryAfterMs, chance * Math.min(maxMs, baseMs * 2 ** attempt));
}
