/** A task as it came: nothing about it is known to be right. */
export interface RawTask {
  readonly tenant: string;
  readonly agent: string;
  readonly subject: string;
  readonly body: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Why there are none, where what was published could not be read. */
  readonly headersProblem?: string;
  /** Stands in for a task id when the publisher gave none: unique, and the same at every redelivery. */
  readonly sequenceId: string;
}

/**
 * The front door.
 *
 * Guarantee: a published task is handed to `accept` until it resolves, at least once.
 */
export interface Tasks {
  publish(
    tenant: string,
    agent: string,
    body: string,
    headers: Record<string, string>,
  ): Promise<void>;
  /** @param capacity  how many tasks may be in hand at a time; 0 stops pulling */
  take(
    capacity: () => number,
    accept: (task: RawTask) => Promise<void>,
  ): Promise<{ drain(): Promise<void> }>;
}
