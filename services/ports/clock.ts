/** Time is handed in, so that a simulation can own it. */
export interface Clock {
  now(): number;
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  every(ms: number, tick: () => void): { stop(): void };
  /** A signal that aborts with the one that is given, or when the time is over. To be stopped when nobody looks at it any more. */
  within(ms: number, signal: AbortSignal): Bound;
}

export interface Bound {
  readonly signal: AbortSignal;
  /** The time was over before it was stopped. */
  readonly isOver: boolean;
  stop(): void;
}
