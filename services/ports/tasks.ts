/** A task or an event as it came: nothing about it is known to be right. */
export interface RawTask {
  readonly tenant: string;
  /** Empty for an event. */
  readonly agent: string;
  /** Of an event: the session that it is for. */
  readonly session?: string;
  readonly subject: string;
  readonly body: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Why there are none, where what was published could not be read. */
  readonly headersProblem?: string;
  /** Its place among the stored tasks. */
  readonly sequence: number;
  /** Stands in for a task id when the publisher gave none: unique, and the same at every redelivery. */
  readonly sequenceId: string;
}

export interface Taking {
  /** Take nothing new, and wait for what is in hand; whoever takes next begins with the first that was not accepted. */
  drain(): Promise<void>;
}

export interface TasksState {
  /** Tasks that nobody has accepted yet. */
  readonly waiting: number;
  /** Some of them are taken for accepted by the broker: nobody would ever be given them. */
  readonly stuck: boolean;
  /** Somebody takes them. */
  readonly isTaken: boolean;
}

/**
 * The front door.
 *
 * Guarantee: a published task is handed to `accept` until it resolves, at least once. Who takes is
 *            handed all that was not accepted, in the order in which it was stored; what others held
 *            is taken from them.
 * Errors:    Unavailable from `publish` and `state`. `accept` may throw Later: it is handed the task
 *            again after that time.
 */
export interface Tasks {
  publish(
    tenant: string,
    agent: string,
    body: string,
    headers: Record<string, string>,
  ): Promise<void>;
  /** Publish an event for a session of a user's own machine. Stored and taken in as a task is. */
  tell(
    tenant: string,
    session: string,
    body: string,
    headers: Record<string, string>,
  ): Promise<void>;
  /** @param capacity  how many tasks may be in hand at a time; 0 stops pulling */
  take(capacity: () => number, accept: (task: RawTask) => Promise<void>): Taking;
  state(): Promise<TasksState>;
}
