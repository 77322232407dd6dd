/** Time is handed in, so that a simulation can own it. */
export interface Clock {
  now(): number;
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  every(ms: number, tick: () => void): { stop(): void };
}
