import type { StepEvent, UnderstudyEvent } from '../core/wire/cloud-event.ts';

/** A dead letter without what was in it. */
export interface LetterHead {
  /** Sequence in DEAD: its name for requeueing. */
  readonly id: number;
  readonly tenant: string;
  readonly agent: string;
  /** When it was stored, epoch ms. */
  readonly at: number;
  readonly code: string;
  readonly reason: string;
  readonly session?: string | undefined;
  readonly task?: string | undefined;
  /** Where it came from, to be published there again. Empty for what was not a task. */
  readonly subject: string;
  /** The body was too large to keep: this is its beginning only. */
  readonly isCut?: boolean | undefined;
}

export interface DeadLetter extends LetterHead {
  /** What it is about: a hash over session and task id. Letters of an early version have none. */
  readonly identity?: string | undefined;
  readonly body: string;
  readonly headers: Readonly<Record<string, string>>;
}

/** A letter that is to be stored. `identity`: what it is about, so that it is stored once however often it comes. */
export type NewDeadLetter = Omit<DeadLetter, 'id' | 'at'> & { readonly identity: string };

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
 * Guarantee: steps at least once, with an id that is the same each time; per session in order of versions, the end last, but
 *            for what had to be sent again: it may come late. Who needs the order sorts by `data.version`. The end of a task
 *            exactly once, whatever is cut, paused or sent again; likewise a dead letter.
 * Errors:    Unavailable from publishSteps, publishEnd and putDeadLetter; publish again.
 */
export interface Events {
  /** Tell steps. They may be held for `limits.eventsWaitMs` and some milliseconds more, so that those of many sessions leave together. */
  publishSteps(steps: readonly StepEvent[]): Promise<void>;
  /**
   * Tell an end at once, after the steps before it: somebody waits for it.
   *
   * @param shard  of its session: ends of one shard are told in order
   * @returns false when the end of this task had been told before, and this one was not
   */
  publishEnd(event: UnderstudyEvent, shard?: number): Promise<boolean>;
  /** Ends of a session that were told since a time, epoch ms, in order. */
  endsOf(
    session: { readonly tenant: string; readonly agent: string; readonly session: string },
    shard: number,
    since: number,
  ): Promise<UnderstudyEvent[]>;
  /** @param fromStart  also what happened before now */
  follow(
    filter: EventFilter,
    fromStart: boolean,
    onEvent: (event: UnderstudyEvent) => void,
  ): Promise<{ stop(): Promise<void> }>;
  /** Store a dead letter, once for its identity, and tell its tenant. */
  putDeadLetter(letter: NewDeadLetter): Promise<void>;
  /** Heads, newest first. @param before  only letters with a smaller number */
  deadLetters(max: number, before?: number): Promise<LetterHead[]>;
  deadLetter(id: number): Promise<DeadLetter | undefined>;
  /** The letter of a task, by the session that it is for; the newest where there are several. */
  letterOf(
    tenant: string,
    agent: string,
    session: string,
    task: string,
  ): Promise<LetterHead | undefined>;
  countDeadLetters(): Promise<number>;
  /** Take a dead letter away: it was requeued, or is thrown away. @returns false when it was not there */
  removeDeadLetter(id: number): Promise<boolean>;
}
