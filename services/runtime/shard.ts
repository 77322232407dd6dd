/**
 * One shard: reads its mailbox, lets each message step the session that it is addressed to, and commits the
 * steps of many sessions at once.
 *
 * Owns     the shard's position, and the order in which its messages are applied, committed and released.
 * Asks     Arrivals how far it has come, Loader for sessions, Stepper for steps, CommitRounds when to commit, SessionStore to commit, Outbox to
 *          release, Windows to let effects into the queues, Baselines to put away, Wakes to tell whose time has come.
 *
 * S1  Messages of a session are applied in order; different sessions do not wait for each other.
 * S2  The position moves only in the commit that applies the messages before it (or finds nothing to apply).
 * S3  An effect leaves only after its commit was acknowledged; once the shard is lost, nothing more is released.
 * S4  While the log holds messages from before the take-over, what steps want is held back (S5 tells until when).
 * S5  When the position has reached the end that the log had at take-over, what is still pending is released.
 * S6  What cannot be applied becomes a dead letter, and the next message goes on.
 */
import { messageOf, Unavailable } from '../core/errors.ts';
import { type SessionId, type ShardId, shardOf } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import { beginning, isEnded, type Position } from '../core/session/record.ts';
import type { ParsedEnvelope } from '../core/wire/envelopes.ts';
import { mailIdentity, outboxIdentity } from '../core/wire/letters.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Effects } from '../ports/effects.ts';
import type { Events } from '../ports/events.ts';
import type { Lease } from '../ports/leases.ts';
import type { MailBatch, Mailbox, Reading } from '../ports/mailbox.ts';
import {
  type Commit,
  type SessionStore,
  type ShardPosition,
  unsent,
} from '../ports/session-store.ts';
import type { Starts } from '../ports/starts.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { Actor, type Waiting } from './actor.ts';
import { Arrivals } from './arrivals.ts';
import { Baselines } from './baselines.ts';
import type { CommitRounds } from './commit-rounds.ts';
import { DeadLetters } from './dead-letters.ts';
import type { Definitions } from './definitions.ts';
import { Drafts } from './drafts.ts';
import { Loader } from './loader.ts';
import { openingOf } from './opening.ts';
import { Outbox } from './outbox.ts';
import { tellTooLarge } from './release.ts';
import { Residents } from './residents.ts';
import { Stepper } from './stepper.ts';
import { Wakes } from './wakes.ts';
import type { ShardWindows, Windows } from './windows.ts';

export interface ShardPorts {
  readonly mailbox: Mailbox;
  readonly store: SessionStore;
  readonly archive: Archive;
  readonly effects: Effects;
  readonly events: Events;
  readonly starts: Pick<Starts, 'create'>;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
  readonly definitions: Definitions;
  readonly shards: number;
  readonly windows: Windows;
  readonly rounds: CommitRounds;
}

/** `newer`: something of it was written by a newer release. */
export type LostBecause = 'fenced' | 'stale' | 'unavailable' | 'newer';

const lazyCommitMs = 25; // a commit that only settles or moves the position waits for company

export class Shard {
  readonly id: ShardId;
  readonly lease: Lease;
  readonly #ports: ShardPorts;
  readonly #onLost: (why: LostBecause, detail: string) => void;
  readonly #isRepaired: boolean;
  readonly #residents = new Residents();
  readonly #arrivals = new Arrivals(() => this.#scheduleLazily());
  #reading: Reading | undefined;
  #position: Position = beginning;
  #at: ShardPosition | undefined;
  #log = 0;
  #queue = 0;
  #incarnation = 0;
  #catchUpTo = 0;
  #offersAll = false;
  readonly #drafts = new Drafts();
  readonly #outbox: Outbox;
  readonly #windows: ShardWindows;
  readonly #deadLetters: DeadLetters;
  readonly #baselines: Baselines;
  readonly #loader: Loader;
  readonly #stepper: Stepper;
  readonly #wakes: Wakes;
  #isCommitting = false;
  #isScheduled = false;
  #lazy: NodeJS.Timeout | undefined;
  #isOpen = false;
  #isPaused = false;

