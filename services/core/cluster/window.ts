/**
 * How many effects of one tenant a runtime lets into the queue of a pool at a time.
 *
 * A queue serves in the order of arrival, so a tenant that puts in ten thousand makes every other wait for all of them. Instead each
 * tenant's effects wait with its own runtime, and in the queue stand only so many that they are taken within `limits.queueWaitMs`: who comes
 * new waits no longer than that for the crowd before it. How many that are, nobody knows beforehand; waiting itself tells, as in
 * delay-based congestion control (Brakmo and Peterson, "TCP Vegas", 1995; the decrease once a round trip is Jacobson's, 1988).
 */
import { limits } from '../limits.ts';

export interface Window {
  /** Effects offered and not answered, at the most. */
  readonly size: number;
  /** Answers to what was offered before this time say nothing new: it was cut for them already. Epoch ms. */
  readonly cutAt: number;
  /** When an answer last told of a long wait, epoch ms. */
  readonly lateAt: number;
}

export const firstWindow: Window = { size: 64, cutAt: 0, lateAt: 0 }; // a crowd's first effects stand in the queue before anything is learnt

const sizeMin = 16; // a pool with many hands would stand idle between two answers
const sizeMax = 4_096; // several runtimes and tenants stay below what a consumer of the broker hands out unacknowledged (20,000)
const sizeByIdlingMax = 4 * limits.performMax; // four performers' hands: an empty queue says less than an answer
const lateMs = 5_000; // an answer that waited speaks against widening for so long: what a rate limit sends back leaves the queue empty all the same

export interface Answered {
  readonly offeredAt: number;
  readonly now: number;
  /** How long the performer itself took, ms. */
  readonly performedMs: number;
  /** More were wanted than the window let through. */
  readonly isFull: boolean;
}

/** After an answer: larger while effects are taken at once, smaller when they waited. */
export function afterAnswer(
  window: Window,
  { offeredAt, now, performedMs, isFull }: Answered,
): Window {
  const waitedMs = now - offeredAt - performedMs;
  if (waitedMs > limits.queueWaitMs) {
    if (offeredAt < window.cutAt) return { ...window, lateAt: now };
    const factor = Math.max(0.5, limits.queueWaitMs / waitedMs);
    return { size: Math.max(sizeMin, Math.floor(window.size * factor)), cutAt: now, lateAt: now };
  }
  return isFull && waitedMs < limits.queueWaitMs / 2
    ? { ...window, size: Math.min(sizeMax, window.size + 1) }
    : window;
}

/** The pool's queue is empty and effects wait here: calls may simply be long, so that no answer tells. Not if one told lately. */
export function afterIdle(window: Window, now: number): Window {
  if (now - window.lateAt < lateMs || window.size >= sizeByIdlingMax) return window;
  return { ...window, size: Math.min(sizeByIdlingMax, window.size * 2) };
}
