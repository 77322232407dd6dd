/** A session in memory: its record, its machine's snapshot, and the mail since its last baseline. */
import type { AnyMachineSnapshot } from 'xstate';
import type { SessionId, TenantId } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import type { Definition, Incoming } from '../core/session/draft.ts';
import type { Known, SessionRecord } from '../core/session/record.ts';
import { MailBuffer } from './mail-buffer.ts';

export interface Waiting {
  readonly incoming: Incoming;
  /** Whose mail it is: of an event it need not be the session's own. */
  readonly tenant?: TenantId;
  /** Tells the shard that this message no longer holds its position back. */
  readonly done: () => void;
}

export class Actor {
  /** Empty until the record is loaded, for an actor that was woken by its floor and not by a message. */
  tenant: TenantId;
  readonly session: SessionId;
  record: SessionRecord | undefined;
  live: AnyMachineSnapshot | undefined;
  definition: Definition | undefined;
  /** What came while the record was being loaded. */
  readonly waiting: Waiting[] = [];
  isLoading = true;
  /** The session ended and was archived: whatever comes is late. */
  isGone = false;
  /** Tasks that the session has answered or refused as repeats. */
  known: Known = { tasks: [], events: [] };
  heardAt: number;
  committedVersion = 0;
  /** Outbox entries of this owner's commits with something of this session that has not been released; for an earlier owner's see `Outbox.hasUnreleased`. */
  unreleased = 0;
  isArchiving = false;
  /** A baseline of this version is known to be stored, though no commit has told so: the store lost it. 0 for none. */
  archivedVersion = 0;

  /** Applied since the last baseline; incomplete after a take-over. */
  readonly #mail = new MailBuffer();
  isMailComplete = true;

  constructor(tenant: TenantId, session: SessionId, now: number) {
    this.tenant = tenant;
    this.session = session;
    this.heardAt = now;
  }

  /** @param plainMax  characters that may be kept as they are (`plainMaxOf`) */
  remember(incoming: Incoming, version: number, plainMax: number): void {
    this.#mail.push(version, incoming.position.sequence, JSON.stringify(incoming), plainMax);
  }

  get wantsBaseline(): boolean {
    return (
      this.#mail.length > limits.mailBufferBytes || this.#mail.count > limits.mailBufferMessages
    );
  }

  /** Each as JSON. */
  mailUpTo(version: number): string[] {
    return this.#mail.upTo(version);
  }

  /** A baseline of this version holds it now. @returns the first sequence that the next baseline needs */
  forgetMail(version: number): number | undefined {
    this.isMailComplete = true;
    return this.#mail.forget(version);
  }
}
