/**
 * One shard: reads its mailbox, lets each message step the session that it is addressed to, and commits the
 * steps of many sessions at once.
 *
 * Owns     the shard's actors from activation to passivation, its position, and what is not released yet.
 * Asks     Mailbox for messages, `step` for decisions, SessionStore to commit, Archive for baselines.
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
import { isPending, type PendingEffect } from '../core/session/effects.ts';
import type { Message } from '../core/session/messages.ts';
import { parseRecord } from '../core/session/migrate.ts';
import { beginning, isEnded, type Position, type SessionRecord, tasksOf, wakeAtOf } from '../core/session/record.ts';
import { park, step } from '../core/session/step.ts';
import { endEventOf, eventOf, type UnderstudyEvent } from '../core/wire/cloud-event.ts';
import type { Envelope, ParsedEnvelope } from '../core/wire/envelopes.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Effects } from '../ports/effects.ts';
import type { Events } from '../ports/events.ts';
import type { Lease } from '../ports/leases.ts';
import type { MailBatch, Mailbox, Reading } from '../ports/mailbox.ts';
import type { Commit, SessionStore, ShardPosition } from '../ports/session-store.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { Actor, type Waiting } from './actor.ts';
import type { Definitions } from './definitions.ts';
import { collectMail, fold, historyOf } from './fold.ts';
import { encodeOutbox, type OutboxEntry, type Prompted, release, releasePending } from './release.ts';
import { summaryOf } from './summary.ts';

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
}

/** What the next commit writes of one session. */
interface Draft {
  readonly actor: Actor;
  readonly expectedVersion: number;
  record: SessionRecord;
  readonly entries: string[];
  readonly pending: Map<string, PendingEffect>;
  readonly resolved: string[];
}

/** An outbox entry on its way out. */
interface Held {
  readonly id: number;
  readonly entry: OutboxEntry;
  readonly effects: readonly PendingEffect[];
  readonly actors: readonly Actor[];
  readonly isRepeat: boolean;
  readonly eventTexts?: readonly string[];
}

interface Arrived {
  readonly sequence: number;
  open: number;
}

const lazyCommitMs = 25; // a commit that only settles or moves the position waits for company
const outboxRetryMs = 500;

