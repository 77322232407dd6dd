/**
 * One shard: reads its mailbox, lets each message step the session that it is addressed to, and commits the
 * steps of many sessions at once.
 *
 * Owns     the shard's position, and the order in which its messages are applied, committed and released.
 * Asks     Loader for sessions, `step` for decisions, CommitRounds when to commit, SessionStore to commit, Outbox to release, Windows to
 *          let effects into the queues, Baselines to put away.
 *
 * S1  Messages of a session are applied in order; different sessions do not wait for each other.
 * S2  The position moves only in the commit that applies the messages before it (or finds nothing to apply).
 * S3  An effect leaves only after its commit was acknowledged; once the shard is lost, nothing more is released.
 * S4  While the log holds messages from before the take-over, what steps want is held back (S5 tells until when).
 * S5  When the position has reached the end that the log had at take-over, what is still pending is released.
 * S6  What cannot be applied becomes a dead letter, and the next message goes on.
 */
import { messageOf, Refused, Unavailable } from '../core/errors.ts';
import { type SessionId, type ShardId, shardOf } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import type { Incoming, Step } from '../core/session/draft.ts';
import { parseRecord } from '../core/session/migrate.ts';
import { beginning, isEnded, type Position } from '../core/session/record.ts';
import { park, step } from '../core/session/step.ts';
import type { Envelope, ParsedEnvelope } from '../core/wire/envelopes.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Effects } from '../ports/effects.ts';
import type { Events } from '../ports/events.ts';
import type { Lease } from '../ports/leases.ts';
import type { MailBatch, Mailbox, Reading } from '../ports/mailbox.ts';
import { type Commit, type SessionStore, type ShardPosition, unsent } from '../ports/session-store.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { Actor, type Waiting } from './actor.ts';
import { Baselines } from './baselines.ts';
import type { CommitRounds } from './commit-rounds.ts';
import { DeadLetters } from './dead-letters.ts';
import type { Definitions } from './definitions.ts';
import { Drafts } from './drafts.ts';
import { Loader } from './loader.ts';
import { plainMaxOf } from './mail-buffer.ts';
import { Outbox } from './outbox.ts';
import { Residents } from './residents.ts';
import type { ShardWindows, Windows } from './windows.ts';

export interface ShardPorts {
  readonly mailbox: Mailbox;
  readonly store: SessionStore;
  readonly archive: Archive;
  readonly effects: Effects;
  readonly events: Events;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
  readonly definitions: Definitions;
  readonly shards: number;
  readonly windows: Windows;
  readonly rounds: CommitRounds;
}

interface Arrived {
  readonly sequence: number;
  open: number;
}

const lazyCommitMs = 25; // a commit that only settles or moves the position waits for company

export class Shard {
  readonly id: ShardId;
  readonly lease: Lease;
  readonly #ports: ShardPorts;
  readonly #onLost: (why: 'fenced' | 'stale' | 'unavailable', detail: string) => void;
  readonly #residents = new Residents();
  readonly #arrived: Arrived[] = [];
  readonly #waking = new Map<SessionId, number>();
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
  #isCommitting = false;
  #isScheduled = false;
  #lazy: NodeJS.Timeout | undefined;
  #isOpen = false;
  #backlog = 0;
  #isPaused = false;

