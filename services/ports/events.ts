import type { StepEvent, UnderstudyEvent } from '../core/wire/cloud-event.ts';

export interface DeadLetter {
  /** Sequence in DEAD: its name for requeueing. */
  readonly id: number;
  readonly tenant: string;
  readonly agent: string;
  readonly at: number;
  readonly code: string;
  readonly reason: string;
  readonly session?: string | undefined;
  readonly task?: string | undefined;
  /** Where it came from, to be published there again. */
  readonly subject: string;
  readonly body: string;
  readonly headers: Readonly<Record<string, string>>;
  /** The body was too large to keep: this is its beginning only. */
  readonly isCut?: boolean | undefined;
}

export interface EventFilter {
  readonly tenant?: string | undefined;
  readonly agent?: string | undefined;
  readonly session?: string | undefined;
  /** When reading from the start: not what was told before this time, epoch ms. One session's steps stand among those of others. */
  readonly since?: number | undefined;
}

/**
 * What happened, for everybody who wants to know.
 *
 * Guarantee: at least once, with an id that is the same each time; per session in order of versions, the end last, but for
 *            what had to be sent again: it may come late. Who needs the order sorts by `data.version`.
 * Errors:    Unavailable from publishSteps and publishEnd; publish again.
 */
export interface Events {
  /** Tell steps. They may be held for `limits.eventsWaitMs` and some milliseconds more, so that those of many sessions leave together. */
  publishSteps(steps: readonly StepEvent[]): Promise<void>;
  /** Tell an end at once, after the steps before it: somebody waits for it. */
  publishEnd(event: UnderstudyEvent): Promise<void>;
  /** True when an end with this session, kind and id is there already. */
  has(event: UnderstudyEvent): Promise<boolean>;
  /** @param fromStart  also what happened before now */
  follow(
    filter: EventFilter,
    fromStart: boolean,
    onEvent: (event: UnderstudyEvent) => void,
  ): Promise<{ stop(): Promise<void> }>;
  bury(letter: Omit<DeadLetter, 'id' | 'at'>): Promise<void>;
  deadLetters(max: number): Promise<DeadLetter[]>;
  deadLetter(id: number): Promise<DeadLetter | undefined>;
  /** Take a dead letter away after it was requeued. */
  unbury(id: number): Promise<void>;
}