export class Shard {
  readonly id: ShardId;
  readonly lease: Lease;
  readonly #ports: ShardPorts;
  readonly #onLost: (why: 'fenced' | 'stale' | 'unavailable', detail: string) => void;
  readonly #actors = new Map<SessionId, Actor>();
  readonly #floors = new Map<SessionId, number>();
  readonly #arrived: Arrived[] = [];
  readonly #waking = new Map<SessionId, number>();
  /** Sessions that ended and were archived lately, with the tasks they knew. */
  readonly #gone = new Map<SessionId, readonly string[]>();
  #reading: Reading | undefined;
  #position: Position = beginning;
  #at: ShardPosition | undefined;
  #log = 0;
  #incarnation = 0;
  #catchUpTo = 0;
  #isHolding = false;
  #held: Held[] = [];
  #outboxId = 1;
  #unsettled = 0;
  #drafts = new Map<SessionId, Draft>();
  #draftEvents: UnderstudyEvent[] = [];
  #draftEventTexts: string[] = [];
  #draftPrompts: Prompted[] = [];
  #draftSteps = 0;
  #settled: number[] = [];
  #archived: { actor: Actor; version: number }[] = [];
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
  }

  // ---- life -------------------------------------------------------------------------------------

  async open(): Promise<void> {
    const { store, mailbox, telemetry } = this.#ports;
    const state = await store.open(this.id);
    const bounds = await mailbox.bounds();
    const stored = state.at?.position ?? beginning;
    this.#at = state.at;
    this.#log = bounds.created;
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
    } else for (const [session, sequence] of state.floors) this.#floors.set(session, sequence);
    const readAfter = isReborn ? bounds.first - 1 : stored.sequence;
    this.#catchUpTo = await mailbox.lastOf(this.id);
    this.#isHolding = this.#catchUpTo > readAfter;
    this.#outboxId = (state.outbox.at(-1)?.id ?? 0) + 1;
    this.#isOpen = true;

    // Mail from before our position was trimmed while the store went back, or it lost everything: baselines know.
    if (!isReborn && (!state.at || readAfter + 1 < bounds.first)) await this.#restoreArchived(state.at !== undefined);

    for (const { id, body } of state.outbox) this.#held.push({ id, entry: JSON.parse(body) as OutboxEntry, effects: [], actors: [], isRepeat: true });
    this.#unsettled = this.#held.length;
    for (const session of this.#floors.keys()) this.#activate(session);
    const reading = await mailbox.read(
      this.id,
      readAfter,
      (batch) => this.#receive(batch),
      () => this.#lose('stale', 'the mail stream went back'),
    );
    this.#reading = reading;
    if (!this.#isOpen) return void reading.stop();
    if (!this.#isHolding) await this.#releaseHeld(isReborn);
  }

  /** Stop at once: the shard is lost. Nothing is written or released any more. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    clearTimeout(this.#lazy);
    void this.#reading?.stop();
    this.#actors.clear();
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
    return this.#actors.size;
  }
  get backlog(): number {
    return this.#backlog;
  }
  get unsettled(): number {
    return this.#unsettled;
  }
  get position(): Position {
    return this.#position;
  }
  get isCaughtUp(): boolean {
    return this.#isOpen && !this.#isHolding;
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
    if (!item.ok) return this.#bury('MAIL_INVALID', item.problem, { body: item.raw }, done);
    const { tenant, session, message } = item.envelope;
    if (shardOf(tenant, session, this.#ports.shards) !== this.id) {
      return this.#bury('MAIL_MISROUTED', `session ${session} does not belong to shard ${this.id}`, { tenant, session, body: JSON.stringify(item.envelope) }, done);
    }
    const gone = this.#gone.get(session);
    if (gone) return this.#tooLate(item.envelope, gone, done);
    const actor = this.#actors.get(session) ?? this.#activate(session, tenant);
    actor.heardAt = this.#ports.clock.now();
    const waiting: Waiting = { incoming: { message, at, position }, done };
    if (actor.isLoading || actor.waiting.length > 0) actor.waiting.push(waiting);
    else this.#apply(actor, waiting);
  }

  /** Mail for a session that has ended: nothing to do, unless it is a task that nobody has answered. */
  #tooLate({ tenant, session, message }: Envelope, tasksKnown: readonly string[], done: () => void): void {
    if (message.kind === 'task' && !tasksKnown.includes(message.task)) {
      const letter = { tenant, agent: message.agent, session, task: message.task, subject: `task.${tenant}.${message.agent}`, body: JSON.stringify(message.input) };
      return this.#bury('SESSION_ENDED', `session ${session} has ended, and task ${message.task} came after that`, letter, done);
    }
    this.#ports.telemetry.seen('the session has ended');
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
      telemetry.seen(stepped.why.startsWith('effect ') ? 'effect not pending' : stepped.why.startsWith('approval ') ? 'approval not open' : stepped.why);
      return done();
    }
    this.#keep(actor, incoming, stepped);
    done();
  }

  #keep(actor: Actor, incoming: Incoming, stepped: Extract<Step, { kind: 'applied' }>): void {
    const { record, effects } = stepped;
    const { telemetry } = this.#ports;
    let draft = this.#drafts.get(actor.session);
    if (!draft) {
      draft = { actor, expectedVersion: actor.record?.version ?? 0, record, entries: [], pending: new Map(), resolved: [] };
      this.#drafts.set(actor.session, draft);
    }
    draft.record = record;
    actor.record = record;
    actor.live = stepped.live;
    actor.remember(incoming, record.version);
    if (!this.#floors.has(actor.session)) this.#floors.set(actor.session, incoming.position.sequence);
    this.#waking.delete(actor.session);
    for (const entry of stepped.entries) draft.entries.push(JSON.stringify(entry));
    for (const id of stepped.settled) {
      draft.pending.delete(id);
      draft.resolved.push(id);
    }
    let replies = 0;
    for (const effect of effects) {
      if (isPending(effect)) {
        if (record.pending[effect.id]) draft.pending.set(effect.id, effect);
        continue;
      }
      const event = effect.kind === 'reply' ? endEventOf(record, effect, incoming.at, replies++) : undefined;
      this.#draftPrompts.push({ tenant: record.tenant, session: record.session, effect, event });
    }
    const event = eventOf(record, stepped.happened, effects, incoming.at);
    this.#draftEvents.push(event);
    this.#draftEventTexts.push(JSON.stringify(event));
    this.#draftSteps += 1;
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
    this.#bury(
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
      () => (actor.record ? done() : this.#tellParent(message, code, messageOf(error), done)),
    );
  }

  /** A child that cannot begin must not leave its parent waiting. */
  #tellParent(message: Message, code: string, reason: string, done: () => void): void {
    if (message.kind !== 'task' || !message.parent) return done();
    const { tenant, session, effect } = message.parent;
    const spent = { steps: 0, toolCalls: 0, tokens: 0, costMicros: 0 };
    const envelope: Envelope = { tenant, session, message: { kind: 'agentEnded', effect, outcome: 'failed', output: `${code}: ${reason}`, spent } };
    const attempt = (): void => {
      this.#ports.mailbox.deliver(shardOf(tenant, session, this.#ports.shards), envelope).then(done, () => {
        if (this.#isOpen) void this.#ports.clock.sleep(outboxRetryMs).then(attempt);
      });
    };
    attempt();
  }

  #bury(
    code: string,
    reason: string,
    letter: { tenant?: string; agent?: string; session?: string; task?: string | undefined; subject?: string; body: string },
    done: () => void,
  ): void {
    const { events, telemetry, clock } = this.#ports;
    const { tenant = 'unknown', agent = 'unknown', ...rest } = letter;
    telemetry.deadLettered(code, { shard: this.id, session: rest.session });
    const attempt = (): void => {
      events.bury({ tenant, agent, code, reason: reason.slice(0, 500), subject: '', headers: {}, ...rest }).then(done, () => {
        if (this.#isOpen) void clock.sleep(outboxRetryMs).then(attempt);
      });
    };
    attempt();
  }

  // ---- activate and passivate -------------------------------------------------------------------

  #activate(session: SessionId, tenant?: Actor['tenant']): Actor {
    const actor = new Actor((tenant ?? '') as Actor['tenant'], session, this.#ports.clock.now());
    this.#actors.set(session, actor);
    void this.#load(actor);
    return actor;
  }

  async #load(actor: Actor): Promise<void> {
    for (let attempt = 0; this.#isOpen; attempt += 1) {
      try {
        await this.#loadOnce(actor);
        break;
      } catch (error) {
        if (error instanceof Unavailable) {
          await this.#ports.clock.sleep(Math.min(2_000, 50 * 2 ** Math.min(attempt, 6)));
          continue;
        }
        this.#withoutDefinition(actor, error instanceof Refused ? error : new Refused('SESSION_UNREADABLE', messageOf(error), { cause: error }));
        return;
      }
    }
    if (!this.#isOpen) return;
    actor.isLoading = false;
    for (const waiting of actor.waiting.splice(0)) {
      if (actor.isLoading) actor.waiting.push(waiting);
      else this.#apply(actor, waiting);
    }
    if (actor.isGone || (!actor.record && actor.waiting.length === 0)) this.#forget(actor);
    else if (actor.record && isEnded(actor.record)) void this.#archive(actor);
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
    if (!actor.record) this.#actors.delete(actor.session);
    else this.#ports.telemetry.log('error', 'session parked: its definition cannot be loaded', { session: actor.session, shard: this.id, code: error.code });
  }

  async #loadOnce(actor: Actor): Promise<void> {
    const { store, archive, definitions } = this.#ports;
    if (!actor.record) {
      const text = await store.load(this.id, actor.session);
      let isPoisoned = false;
      if (text !== undefined) {
        try {
          actor.record = parseRecord(text);
          actor.committedVersion = actor.record.version;
          actor.isMailComplete = !this.#floors.has(actor.session);
        } catch (error) {
          isPoisoned = true;
          this.#ports.telemetry.refused('redis', error instanceof Refused ? error.code : 'RECORD_POISONED', { session: actor.session, shard: this.id });
        }
      }
      if (!actor.record) {
        const latest = await archive.latest(this.id, actor.session);
        if (latest && isEnded(latest.record) && !this.#floors.has(actor.session)) {
          actor.isGone = true;
          actor.tasksKnown = tasksOf(latest.record);
          return;
        }
        // The log knows what the store does not: fold it again.
        if (latest || isPoisoned || this.#floors.has(actor.session)) await this.#rebuild(actor, isPoisoned);
      }
      if (actor.record) (actor as { tenant: Actor['tenant'] }).tenant = actor.record.tenant;
    }
    const first = actor.waiting[0]?.incoming.message;
    const revision = actor.record?.revision ?? (first?.kind === 'task' ? first.revision : undefined);
    if (revision && !actor.definition && !actor.isGone) actor.definition = await definitions.get(revision);
    if (!actor.record && first && first.kind !== 'task') {
      // Late mail for a session that the archive has forgotten, or never knew.
      const task = actor.waiting.findIndex(({ incoming }) => incoming.message.kind === 'task');
      for (const waiting of actor.waiting.splice(0, task < 0 ? actor.waiting.length : task)) {
        this.#ports.telemetry.seen('no such session');
        waiting.done();
      }
      const next = actor.waiting[0]?.incoming.message;
      if (next?.kind === 'task') actor.definition = await definitions.get(next.revision);
    }
  }

  /** Fold a session from its archive and its mail, and put the result in the store's place. */
  async #rebuild(actor: Actor, isPoisoned: boolean): Promise<void> {
    const { store, definitions, telemetry } = this.#ports;
    const upTo = actor.waiting[0]?.incoming.position ?? this.#position;
    const { mail, baseline, tenant = actor.tenant } = await historyOf(this.id, actor.session, this.#ports, upTo);
    const folded = await fold(mail, { tenant, session: actor.session }, definitions);
    telemetry.log('warn', 'session rebuilt from its log', { session: actor.session, shard: this.id, version: folded.record?.version, messages: folded.messages });
    if (isPoisoned && (await store.discard(this.id, this.lease.token, actor.session)) === 'fenced') return this.#lose('fenced', 'discard');
    if (!folded.record) return;
    actor.record = folded.record;
    actor.committedVersion = 0;
    actor.isMailComplete = false;
    if (!this.#floors.has(actor.session)) this.#floors.set(actor.session, baseline ? folded.record.position.sequence : 1);
    this.#drafts.set(actor.session, {
      actor,
      expectedVersion: 0,
      record: folded.record,
      entries: folded.entries.map((entry) => JSON.stringify(entry)),
      pending: new Map(folded.pending.map((effect) => [effect.id, effect])),
      resolved: [],
    });
    this.#schedule();
  }

  /** After a loss: bring back every session whose last baseline is newer than what the store has. */
  async #restoreArchived(hasState: boolean): Promise<void> {
    const { archive, store } = this.#ports;
    let restored = 0;
    for await (const { record } of archive.latestOf(this.id)) {
      this.#incarnation = Math.max(this.#incarnation, record.position.incarnation);
      if (hasState) {
        const text = await store.load(this.id, record.session);
        if (text !== undefined && !isEnded(record) && parseRecord(text).version >= record.version) continue;
        if (text !== undefined && (await store.discard(this.id, this.lease.token, record.session)) === 'fenced') {
          throw new Unavailable('FENCED_AT_OPEN', `shard ${this.id} was taken while it was opened`);
        }
      }
      if (isEnded(record)) {
        this.#floors.delete(record.session);
        continue;
      }
      const actor = new Actor(record.tenant, record.session, this.#ports.clock.now());
      this.#actors.set(record.session, actor);
      await this.#rebuild(actor, false);
      actor.definition = await this.#ports.definitions.get(record.revision);
      actor.isLoading = false;
      const draft = this.#drafts.get(record.session);
      // Nobody may know any more what was asked for: ask again, under the same ids.
      if (draft)
        this.#held.push({ id: 0, entry: { pending: [...draft.pending.keys()], prompts: [], events: [] }, effects: [...draft.pending.values()], actors: [], isRepeat: true });
      restored += 1;
    }
    if (restored > 0) this.#ports.telemetry.log('warn', 'sessions restored from the archive', { shard: this.id, sessions: restored });
  }

  /** Once a second: put away what is idle, wake what is due. */
  async sweep(now: number): Promise<void> {
    if (!this.#isOpen) return;
    for (const actor of this.#actors.values()) {
      if (actor.isLoading || !actor.record) continue;
      if (actor.wantsBaseline || isEnded(actor.record) || now - actor.heardAt > limits.idleMs) void this.#archive(actor);
    }
    if (this.#isHolding) return;
    for (const session of await this.#ports.store.due(this.id, now, 256)) {
      if (now - (this.#waking.get(session) ?? 0) < 5_000) continue;
      this.#waking.set(session, now);
      const actor = this.#actors.get(session);
      const tenant = actor?.record?.tenant ?? (await this.#tenantOf(session));
      if (tenant) await this.#ports.mailbox.deliver(this.id, { tenant, session, message: { kind: 'wake' } });
    }
  }

  async #tenantOf(session: SessionId): Promise<Actor['tenant'] | undefined> {
    const text = await this.#ports.store.load(this.id, session);
    return text === undefined ? undefined : parseRecord(text).tenant;
  }

  /** Write a baseline; the commit after it lifts the floor, and drops what has ended. */
  async #archive(actor: Actor): Promise<void> {
    const { record } = actor;
    if (!record || actor.isArchiving || actor.unreleased > 0 || actor.waiting.length > 0 || this.#drafts.has(actor.session) || actor.committedVersion !== record.version) return;
    if (this.#isHolding && isEnded(record)) return; // its reply has not been told yet
    if (!this.#floors.has(actor.session)) {
      if (!isEnded(record)) this.#forget(actor);
      return;
    }
    actor.isArchiving = true;
    try {
      let mail = actor.mailUpTo(record.version);
      if (!actor.isMailComplete) {
        const floor = this.#floors.get(actor.session)!;
        mail = (await collectMail(this.id, new Map([[actor.session, floor]]), record.position, this.#ports.mailbox)).get(actor.session)?.mail ?? [];
      }
      await this.#ports.archive.append(this.id, { record, mail });
      if (!this.#isOpen) return;
      this.#archived.push({ actor, version: record.version });
      this.#schedule();
    } catch (error) {
      actor.isArchiving = false;
      this.#ports.telemetry.log('warn', 'baseline not written; the next sweep tries again', { session: actor.session, shard: this.id, cause: messageOf(error) });
    }
  }

  #forget(actor: Actor): void {
    this.#actors.delete(actor.session);
    if (!actor.isGone) return;
    this.#gone.set(actor.session, actor.tasksKnown);
    if (this.#gone.size > 4_096)
      for (const oldest of this.#gone.keys()) {
        this.#gone.delete(oldest);
        break;
      }
  }

  // ---- commit -----------------------------------------------------------------------------------

  #schedule(): void {
    if (this.#isScheduled || this.#isCommitting || !this.#isOpen) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#commitNow();
    });
  }

  #scheduleLazily(): void {
    if (this.#lazy || this.#isScheduled || this.#isCommitting || !this.#isOpen) return;
    this.#lazy = setTimeout(() => {
      this.#lazy = undefined;
      this.#commitNow();
    }, lazyCommitMs);
  }

  #commitNow(): void {
    this.#commit().catch((error: unknown) => this.#lose('unavailable', messageOf(error)));
  }

  #reached(): Position {
    let last: number | undefined;
    while (this.#arrived.length > 0 && this.#arrived[0]!.open === 0) last = this.#arrived.shift()!.sequence;
    return last === undefined ? this.#position : { incarnation: this.#incarnation, sequence: last, index: 0 };
  }

  async #commit(): Promise<void> {
    if (this.#isCommitting || !this.#isOpen) return;
    const to = this.#reached();
    if (this.#drafts.size === 0 && this.#settled.length === 0 && this.#archived.length === 0 && to === this.#position) return;
    clearTimeout(this.#lazy);
    this.#lazy = undefined;
    this.#isCommitting = true;

    const drafts = [...this.#drafts.values()];
    const settled = this.#settled;
    const archived = this.#archived;
    const steps = this.#draftSteps;
    const entry: OutboxEntry = { pending: drafts.flatMap((draft) => [...draft.pending.keys()]), prompts: this.#draftPrompts, events: this.#draftEvents };
    const effects = drafts.flatMap((draft) => [...draft.pending.values()]);
    const isQuiet = entry.pending.length === 0 && entry.prompts.length === 0 && entry.events.length === 0;
    const outboxId = this.#outboxId;
    this.#drafts = new Map();
    const eventTexts = this.#draftEventTexts;
    this.#draftEvents = [];
    this.#draftEventTexts = [];
    this.#draftPrompts = [];
    this.#draftSteps = 0;
    this.#settled = [];
    this.#archived = [];

    const floors = archived.map(({ actor, version }) => ({ actor, version, floor: actor.forgetMail(version) }));
    const after: ShardPosition = { position: to, commits: (this.#at?.commits ?? 0) + 1, log: this.#log };
    const commit: Commit = {
      from: this.#at,
      to: after,
      sessions: drafts.map((draft) => ({
        session: draft.actor.session,
        expectedVersion: draft.expectedVersion,
        version: draft.record.version,
        record: JSON.stringify(draft.record),
        entries: draft.entries,
        pending: [...draft.pending.values()].map((effect) => ({ id: effect.id, body: JSON.stringify(effect) })),
        resolved: draft.resolved,
        wakeAt: wakeAtOf(draft.record),
        floor: this.#floors.get(draft.actor.session),
      })),
      ...(isQuiet ? {} : { outbox: { id: outboxId, body: encodeOutbox(entry, eventTexts) } }),
      settled,
      archived: floors.map(({ actor, version, floor }) => ({
        session: actor.session,
        version,
        summary: actor.record && isEnded(actor.record) ? JSON.stringify(summaryOf(actor.record)) : undefined,
        floor,
      })),
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
    this.#ports.telemetry.committed(drafts.length, steps, (performance.now() - from) / 1_000);
    for (const draft of drafts) draft.actor.committedVersion = draft.record.version;
    this.#unsettled -= settled.length;
    for (const { actor, version, floor } of floors) this.#afterArchived(actor, version, floor);
    if (!isQuiet) {
      this.#outboxId += 1;
      this.#unsettled += 1;
      const actors = drafts.map((draft) => draft.actor);
      for (const actor of actors) actor.unreleased += 1;
      if (this.#isHolding) this.#held.push({ id: outboxId, entry, effects, actors, isRepeat: true });
      else void this.#release({ id: outboxId, entry, effects, actors, isRepeat: false, eventTexts });
    }
    if (this.#isHolding && to.sequence >= this.#catchUpTo) await this.#releaseHeld(false);
    if (this.#isPaused && this.#backlog < limits.shardBacklogMax / 2) {
      this.#isPaused = false;
      this.#reading?.resume();
    }
    if (this.#drafts.size > 0 || this.#archived.length > 0) this.#schedule();
    else if (this.#settled.length > 0 || this.#arrived[0]?.open === 0) this.#scheduleLazily();
  }

  #afterArchived(actor: Actor, version: number, floor: number | undefined): void {
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
      actor.tasksKnown = tasksOf(actor.record);
      this.#forget(actor);
    } else if (this.#ports.clock.now() - actor.heardAt > limits.idleMs) this.#forget(actor);
  }

  #lose(why: 'fenced' | 'stale' | 'unavailable', detail: string): void {
    if (!this.#isOpen) return;
    this.close();
    this.#onLost(why, detail);
  }

  // ---- release ----------------------------------------------------------------------------------

  async #release(held: Held): Promise<void> {
    while (this.#isOpen) {
      try {
        await release(held.entry, held.effects, this.#ports, held.isRepeat, held.eventTexts);
        break;
      } catch (error) {
        this.#ports.telemetry.log('warn', 'release failed; trying again', { shard: this.id, cause: messageOf(error) });
        await this.#ports.clock.sleep(outboxRetryMs);
      }
    }
    if (!this.#isOpen) return;
    if (held.id > 0) this.#settled.push(held.id);
    for (const actor of held.actors) {
      actor.unreleased -= 1;
      if (actor.record && isEnded(actor.record)) void this.#archive(actor);
      else if (actor.wantsBaseline) void this.#archive(actor);
    }
    if (this.#settled.length > 64) this.#schedule();
    else this.#scheduleLazily();
  }

  /** The fold has reached the end that the log had: what is still pending leaves now (S5). */
  async #releaseHeld(all: boolean): Promise<void> {
    this.#isHolding = false;
    const held = this.#held;
    this.#held = [];
    if (held.length > 0 || all) {
      const pending = new Map((await this.#pendingNow()).map((effect) => [effect.id as string, effect]));
      for (const { id, entry, actors, isRepeat } of held) {
        const effects = entry.pending.flatMap((effect) => pending.get(effect) ?? []);
        void this.#release({ id, entry, effects, actors, isRepeat });
      }
      if (all) await this.#offerAll([...pending.values()]);
    }
    for (const actor of this.#actors.values()) if (actor.record && isEnded(actor.record)) void this.#archive(actor);
  }

  async #pendingNow(): Promise<PendingEffect[]> {
    while (this.#isOpen) {
      try {
        return await this.#ports.store.pending(this.id);
      } catch (error) {
        if (!(error instanceof Unavailable)) throw error;
        await this.#ports.clock.sleep(100);
      }
    }
    return [];
  }

  /** The effect queue was lost: offer everything pending again. Receivers drop what they hold. */
  async releaseAllPending(): Promise<void> {
    if (!this.#isOpen || this.#isHolding) return;
    const pending = await this.#pendingNow();
    this.#ports.telemetry.log('warn', 'the effect queue was lost; offering what is pending again', { shard: this.id, effects: pending.length });
    await this.#offerAll(pending);
  }

  async #offerAll(effects: readonly PendingEffect[]): Promise<void> {
    await Promise.all(
      effects.map(async (effect) => {
        while (this.#isOpen) {
          try {
            return await releasePending(effect, this.#ports);
          } catch (error) {
            this.#ports.telemetry.log('warn', 'an effect could not be offered; trying again', { shard: this.id, effect: effect.id, cause: messageOf(error) });
            await this.#ports.clock.sleep(outboxRetryMs);
          }
        }
      }),
    );
  }
}
