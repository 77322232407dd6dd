/** Time is handed in, so that a simulation can own it. */
export interface Clock {
  now(): number;
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  every(ms: number, tick: () => void): { stop(): void };
  /** A signal that aborts when `signal` does, or after `ms` milliseconds. Stop it in a `finally`: until then it holds a timer and a listener. */
  timeLimit(ms: number, signal: AbortSignal): TimeLimit;
}

export interface TimeLimit {
  readonly signal: AbortSignal;
  /** The time was over before it was stopped. */
  readonly isOver: boolean;
  /** Begin to count anew. */
  again(): void;
  stop(): void;
}
