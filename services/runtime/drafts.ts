/** What the next commit of a shard writes: the steps of many sessions, gathered until its round begins. */
import { Refused } from '../core/errors.ts';
import type { SessionId } from '../core/ids.ts';
import { storable } from '../core/json.ts';
import type { Incoming, Step } from '../core/session/draft.ts';
import { isPending, isTold, type PendingEffect } from '../core/session/effects.ts';
import { type SessionRecord, wakeAtOf } from '../core/session/record.ts';
import { endEventOf, eventOf, type StepEvent, stepEventOf } from '../core/wire/cloud-event.ts';
import type { SessionCommit } from '../ports/session-store.ts';
import type { Actor } from './actor.ts';
import type { Folded } from './fold.ts';
import { encodeOutbox, type OutboxEntry, type Prompted } from './outbox-entry.ts';

interface SessionDraft {
  readonly actor: Actor;
  readonly expectedVersion: number;
  record: SessionRecord;
  /** The record as JSON, where it was written when it was kept. */
  text: string | undefined;
  readonly entries: string[];
  readonly pending: Map<string, Wanted>;
  readonly resolved: string[];
}

/** An effect, and as JSON. */
interface Wanted {
  readonly effect: PendingEffect;
  readonly body: string;
}
const wantedOf = (effect: PendingEffect): Wanted => ({
  effect,
  body: storable(effect, `effect ${effect.id}`, false),
});

function writtenOf(
  record: SessionRecord,
  incoming: Incoming,
  { entries, effects, happened }: Extract<Step, { kind: 'applied' }>,
) {
  // The default agent's record is made of JSON; what a user's own machine put there is written now,
  // and never again: in the commit of others its values must not run.
  const text = record.machine === 'agent' ? undefined : storable(record, 'the record', false);
  const wakeAt = wakeAtOf(record);
  if (wakeAt !== undefined && !Number.isFinite(wakeAt)) {
    throw new Refused('STATE_UNWRITABLE', `the next wake-up is ${wakeAt}, which is no time`);
  }
  return {
    text,
    entries: entries.map((entry) => storable(entry, 'a conversation entry', false)),
    pending: effects
      .filter(isPending)
      .flatMap((effect) => (record.pending[effect.id] ? [wantedOf(effect)] : [])),
    event: stepEventOf(eventOf(record, happened, effects, incoming.at)),
  };
}

/** All that was gathered, ready to be committed and then released. */
export interface Gathered {
  readonly sessions: readonly SessionCommit[];
  readonly actors: readonly Actor[];
  readonly steps: number;
  readonly effects: readonly PendingEffect[];
  readonly entry: OutboxEntry;
  /** Nothing is to be released. */
  readonly isQuiet: boolean;
  outboxBody(): string;
  /** The commit was acknowledged: the actors are where their records say. */
  committed(): void;
}

export class Drafts {
  #sessions = new Map<SessionId, SessionDraft>();
  #events: StepEvent[] = [];
  #prompts: Prompted[] = [];
  #steps = 0;

  get size(): number {
    return this.#sessions.size;
  }
  has(session: SessionId): boolean {
    return this.#sessions.has(session);
  }

  /**
   * Take up one step. The actor still has the record from before it. All of it is written as JSON
   * here, before anything is kept: what one session wants must not fail the commit of others.
   *
   * @throws Refused (STATE_UNWRITABLE) with nothing kept, when something of it cannot be written
   */
  keep(actor: Actor, incoming: Incoming, stepped: Extract<Step, { kind: 'applied' }>): void {
    const { record, effects } = stepped;
    const written = writtenOf(record, incoming, stepped);
    let draft = this.#sessions.get(actor.session);
    if (!draft) {
      draft = {
        actor,
        expectedVersion: actor.record?.version ?? 0,
        record,
        text: undefined,
        entries: [],
        pending: new Map(),
        resolved: [],
      };
      this.#sessions.set(actor.session, draft);
    }
    draft.record = record;
    draft.text = written.text;
    draft.entries.push(...written.entries);
    for (const id of stepped.settled) {
      draft.pending.delete(id);
      draft.resolved.push(id);
    }
    for (const wanted of written.pending) draft.pending.set(wanted.effect.id, wanted);
    let replies = 0;
    for (const effect of effects) {
      if (isPending(effect) || isTold(effect)) continue;
      // The index counts within the step, so that a replay that gathers differently gives the end the same id.
      const event =
        effect.kind === 'reply' ? endEventOf(record, effect, incoming.at, replies++) : undefined;
      this.#prompts.push({ tenant: record.tenant, session: record.session, effect, event });
    }
    this.#events.push(written.event);
    this.#steps += 1;
  }

  /** A session that was folded from its log takes the place of whatever was stored of it. */
  replace(actor: Actor, folded: Folded & { readonly record: SessionRecord }): void {
    this.#sessions.set(actor.session, {
      actor,
      expectedVersion: 0,
      record: folded.record,
      text: undefined,
      entries: folded.entries.map((entry) => JSON.stringify(entry)),
      pending: new Map(folded.pending.map((effect) => [effect.id, wantedOf(effect)])),
      resolved: [],
    });
  }

  take(floorOf: (session: SessionId) => number | undefined): Gathered {
    const drafts = [...this.#sessions.values()];
    const steps = this.#steps;
    const effects = drafts.flatMap((draft) => [...draft.pending.values()].map((one) => one.effect));
    const entry: OutboxEntry = {
      pending: effects.map(({ id }) => id),
      prompts: this.#prompts,
      events: this.#events,
    };
    this.#sessions = new Map();
    this.#events = [];
    this.#prompts = [];
    this.#steps = 0;
    return {
      actors: drafts.map(({ actor }) => actor),
      steps,
      effects,
      entry,
      isQuiet:
        entry.pending.length === 0 && entry.prompts.length === 0 && entry.events.length === 0,
      outboxBody: () => encodeOutbox(entry),
      committed: () => {
        for (const { actor, record } of drafts) actor.committedVersion = record.version;
      },
      sessions: drafts.map((draft) => ({
        session: draft.actor.session,
        expectedVersion: draft.expectedVersion,
        version: draft.record.version,
        record: draft.text ?? JSON.stringify(draft.record),
        entriesBefore: draft.record.length - draft.entries.length,
        entries: draft.entries,
        pending: [...draft.pending.values()].map(({ effect, body }) => ({ id: effect.id, body })),
        resolved: draft.resolved,
        wakeAt: wakeAtOf(draft.record),
        floor: floorOf(draft.actor.session),
      })),
    };
  }
}