  /** @param isRepaired  what disagrees with itself in the store is built again from the log */
  constructor(
    lease: Lease,
    ports: ShardPorts,
    onLost: (why: LostBecause, detail: string) => void,
    isRepaired = false,
  ) {
    this.id = lease.shard;
    this.lease = lease;
    this.#ports = ports;
    this.#onLost = onLost;
    this.#isRepaired = isRepaired;
    const isOpen = () => this.#isOpen;
    this.#windows = ports.windows.open({
      isOpen,
      isWanted: ({ session, id }) => {
        if (this.#residents.knownOfEnded(session)) return false;
        const record = this.#residents.get(session)?.record;
        return record === undefined || record.pending[id] !== undefined;
      },
      refused: (effect, error) => tellTooLarge(effect, error, this.#ports),
    });
    this.#outbox = new Outbox(
      this.id,
      { ...ports, effects: { ...ports.effects, offer: this.#windows.offer } },
      isOpen,
      (actors) => this.#released(actors),
    );
    this.#deadLetters = new DeadLetters(this.id, ports, isOpen);
    this.#baselines = new Baselines(this.id, ports, this.#residents, {
      isOpen,
      isHolding: () => this.#outbox.isHolding,
      hasDraft: (session) => this.#drafts.has(session),
      hasUnreleased: (session) => this.#outbox.hasUnreleased(session),
      onWritten: () => this.#schedule(),
    });
    const rooms = {
      residents: this.#residents,
      baselines: this.#baselines,
      drafts: this.#drafts,
      outbox: this.#outbox,
    };
    this.#loader = new Loader(lease, ports, rooms, {
      isOpen,
      position: () => this.#position,
      onDraft: () => this.#schedule(),
      onFenced: () => this.#lose('fenced', 'discard'),
      onNewer: (error) => this.#lose('newer', error.message),
      onLate: ({ tenant, session, known }, { incoming: { message }, done }) =>
        this.#stepper.tooLate({ tenant, session, message }, known, done),
    });
    this.#wakes = new Wakes(this.id, ports, this.#residents);
    const stepperRooms = {
      ...rooms,
      windows: this.#windows,
      deadLetters: this.#deadLetters,
      wakes: this.#wakes,
    };
    this.#stepper = new Stepper(this.id, ports.telemetry, stepperRooms, () => this.#schedule());
  }

  // ---- life -------------------------------------------------------------------------------------

  async open(): Promise<void> {
    const { store, mailbox, effects, telemetry } = this.#ports;
    // All at once, after the lease: nobody else writes here any more, and every question sees what the last owner committed.
    const [state, bounds, queue, last] = await Promise.all([
      store.open(this.id),
      mailbox.bounds(),
      effects.life(),
      mailbox.lastOf(this.id),
    ]);
    if (state.problem !== undefined) await this.#clearPosition(state.problem);
    const readAt = await mailbox.timeOf(state.at?.position.sequence ?? 0);
    const opening = openingOf(state, bounds, queue, readAt);
    const { isReborn, readAfter } = opening;
    this.#at = state.at;
    this.#log = bounds.created;
    this.#queue = queue;
    this.#position = opening.position;
    this.#incarnation = opening.incarnation;
    this.#offersAll ||= opening.offersAll;
    if (isReborn) {
      const { position, incarnation } = opening;
      telemetry.log('error', 'the mail stream went back; a new incarnation begins', {
        shard: this.id,
        stored: position.sequence,
        stream: bounds.last,
        incarnation,
      });
      if ((await store.clearFloors(this.id, this.lease.token)) === 'fenced')
        throw new Unavailable('FENCED_AT_OPEN', `shard ${this.id} was taken while it was opened`);
    } else for (const [session, sequence] of state.floors) this.#baselines.need(session, sequence);
    this.#catchUpTo = last;
    this.#outbox.isHolding = true;
    const poisoned = this.#outbox.restore(state.outbox);
    this.#isOpen = true;
    // Poisoned entries: what they said of pending effects is known without them; ends and events that only they knew of are for a person to look at.
    this.#offersAll ||= poisoned.length > 0;

    // Records without a position: it could not be read, now or by an owner that died before it stored another. They know which life of the log it
    // is, and what of it they have heard; whether all that is pending was offered, only the position knew.
    const latest = state.at ? undefined : await this.#loader.latestIncarnation();
    if (latest !== undefined) {
      this.#incarnation = latest;
      this.#offersAll = true;
    }
    if (opening.archive) {
      this.#incarnation = Math.max(
        this.#incarnation,
        await this.#loader.restoreArchived(
          state.at !== undefined || latest !== undefined,
          opening.archive.since,
        ),
      );
    }

    if (this.#isRepaired) await this.#repair();
    for (const session of this.#baselines.unsettled())
      if (!this.#residents.get(session)) this.#activate(session);
    const reading = await mailbox.read(
      this.id,
      readAfter,
      (batch) => this.#receive(batch),
      () => this.#lose('stale', 'the mail stream went back'),
    );
    this.#reading = reading;
    if (!this.#isOpen) return void reading.stop();
    for (const { id, body, problem } of poisoned) this.#deadLetterEntry(id, body, problem);
    if (this.#catchUpTo > readAfter) return;
    // Sessions that were rebuilt must be stored before what they want may leave (S3).
    while (this.#isOpen && (this.#drafts.size > 0 || this.#isCommitting)) {
      await this.#commit();
      await this.#ports.clock.sleep(1);
    }
    await this.#letGo();
  }

  /** Two commits in a row were stale at one place: what disagrees with itself is built again from the log. */
  async #repair(): Promise<void> {
    const { store, telemetry } = this.#ports;
    for (const session of await store.disagreeing(this.id)) {
      telemetry.log('error', 'what is stored of a session disagrees; it is built again', {
        shard: this.id,
        session,
      });
      if ((await store.discard(this.id, this.lease.token, session)) === 'fenced')
        throw new Unavailable('FENCED_AT_OPEN', `shard ${this.id} was taken while it was opened`);
      if (!this.#residents.get(session)) this.#activate(session);
    }
  }

  /** All else is there and may be well: the log is read from its beginning, and sessions skip what they have heard. */
  async #clearPosition(problem: string): Promise<void> {
    this.#ports.telemetry.refused('redis', 'POSITION_POISONED', { shard: this.id, cause: problem });
    if ((await this.#ports.store.clearPosition(this.id, this.lease.token)) === 'fenced') {
      throw new Unavailable('FENCED_AT_OPEN', `shard ${this.id} was taken while it was opened`);
    }
  }

  /** An outbox entry that cannot be read. It is settled only once its text is a dead letter; cut, because JSON within JSON is longer and must fit into one message. */
  #deadLetterEntry(id: number, body: string, problem: string): void {
    const isCut = body.length > limits.taskBytesMax;
    const letter = {
      body: body.slice(0, limits.taskBytesMax),
      identity: outboxIdentity(this.id, id, body),
      ...(isCut ? { isCut } : {}),
    };
    this.#deadLetters.put(
      'OUTBOX_POISONED',
      `entry ${id} of shard ${this.id}: ${problem}`,
      letter,
      () => this.#outbox.settle(id),
    );
  }

  /** Stop at once: the shard is lost. Nothing is written or released any more. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    clearTimeout(this.#lazy);
    void this.#reading?.stop();
    this.#windows.close();
    this.#residents.clear();
  }

  /** Take nothing new, commit what is held, and let go. */
  async drain(): Promise<void> {
    await this.#reading?.stop();
    for (let waited = 0; this.#isOpen && waited < 100; waited += 1) {
      if (!this.#isCommitting && this.#drafts.size === 0 && this.#arrivals.backlog === 0) break;
      this.#schedule();
      await this.#ports.clock.sleep(5);
    }
    this.close();
  }

  /** What the store should say of this shard now; undefined while a commit is under way, or it is not open. */
  get standing(): { readonly at: ShardPosition | undefined } | undefined {
    return this.#isOpen && !this.#isCommitting ? { at: this.#at } : undefined;
  }

  /** Which life of the effect queue was given all that is pending; undefined while it is not settled. */
  get queueLife(): number | undefined {
    return this.isCaughtUp && !this.#offersAll ? this.#queue : undefined;
  }

  get committedAt(): ShardPosition | undefined {
    return this.#at;
  }

  /** The store says another thing: it went back, and what was committed is read again. */
  notAsStored(): void {
    this.#lose('stale', 'the store went back');
  }

  get actors(): number {
    return this.#residents.size;
  }
  get backlog(): number {
    return this.#arrivals.backlog;
  }
  get unsettled(): number {
    return this.#outbox.unsettled;
  }
  get position(): Position {
    return this.#position;
  }
  get isCaughtUp(): boolean {
    return this.#isOpen && !this.#outbox.isHolding;
  }

  // ---- receive ----------------------------------------------------------------------------------

  #receive(batch: MailBatch): void {
    if (!this.#isOpen) return;
    this.#ports.telemetry.received(batch.items.length);
    const done = this.#arrivals.add(batch.sequence, batch.at, batch.items.length);
    if (!this.#isPaused && this.#arrivals.isTooMany) {
      this.#isPaused = true;
      this.#reading?.pause();
    }
    batch.items.forEach((item, index) => {
      this.#deliver(
        item,
        { incarnation: this.#incarnation, sequence: batch.sequence, index },
        batch.at,
        done,
      );
    });
  }

  #deliver(item: ParsedEnvelope, position: Position, at: number, done: () => void): void {
    const identity = mailIdentity(this.id, position);
    if (!item.ok && item.isNewer)
      return this.#lose('newer', `mail ${position.sequence} is of a newer release`);
    if (!item.ok)
      return this.#deadLetters.put(
        'MAIL_INVALID',
        item.problem,
        { body: item.raw, identity },
        done,
      );
    const { tenant, session, message } = item.envelope;
    if (shardOf(tenant, session, this.#ports.shards) !== this.id) {
      return this.#deadLetters.put(
        'MAIL_MISROUTED',
        `session ${session} does not belong to shard ${this.id}`,
        { tenant, session, body: JSON.stringify(item.envelope), identity },
        done,
      );
    }
    // Its performer is done with it, whatever its session makes of the answer.
    if ('effect' in message) this.#windows.answered(message.effect, message);
    const known = this.#residents.knownOfEnded(session);
    if (known) return this.#stepper.tooLate(item.envelope, known, done);
    const actor = this.#residents.get(session) ?? this.#activate(session, tenant);
    actor.heardAt = this.#ports.clock.now();
    const waiting: Waiting = { incoming: { message, at, position }, tenant, done };
    if (actor.isLoading || actor.waiting.length > 0) actor.waiting.push(waiting);
    else this.#apply(actor, waiting);
  }

  #apply(actor: Actor, waiting: Waiting): void {
    if (actor.isGone)
      return this.#stepper.tooLate(
        { tenant: actor.tenant, session: actor.session, message: waiting.incoming.message },
        actor.known,
        waiting.done,
      );
    // An event may have come first, from anybody: whose a session is, what begins it says.
    const { message } = waiting.incoming;
    if (!actor.record && message.kind !== 'event' && waiting.tenant) actor.tenant = waiting.tenant;
    if (actor.definition) return this.#stepper.apply(actor, waiting);
    actor.isLoading = true;
    actor.waiting.unshift(waiting);
    void this.#load(actor);
  }

  // ---- activate and passivate -------------------------------------------------------------------

  #activate(session: SessionId, tenant?: Actor['tenant']): Actor {
    const actor = new Actor((tenant ?? '') as Actor['tenant'], session, this.#ports.clock.now());
    this.#residents.add(actor);
    void this.#load(actor);
    return actor;
  }

  async #load(actor: Actor): Promise<void> {
    const refusal = await this.#loader.load(actor);
    if (!this.#isOpen) return;
    if (refusal) return this.#stepper.withoutDefinition(actor, refusal);
    actor.isLoading = false;
    for (const waiting of actor.waiting.splice(0)) {
      if (actor.isLoading) actor.waiting.push(waiting);
      else this.#apply(actor, waiting);
    }
    if (actor.isGone || (!actor.record && actor.waiting.length === 0))
      this.#residents.forget(actor);
    else if (actor.record && isEnded(actor.record)) void this.#baselines.write(actor);
  }

  /** Once a second: put away what is idle, wake what is due. */
  async sweep(now: number): Promise<void> {
    if (!this.#isOpen) return;
    const idle = [...this.#residents.all()].filter(
      (actor) =>
        !actor.isLoading &&
        actor.record &&
        (actor.wantsBaseline || isEnded(actor.record) || now - actor.heardAt > limits.idleMs),
    );
    void this.#baselines.writeAll(idle);
    if (!this.#outbox.isHolding) await this.#wakes.tellDue(now);
  }

  // ---- commit -----------------------------------------------------------------------------------

  #schedule(): void {
    if (this.#isScheduled || this.#isCommitting || !this.#isOpen) return;
    this.#isScheduled = true;
    this.#ports.rounds.join(() => {
      this.#isScheduled = false;
      return this.#commit().catch((error: unknown) => this.#lose('unavailable', messageOf(error)));
    });
  }

  #scheduleLazily(): void {
    if (this.#lazy || this.#isScheduled || this.#isCommitting || !this.#isOpen) return;
    this.#lazy = setTimeout(() => {
      this.#lazy = undefined;
      this.#schedule();
    }, lazyCommitMs);
  }

  #reached(): Pick<ShardPosition, 'position' | 'at'> {
    const last = this.#arrivals.takePassed();
    if (!last) return { position: this.#position, at: this.#at?.at };
    return {
      position: { incarnation: this.#incarnation, sequence: last.sequence, index: 0 },
      at: last.at,
    };
  }

  async #commit(): Promise<void> {
    if (this.#isCommitting || !this.#isOpen) return;
    const { position: to, at } = this.#reached();
    if (
      this.#drafts.size === 0 &&
      !this.#outbox.hasSettled &&
      !this.#baselines.hasWritten &&
      to === this.#position
    )
      return;
    clearTimeout(this.#lazy);
    this.#lazy = undefined;
    this.#isCommitting = true;

    const gathered = this.#drafts.take(this.#baselines.floorOf);
    const settled = this.#outbox.takeSettled();
    const archived = this.#baselines.take();
    const outboxId = this.#outbox.nextId;

    // While not everything pending has been offered, the next owner must know, for the outbox may not.
    const queue = this.#offersAll || this.#windows.hasUnsent ? unsent : this.#queue;
    const after: ShardPosition = {
      position: to,
      commits: (this.#at?.commits ?? 0) + 1,
      log: this.#log,
      queue,
      at,
    };
    const commit: Commit = {
      from: this.#at,
      to: after,
      sessions: gathered.sessions,
      ...(gathered.isQuiet ? {} : { outbox: { id: outboxId, body: gathered.outboxBody() } }),
      settled,
      archived: this.#baselines.forCommit(archived),
    };
    const from = performance.now();
    let result: Awaited<ReturnType<SessionStore['commit']>>;
    try {
      result = await this.#ports.store.commit(this.id, this.lease.token, commit);
    } catch (error) {
      return this.#lose('unavailable', messageOf(error));
    }
    this.#isCommitting = false;
    if (result !== 'committed') return this.#lose(result, 'commit');
    if (!this.#isOpen) return;
    this.#position = to;
    this.#at = after;
    this.#ports.telemetry.committed(
      gathered.sessions.length,
      gathered.steps,
      (performance.now() - from) / 1_000,
    );
    gathered.committed();
    this.#outbox.settled(settled.length);
    this.#baselines.committed(archived);
    const { entry, effects, actors } = gathered;
    if (!gathered.isQuiet) this.#outbox.add({ id: outboxId, entry, effects, actors });
    // Not awaited: this commit's round, and with it other shards, would wait for it.
    if (this.#outbox.isHolding && to.sequence >= this.#catchUpTo)
      this.#letGo().catch((error: unknown) => this.#lose('unavailable', messageOf(error)));
    if (this.#isPaused && this.#arrivals.isFewAgain) {
      this.#isPaused = false;
      this.#reading?.resume();
    }
    if (this.#drafts.size > 0 || this.#baselines.hasWritten) this.#schedule();
    else if (this.#outbox.hasSettled || this.#arrivals.hasPassed) this.#scheduleLazily();
  }

  #lose(why: LostBecause, detail: string): void {
    if (!this.#isOpen) return;
    this.close();
    this.#onLost(why, detail);
  }

  // ---- release ----------------------------------------------------------------------------------

  /** What actors wanted has left: those that have ended can be archived. */
  #released(actors: readonly Actor[]): void {
    for (const actor of actors)
      if ((actor.record && isEnded(actor.record)) || actor.wantsBaseline)
        void this.#baselines.write(actor);
    if (this.#outbox.isCrowded) this.#schedule();
    else this.#scheduleLazily();
  }

  /** The fold has reached the end that the log had (S5). */
  async #letGo(): Promise<void> {
    await this.#outbox.letGo(this.#offersAll);
    this.#offersAll = false;
    for (const actor of this.#residents.all())
      if (actor.record && isEnded(actor.record)) void this.#baselines.write(actor);
  }

  /** The effect queue was lost. */
  async releaseAllPending(): Promise<void> {
    const queue = await this.#ports.effects.life();
    if (!this.#isOpen || this.#outbox.isHolding) {
      this.#offersAll = true; // when it has caught up
      return;
    }
    await this.#outbox.offerAllPending();
    this.#queue = queue;
  }
}
