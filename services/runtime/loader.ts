/**
 * Brings sessions into memory: from the store, or from their log when the store does not know them.
 *
 * V1  What the log knows and the store does not is folded again; nothing is guessed.
 * V2  A rebuilt session asks again for what is pending, under the same ids.
 */
import { isNewer, messageOf, Refused, Unavailable } from '../core/errors.ts';
import type { SessionId } from '../core/ids.ts';
import { offeredAgain } from '../core/session/effects.ts';
import { parseRecord } from '../core/session/migrate.ts';
import { isEnded, knownOf, type Position, type SessionRecord } from '../core/session/record.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Lease } from '../ports/leases.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { SessionStore } from '../ports/session-store.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { Actor, type Waiting } from './actor.ts';
import type { Baselines } from './baselines.ts';
import type { Definitions } from './definitions.ts';
import type { Drafts } from './drafts.ts';
import { fold, historyOf, revisionOf } from './fold.ts';
import type { Outbox } from './outbox.ts';
import type { Residents } from './residents.ts';

export interface LoaderPorts {
  readonly store: SessionStore;
  readonly archive: Archive;
  readonly mailbox: Mailbox;
  readonly definitions: Definitions;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
}

/** What a session is loaded into. */
export interface LoaderRooms {
  readonly residents: Residents;
  readonly baselines: Baselines;
  readonly drafts: Drafts;
  readonly outbox: Outbox;
}

export interface LoaderHost {
  isOpen(): boolean;
  position(): Position;
  /** Something was gathered for the next commit. */
  onDraft(): void;
  onFenced(): void;
  /** Something of the shard was written by a newer release: it is not ours to open. */
  onNewer(error: Refused): void;
  /** Mail for a session that nobody knows. */
  onLate(actor: Actor, waiting: Waiting): void;
}

export class Loader {
  readonly #lease: Lease;
  readonly #ports: LoaderPorts;
  readonly #rooms: LoaderRooms;
  readonly #host: LoaderHost;

  constructor(lease: Lease, ports: LoaderPorts, rooms: LoaderRooms, host: LoaderHost) {
    this.#lease = lease;
    this.#ports = ports;
    this.#rooms = rooms;
    this.#host = host;
  }

  /** Tries until it is done or the shard is lost. @returns why nothing can step this session, if so */
  async load(actor: Actor): Promise<Refused | undefined> {
    for (let attempt = 0; this.#host.isOpen(); attempt += 1) {
      try {
        await this.#loadOnce(actor);
        return undefined;
      } catch (error) {
        if (isNewer(error)) {
          this.#host.onNewer(error);
          return undefined;
        }
        if (!(error instanceof Unavailable))
          return error instanceof Refused
            ? error
            : new Refused('SESSION_UNREADABLE', messageOf(error), { cause: error });
        await this.#ports.clock.sleep(Math.min(2_000, 50 * 2 ** Math.min(attempt, 6)));
      }
    }
    return undefined;
  }