  constructor(lease: Lease, ports: ShardPorts, onLost: (why: 'fenced' | 'stale' | 'unavailable', detail: string) => void) {
    this.id = lease.shard;
    this.lease = lease;
    this.#ports = ports;
    this.#onLost = onLost;
    const isOpen = () => this.#isOpen;
    this.#windows = ports.windows.open({
      isOpen,
      isWanted: ({ session, id }) => {
        if (this.#residents.tasksOfEnded(session)) return false;
        const record = this.#residents.get(session)?.record;
        return record === undefined || record.pending[id] !== undefined;
      },
    });
    this.#outbox = new Outbox(this.id, { ...ports, effects: { ...ports.effects, offer: this.#windows.offer } }, isOpen, (actors) => this.#released(actors));
    this.#deadLetters = new DeadLetters(this.id, ports, isOpen);
    this.#baselines = new Baselines(this.id, ports, this.#residents, {
      isOpen,
      isHolding: () => this.#outbox.isHolding,
      hasDraft: (session) => this.#drafts.has(session),
      hasUnreleased: (session) => this.#outbox.hasUnreleased(session),
      onWritten: () => this.#schedule(),
    });
    const rooms = { residents: this.#residents, baselines: this.#baselines, drafts: this.#drafts, outbox: this.#outbox };
    this.#loader = new Loader(lease, ports, rooms, {
      isOpen,
      position: () => this.#position,
      onDraft: () => this.#schedule(),
      onFenced: () => this.#lose('fenced', 'discard'),
    });
  }

  // ---- life -------------------------------------------------------------------------------------

  async open(): Promise<void> {
    const { store, mailbox, effects, telemetry } = this.#ports;
    // All at once, after the lease: nobody else writes here any more, and every question sees what the last owner committed.
    const [state, bounds, queue, last] = await Promise.all([store.open(this.id), mailbox.bounds(), effects.life(), mailbox.lastOf(this.id)]);
    if (state.problem !== undefined) await this.#clearPosition(state.problem);
    const stored = state.at?.position ?? beginning;
    this.#at = state.at;
    this.#log = bounds.created;
    this.#queue = queue;
    // What is pending was offered to a queue that is no more (it may live in memory): offer it again.
    const isQueueLost = state.at !== undefined && state.at.queue !== this.#queue;
    this.#position = stored;
    this.#incarnation = stored.incarnation;
    // The log went back, or is another one: what it holds now are new messages, or none. Never skip them silently.
    const isReborn = state.at !== undefined && (bounds.last < stored.sequence || state.at.log !== bounds.created);
    if (isReborn) {
      this.#incarnation = stored.incarnation + 1;
      telemetry.log('error', 'the mail stream went back; a new incarnation begins', {
        shard: this.id,
        stored: stored.sequence,
        stream: bounds.last,
        incarnation: this.#incarnation,
      });
      if ((await store.clearFloors(this.id, this.lease.token)) === 'fenced') throw new Unavailable('FENCED_AT_OPEN', `shard ${this.id} was taken while it was opened`);
    } else for (const [session, sequence] of state.floors) this.#baselines.need(session, sequence);
    const readAfter = isReborn ? bounds.first - 1 : stored.sequence;
    this.#offersAll ||= isReborn || isQueueLost;
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
    // Mail from before our position was trimmed while the store went back, or it lost everything: baselines know.
    if (!isReborn && (!state.at || readAfter + 1 < bounds.first)) {
      this.#incarnation = Math.max(this.#incarnation, await this.#loader.restoreArchived(state.at !== undefined || latest !== undefined));
    }

    for (const session of this.#baselines.unsettled()) if (!this.#residents.get(session)) this.#activate(session);
    const reading = await mailbox.read(
      this.id,
      readAfter,
      (batch) => this.#receive(batch),
      () => this.#lose('stale', 'the mail stream went back'),
    );
    this.#reading = reading;
    if (!this.#isOpen) return void reading.stop();
    for (const { id, body, problem } of poisoned) this.#buryEntry(id, body, problem);
    if (this.#catchUpTo > readAfter) return;
    // Sessions that were rebuilt must be stored before what they want may leave (S3).
    while (this.#isOpen && (this.#drafts.size > 0 || this.#isCommitting)) {
      await this.#commit();
      await this.#ports.clock.sleep(1);
    }
    await this.#letGo();
  }

  /** All else is there and may be well: the log is read from its beginning, and sessions skip what they have heard. */
  async #clearPosition(problem: string): Promise<void> {
    this.#ports.telemetry.refused('redis', 'POSITION_POISONED', { shard: this.id, cause: problem });
    if ((await this.#ports.store.clearPosition(this.id, this.lease.token)) === 'fenced') {
      throw new Unavailable('FENCED_AT_OPEN', `shard ${this.id} was taken while it was opened`);
    }
  }

  /** An outbox entry that cannot be read. It is settled only once its text is a dead letter; cut, because JSON within JSON is longer and must fit into one message. */
  #buryEntry(id: number, body: string, problem: string): void {
    const isCut = body.length > limits.taskBytesMax;
    const letter = { body: body.slice(0, limits.taskBytesMax), ...(isCut ? { isCut } : {}) };
    this.#deadLetters.bury('OUTBOX_POISONED', `entry ${id} of shard ${this.id}: ${problem}`, letter, () => this.#outbox.settle(id));
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
      if (!this.#isCommitting && this.#drafts.size === 0 && this.#arrived.every(({ open }) => open === 0)) break;
      this.#schedule();
      await this.#ports.clock.sleep(5);
    }
    this.close();
  }

  get actors(): number {
    return this.#residents.size;
  }
  get backlog(): number {
    return this.#backlog;
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
    const arrived: Arrived = { sequence: batch.sequence, open: batch.items.length };
    this.#arrived.push(arrived);
    this.#backlog += batch.items.length;
    if (!this.#isPaused && this.#backlog > limits.shardBacklogMax) {
      this.#isPaused = true;
      this.#reading?.pause();
    }
    batch.items.forEach((item, index) => {
      const done = () => {
        arrived.open -= 1;
        this.#backlog -= 1;
        if (arrived.open === 0) this.#scheduleLazily();
      };
      const position: Position = { incarnation: this.#incarnation, sequence: batch.sequence, index };
      this.#deliver(item, position, batch.at, done);
    });
  }

  #deliver(item: ParsedEnvelope, position: Position, at: number, done: () => void): void {
    if (!item.ok) return this.#deadLetters.bury('MAIL_INVALID', item.problem, { body: item.raw }, done);
    const { tenant, session, message } = item.envelope;
    if (shardOf(tenant, session, this.#ports.shards) !== this.id) {
      return this.#deadLetters.bury('MAIL_MISROUTED', `session ${session} does not belong to shard ${this.id}`, { tenant, session, body: JSON.stringify(item.envelope) }, done);
    }
    // Its performer is done with it, whatever its session makes of the answer.
    if ('effect' in message) this.#windows.answered(message.effect, message);
    const tasksOfEnded = this.#residents.tasksOfEnded(session);
    if (tasksOfEnded) return this.#tooLate(item.envelope, tasksOfEnded, done);
    const actor = this.#residents.get(session) ?? this.#activate(session, tenant);
    actor.heardAt = this.#ports.clock.now();
    const waiting: Waiting = { incoming: { message, at, position }, done };
    if (actor.isLoading || actor.waiting.length > 0) actor.waiting.push(waiting);
    else this.#apply(actor, waiting);
  }

  /** Mail for a session that has ended: nothing to do, unless it is a task that nobody has answered. */
  #tooLate({ tenant, session, message }: Envelope, tasksKnown: readonly string[], done: () => void): void {
    if (message.kind === 'task' && !tasksKnown.includes(message.task)) {
      const letter = { tenant, agent: message.agent, session, task: message.task, subject: `task.${tenant}.${message.agent}`, body: JSON.stringify(message.input) };
      return this.#deadLetters.bury('SESSION_ENDED', `session ${session} has ended, and task ${message.task} came after that`, letter, done);
    }
    this.#ports.telemetry.seen('session-ended');
    done();
  }

  // ---- step -------------------------------------------------------------------------------------

  #apply(actor: Actor, { incoming, done }: Waiting): void {
    const { telemetry } = this.#ports;
    if (actor.isGone) return this.#tooLate({ tenant: actor.tenant, session: actor.session, message: incoming.message }, actor.tasksKnown, done);
    if (!actor.definition) {
      actor.isLoading = true;
      actor.waiting.unshift({ incoming, done });
      void this.#load(actor);
      return;
    }
    const from = performance.now();
    let stepped: Step | undefined;
    let crash: unknown;
    for (let attempt = 0; attempt < limits.stepTries && !stepped; attempt += 1) {
      try {
        // After a crash the snapshot in memory is not trusted: the record is.
        stepped = step(actor.record, incoming, actor.definition, actor, attempt === 0 ? actor.live : undefined);
      } catch (error) {
        crash = error;
        if (error instanceof Refused) break;
      }
    }
    if (!stepped) return this.#refuse(actor, incoming, crash, done);
    telemetry.stepped((performance.now() - from) / 1_000, incoming.message.kind);
    if (stepped.kind === 'seen') {
      telemetry.seen(stepped.code);
      return done();
    }
    this.#keep(actor, incoming, stepped);
    done();
  }

  #keep(actor: Actor, incoming: Incoming, stepped: Extract<Step, { kind: 'applied' }>): void {
    const { record } = stepped;
    const { telemetry } = this.#ports;
    for (const effect of stepped.settled) this.#windows.answered(effect, undefined);
    this.#drafts.keep(actor, incoming, stepped);
    actor.record = record;
    actor.live = stepped.live;
    actor.remember(incoming, record.version, plainMaxOf(this.#residents.size));
    this.#baselines.need(actor.session, incoming.position.sequence);
    this.#waking.delete(actor.session);
    telemetry.log(isEnded(record) || stepped.happened.kind === 'task-received' ? 'info' : 'debug', 'stepped', {
      session: record.session,
      version: record.version,
      shard: this.id,
      kind: stepped.happened.kind,
      from: stepped.happened.from,
      to: stepped.happened.to,
      effect: 'effect' in incoming.message ? incoming.message.effect : undefined,
      trace: record.traceparent,
    });
    if (record.reason?.startsWith('LIMIT_')) telemetry.limited(record.reason.slice(0, record.reason.indexOf(':')));
    this.#schedule();
  }

  /** A message that no step can be made of: a dead letter, and for a crash the session is parked as well. */
  #refuse(actor: Actor, incoming: Incoming, error: unknown, done: () => void): void {
    const isRefusal = error instanceof Refused;
    const code = isRefusal ? error.code : 'STEP_CRASHED';
    const { message } = incoming;
    const task = message.kind === 'task' ? message.task : actor.record?.task;
    this.#ports.telemetry.log('error', isRefusal ? 'message refused' : 'step crashed', {
      session: actor.session,
      shard: this.id,
      code,
      kind: message.kind,
      cause: messageOf(error).slice(0, 200),
    });
    if (!isRefusal && actor.record && actor.definition) {
      const parked = park(actor.record, incoming, error, actor);
      if (parked.kind === 'applied') this.#keep(actor, incoming, { ...parked, live: undefined });
    }
    const agent = actor.record?.agent ?? (message.kind === 'task' ? message.agent : 'unknown');
    this.#deadLetters.bury(
      code,
      messageOf(error),
      {
        tenant: actor.tenant,
        agent,
        session: actor.session,
        task,
        subject: message.kind === 'task' ? `task.${actor.tenant}.${agent}` : '',
        body: JSON.stringify(message.kind === 'task' ? message.input : message),
      },
      () => (actor.record ? done() : this.#deadLetters.tellParent(message, code, messageOf(error), done)),
    );
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
    if (refusal) return this.#withoutDefinition(actor, refusal);
    actor.isLoading = false;
    for (const waiting of actor.waiting.splice(0)) {
      if (actor.isLoading) actor.waiting.push(waiting);
      else this.#apply(actor, waiting);
    }
    if (actor.isGone || (!actor.record && actor.waiting.length === 0)) this.#residents.forget(actor);
    else if (actor.record && isEnded(actor.record)) void this.#baselines.write(actor);
  }

  /** Nothing can step without a definition: a session that exists is parked and keeps its mail, a task is refused; the shard goes on (S6). */
  #withoutDefinition(actor: Actor, error: Refused): void {
    actor.isLoading = false;
    for (const { incoming, done } of actor.waiting.splice(0)) {
      if (!actor.record) {
        this.#refuse(actor, incoming, error, done);
        continue;
      }
      const stepped = park(actor.record, incoming, error, actor, true);
      if (stepped.kind === 'applied') this.#keep(actor, incoming, { ...stepped, live: undefined });
      done();
    }
    if (!actor.record) this.#residents.forget(actor);
    else this.#ports.telemetry.log('error', 'session parked: its definition cannot be loaded', { session: actor.session, shard: this.id, code: error.code });
  }

  /** Once a second: put away what is idle, wake what is due. */
  async sweep(now: number): Promise<void> {
    if (!this.#isOpen) return;
    for (const actor of this.#residents.all()) {
      if (actor.isLoading || !actor.record) continue;
      if (actor.wantsBaseline || isEnded(actor.record) || now - actor.heardAt > limits.idleMs) void this.#baselines.write(actor);
    }
    if (this.#outbox.isHolding) return;
    for (const session of await this.#ports.store.due(this.id, now, 256)) {
      if (now - (this.#waking.get(session) ?? 0) < 5_000) continue;
      this.#waking.set(session, now);
      const actor = this.#residents.get(session);
      const tenant = actor?.record?.tenant ?? (await this.#tenantOf(session));
      if (tenant) await this.#ports.mailbox.deliver(this.id, { tenant, session, message: { kind: 'wake' } });
    }
  }

  async #tenantOf(session: SessionId): Promise<Actor['tenant'] | undefined> {
    const text = await this.#ports.store.load(this.id, session);
    return text === undefined ? undefined : parseRecord(text).tenant;
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

  #reached(): Position {
    let last: number | undefined;
    while (this.#arrived.length > 0 && this.#arrived[0]!.open === 0) last = this.#arrived.shift()!.sequence;
    return last === undefined ? this.#position : { incarnation: this.#incarnation, sequence: last, index: 0 };
  }

  async #commit(): Promise<void> {
    if (this.#isCommitting || !this.#isOpen) return;
    const to = this.#reached();
    if (this.#drafts.size === 0 && !this.#outbox.hasSettled && !this.#baselines.hasWritten && to === this.#position) return;
    clearTimeout(this.#lazy);
    this.#lazy = undefined;
    this.#isCommitting = true;

    const gathered = this.#drafts.take(this.#baselines.floorOf);
    const settled = this.#outbox.takeSettled();
    const archived = this.#baselines.take();
    const outboxId = this.#outbox.nextId;

    // While not everything pending has been offered, the next owner must know, for the outbox may not.
    const queue = this.#offersAll || this.#windows.hasUnsent ? unsent : this.#queue;
    const after: ShardPosition = { position: to, commits: (this.#at?.commits ?? 0) + 1, log: this.#log, queue };
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
    this.#ports.telemetry.committed(gathered.sessions.length, gathered.steps, (performance.now() - from) / 1_000);
    gathered.committed();
    this.#outbox.settled(settled.length);
    this.#baselines.committed(archived);
    const { entry, effects, actors } = gathered;
    if (!gathered.isQuiet) this.#outbox.add({ id: outboxId, entry, effects, actors });
    // Not awaited: this commit's round, and with it other shards, would wait for it.
    if (this.#outbox.isHolding && to.sequence >= this.#catchUpTo) this.#letGo().catch((error: unknown) => this.#lose('unavailable', messageOf(error)));
    if (this.#isPaused && this.#backlog < limits.shardBacklogMax / 2) {
      this.#isPaused = false;
      this.#reading?.resume();
    }
    if (this.#drafts.size > 0 || this.#baselines.hasWritten) this.#schedule();
    else if (this.#outbox.hasSettled || this.#arrived[0]?.open === 0) this.#scheduleLazily();
  }

  #lose(why: 'fenced' | 'stale' | 'unavailable', detail: string): void {
    if (!this.#isOpen) return;
    this.close();
    this.#onLost(why, detail);
  }

  // ---- release ----------------------------------------------------------------------------------

  /** What actors wanted has left: those that have ended can be archived. */
  #released(actors: readonly Actor[]): void {
    for (const actor of actors) if ((actor.record && isEnded(actor.record)) || actor.wantsBaseline) void this.#baselines.write(actor);
    if (this.#outbox.isCrowded) this.#schedule();
    else this.#scheduleLazily();
  }

  /** The fold has reached the end that the log had (S5). */
  async #letGo(): Promise<void> {
    await this.#outbox.letGo(this.#offersAll);
    this.#offersAll = false;
    for (const actor of this.#residents.all()) if (actor.record && isEnded(actor.record)) void this.#baselines.write(actor);
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
