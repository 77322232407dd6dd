/**
 * Which mail of a shard is still needed, and the baselines that make it superfluous.
 *
 * Owns     the floors: of each session the first message that no baseline holds.
 *
 * A1  A floor is lifted only by a commit that comes after its baseline was stored.
 * A2  A baseline is of a committed record, and of one whose wishes have left or wait for their window: what has ended leaves nothing behind.
 */
import { messageOf, Unavailable } from '../core/errors.ts';
import type { SessionId, ShardId } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import { comparePositions, isEnded, knownOf, type SessionRecord } from '../core/session/record.ts';
import { summaryOf } from '../core/session/summary.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { Commit } from '../ports/session-store.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import type { Actor } from './actor.ts';
import { collectMail } from './fold.ts';
import type { Residents } from './residents.ts';

export interface BaselinePorts {
  readonly archive: Pick<Archive, 'append'>;
  readonly mailbox: Mailbox;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
}

/** What a baseline must know of its shard. */
export interface BaselineHost {
  isOpen(): boolean;
  /** What steps wanted is held back: an ended session's reply has not been told. */
  isHolding(): boolean;
  hasDraft(session: SessionId): boolean;
  /** Something that an earlier owner committed for it has not left. */
  hasUnreleased(session: SessionId): boolean;
  /** A commit has something to tell. */
  onWritten(): void;
}

const readTogether = 256; // sessions whose mail is in memory at once

interface Due {
  readonly actor: Actor;
  readonly record: SessionRecord;
  readonly floor: number;
}
interface Written {
  readonly actor: Actor;
  readonly version: number;
}
/** A written baseline as the commit tells of it; `floor` is the first message after it that came meanwhile. */
interface Told extends Written {
  readonly floor: number | undefined;
}

export class Baselines {
  readonly #shard: ShardId;
  readonly #ports: BaselinePorts;
  readonly #residents: Residents;
  readonly #host: BaselineHost;
  readonly #floors = new Map<SessionId, number>();
  #written: Written[] = [];

  constructor(shard: ShardId, ports: BaselinePorts, residents: Residents, host: BaselineHost) {
    this.#shard = shard;
    this.#ports = ports;
    this.#residents = residents;
    this.#host = host;
  }

  floorOf = (session: SessionId): number | undefined => this.#floors.get(session);

  /** A message that no baseline holds: the first one counts. */
  need(session: SessionId, sequence: number): void {
    if (!this.#floors.has(session)) this.#floors.set(session, sequence);
  }
  /** Sessions that moved since their last baseline. */
  unsettled(): SessionId[] {
    return [...this.#floors.keys()];
  }

  /** Store a baseline, if this is the time for it. Called as often as you like. */
  write(actor: Actor): Promise<void> {
    return this.writeAll([actor]);
  }

  /** As `write`, of many: the log is read once for all whose mail is not in memory, a lot of them at a time. */
  async writeAll(actors: Iterable<Actor>): Promise<void> {
    const due: Due[] = [];
    for (const actor of actors) {
      const { record } = actor;
      if (!record || !this.#isTimeFor(actor, record)) continue;
      const floor = this.#floors.get(actor.session);
      if (floor === undefined) {
        if (!isEnded(record)) this.#residents.forget(actor);
        continue;
      }
      actor.isArchiving = true;
      due.push({ actor, record, floor });
    }
    const isInLog = ({ actor, record }: Due) =>
      !actor.isMailComplete && actor.archivedVersion !== record.version;
    const read = due.filter(isInLog);
    const stored = due
      .filter((one) => !isInLog(one))
      .map((one) => this.#store(one, () => one.actor.mailUpTo(one.record.version)));
    for (let from = 0; from < read.length; from += readTogether)
      await this.#storeFromLog(read.slice(from, from + readTogether));
    await Promise.all(stored);
  }

  #isTimeFor(actor: Actor, record: SessionRecord): boolean {
    return !(
      actor.isArchiving ||
      actor.unreleased > 0 ||
      actor.waiting.length > 0 ||
      this.#host.hasDraft(actor.session) ||
      this.#host.hasUnreleased(actor.session) ||
      actor.committedVersion !== record.version ||
      (this.#host.isHolding() && isEnded(record))
    );
  }

  async #storeFromLog(due: readonly Due[]): Promise<void> {
    const furthest = due.reduce(
      (last, { record }) => (comparePositions(record.position, last) > 0 ? record.position : last),
      due[0]!.record.position,
    );
    const reading = collectMail(
      this.#shard,
      new Map(due.map(({ actor, floor }) => [actor.session, floor])),
      furthest,
      this.#ports.mailbox,
    );
    const heardBy = async ({ actor, record }: Due): Promise<string[]> => {
      const heard = ((await reading).get(actor.session)?.mail ?? []).filter(
        ({ position }) => position.sequence <= record.position.sequence,
      );
      // What stands in the archive is trimmed from the log: a part must never pass for the whole. A message that changed nothing may stand after it.
      const end = heard.at(-1)?.position;
      if (!end || comparePositions(end, record.position) < 0)
        throw new Unavailable(
          'MAIL_SHORT',
          `the log of ${actor.session} was read to ${end?.sequence ?? 'nothing'} only`,
        );
      return heard.map((incoming) => JSON.stringify(incoming));
    };
    await Promise.all(due.map((one) => this.#store(one, () => heardBy(one))));
  }

  async #store({ actor, record }: Due, mailOf: () => string[] | Promise<string[]>): Promise<void> {
    try {
      if (actor.archivedVersion !== record.version)
        await this.#ports.archive.append(this.#shard, record, await mailOf());
      if (!this.#host.isOpen()) return;
      this.#written.push({ actor, version: record.version });
      this.#host.onWritten();
    } catch (error) {
      actor.isArchiving = false;
      this.#ports.telemetry.log('warn', 'baseline not written; the next sweep tries again', {
        session: actor.session,
        shard: this.#shard,
        cause: messageOf(error),
      });
    }
  }

  get hasWritten(): boolean {
    return this.#written.length > 0;
  }

  /** What the next commit tells of. */
  take(): Told[] {
    const written = this.#written;
    this.#written = [];
    return written.map(({ actor, version }) => ({
      actor,
      version,
      floor: actor.forgetMail(version),
    }));
  }

  forCommit(told: readonly Told[]): Commit['archived'] {
    return told.map(({ actor, version, floor }) => ({
      session: actor.session,
      version,
      summary:
        actor.record && isEnded(actor.record) ? JSON.stringify(summaryOf(actor.record)) : undefined,
      floor,
    }));
  }

  /** The commit was acknowledged. */
  committed(told: readonly Told[]): void {
    for (const { actor, version, floor } of told) this.#lift(actor, version, floor);
  }

  #lift(actor: Actor, version: number, floor: number | undefined): void {
    actor.isArchiving = false;
    if (floor !== undefined) {
      this.#floors.set(actor.session, floor);
      return;
    }
    // Mail may have come while the commit was under way: then the floor is still there for it.
    if (actor.record?.version !== version) return;
    this.#floors.delete(actor.session);
    if (isEnded(actor.record)) {
      actor.isGone = true;
      actor.known = knownOf(actor.record);
      this.#residents.forget(actor);
    } else if (this.#ports.clock.now() - actor.heardAt > limits.idleMs)
      this.#residents.forget(actor);
  }
}