  async #loadOnce(actor: Actor): Promise<void> {
    const { definitions, telemetry } = this.#ports;
    if (!actor.record) {
      await this.#loadRecord(actor);
      if (actor.isGone) return;
    }
    const first = actor.waiting[0]?.incoming.message;
    const revision = actor.record?.revision ?? (first && revisionOf(first));
    if (revision && !actor.definition) actor.definition = await definitions.get(revision);
    if (actor.record || !first || revision) return;
    // Late mail for a session that the archive has forgotten, or never knew.
    const begins = actor.waiting.findIndex(({ incoming }) => revisionOf(incoming.message));
    const late = begins < 0 ? actor.waiting.length : begins;
    for (const waiting of actor.waiting.splice(0, late)) {
      // Nobody hears it, and who published it hears that.
      if (waiting.incoming.message.kind === 'event') {
        this.#host.onLate(actor, waiting);
        continue;
      }
      telemetry.seen('no-session');
      waiting.done();
    }
    const next = actor.waiting[0] && revisionOf(actor.waiting[0].incoming.message);
    if (next) actor.definition = await definitions.get(next);
  }

  async #loadRecord(actor: Actor): Promise<void> {
    const { store, archive, telemetry } = this.#ports;
    const shard = this.#lease.shard;
    const hasFloor = this.#rooms.baselines.floorOf(actor.session) !== undefined;
    const text = await store.load(shard, actor.session);
    let isPoisoned = false;
    if (text !== undefined) {
      try {
        actor.record = parseRecord(text);
        actor.tenant = actor.record.tenant;
        actor.committedVersion = actor.record.version;
        actor.isMailComplete = !hasFloor;
        return;
      } catch (error) {
        if (isNewer(error)) throw error;
        isPoisoned = true;
        telemetry.refused('redis', error instanceof Refused ? error.code : 'RECORD_POISONED', {
          session: actor.session,
          shard,
        });
      }
    }
    const latest = await archive.latest(shard, actor.session);
    if (latest && isEnded(latest.record) && !hasFloor) {
      actor.isGone = true;
      actor.known = knownOf(latest.record);
      return;
    }
    // The log knows what the store does not: fold it again.
    if (latest || isPoisoned || hasFloor) await this.#rebuild(actor, isPoisoned);
  }

  /** Fold a session from its archive and its mail, and put the result in the store's place. */
  async #rebuild(actor: Actor, isPoisoned: boolean): Promise<void> {
    const { store, definitions, telemetry } = this.#ports;
    const { baselines, drafts, outbox } = this.#rooms;
    const { shard, token } = this.#lease;
    // What waits is left to be stepped: a fold tells nobody what it wanted.
    const waits = actor.waiting[0]?.incoming.position;
    const {
      mail,
      baseline,
      sequence,
      tenant = actor.tenant,
    } = await historyOf(
      shard,
      actor.session,
      this.#ports,
      waits ?? this.#host.position(),
      waits !== undefined,
    );
    const folded = await fold(mail, { tenant, session: actor.session }, definitions);
    telemetry.log('warn', 'session rebuilt from its log', {
      session: actor.session,
      shard,
      version: folded.record?.version,
      messages: folded.messages,
    });
    if (isPoisoned && (await store.discard(shard, token, actor.session)) === 'fenced')
      return this.#host.onFenced();
    if (!folded.record) return;
    actor.record = folded.record;
    actor.tenant = folded.record.tenant;
    actor.committedVersion = 0;
    actor.isMailComplete = false;
    actor.archivedVersion = baseline?.version ?? 0;
    baselines.need(actor.session, sequence ?? folded.record.position.sequence);
    const pending = folded.pending.map(offeredAgain);
    drafts.replace(actor, { ...folded, record: folded.record, pending });
    // Nobody may know any more what was asked for: ask again (V2).
    if (outbox.isHolding)
      outbox.add({
        id: 0,
        entry: { pending: pending.map(({ id }) => id), prompts: [], events: [] },
        effects: pending,
        actors: [],
      });
    this.#host.onDraft();
  }

  /**
   * After a loss: bring back every session whose last baseline is newer than what the store has. One that cannot be brought back holds
   * nobody up: whoever asks for it, or writes to it, is told why.
   *
   * @param since  nothing that was archived before is missing in the store; undefined when all may be
   * @returns the latest incarnation that a baseline speaks of
   */
  async restoreArchived(hasState: boolean, since: number | undefined): Promise<number> {
    const { archive, definitions, telemetry, clock } = this.#ports;
    const { residents } = this.#rooms;
    const { shard } = this.#lease;
    let restored = 0;
    let incarnation = 0;
    const tellLeft = (session: SessionId, cause: string) =>
      telemetry.log('error', 'a session could not be restored from the archive', {
        session,
        shard,
        cause,
      });
    for await (const { record: written } of archive.latestOf(shard, tellLeft, since)) {
      // What was written last may be of the past of its session: what has ended stays so, of others the chain is asked.
      const record = isEnded(written) ? written : await this.#latestOf(written);
      incarnation = Math.max(incarnation, record.position.incarnation);
      if (hasState && (await this.#hasNewer(record.session, isEnded(record), record.version)))
        continue;
      // With a floor it is folded when the shard's unsettled sessions are, and put away for good.
      if (isEnded(record)) continue;
      const actor = new Actor(record.tenant, record.session, clock.now());
      residents.add(actor);
      try {
        actor.definition = await definitions.get(record.revision);
        await this.#rebuild(actor, false);
      } catch (error) {
        // As in `load`: whatever cannot be tried again is this session's own trouble.
        if (error instanceof Unavailable || isNewer(error)) throw error;
        tellLeft(record.session, messageOf(error));
        residents.forget(actor);
        continue;
      }
      actor.isLoading = false;
      restored += 1;
    }
    if (restored > 0)
      telemetry.log('warn', 'sessions restored from the archive', { shard, sessions: restored });
    return incarnation;
  }

  /** One whose chain cannot be read is left as it was found: whoever folds it is told. */
  async #latestOf(written: SessionRecord): Promise<SessionRecord> {
    try {
      return (
        (await this.#ports.archive.latest(this.#lease.shard, written.session))?.record ?? written
      );
    } catch (error) {
      if (error instanceof Unavailable || isNewer(error)) throw error;
      return written;
    }
  }

  /** Which life of the log the records know of, as far as they can be read. @returns undefined where none is stored */
  async latestIncarnation(): Promise<number | undefined> {
    let latest: number | undefined;
    for await (const { record } of this.#ports.store.records(this.#lease.shard))
      latest = Math.max(latest ?? 0, readable(record)?.position.incarnation ?? 0);
    return latest;
  }

  /** Does the store have this version or a later one? If what it has is older, it is discarded. */
  async #hasNewer(session: SessionId, isOver: boolean, version: number): Promise<boolean> {
    const { store } = this.#ports;
    const { shard, token } = this.#lease;
    const text = await store.load(shard, session);
    if (text === undefined) return false;
    if (!isOver && (readable(text)?.version ?? 0) >= version) return true;
    if ((await store.discard(shard, token, session)) === 'fenced')
      throw new Unavailable('FENCED_AT_OPEN', `shard ${shard} was taken while it was opened`);
    return false;
  }
}

/** What does not parse is older than any baseline, and is built again from the log when somebody asks for it. */
function readable(text: string): SessionRecord | undefined {
  try {
    return parseRecord(text);
  } catch (error) {
    if (isNewer(error)) throw error;
    return undefined;
  }
}
