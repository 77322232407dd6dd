/**
 * The outbox of a shard: what committed steps want, on its way out.
 *
 * Owns     entries that are held back, the numbers of those that were released and not settled yet, and which sessions still wait for an
 *          earlier owner's.
 *
 * B1  Nothing leaves while the outbox holds: the log may already have the answer.
 * B2  An entry is settled only after all of it has left, or waits for its tenant's window; until then the next owner releases it again.
 *     What waits is told by the shard's position (windows.ts, N2).
 * B3  Once the shard is lost, nothing more leaves.
 */
import { isNewer, messageOf, Refused, Unavailable } from '../core/errors.ts';
import type { SessionId, ShardId } from '../core/ids.ts';
import type { PendingEffect } from '../core/session/effects.ts';
import type { Clock } from '../ports/clock.ts';
import type { SessionStore } from '../ports/session-store.ts';
import type { Actor } from './actor.ts';
import { decodeOutbox, type OutboxEntry, sessionsOf } from './outbox-entry.ts';
import { type ReleasePorts, release, releasePending } from './release.ts';

export interface Outgoing {
  /** Number of the stored entry; 0 for one that is not stored. */
  readonly id: number;
  readonly entry: OutboxEntry;
  readonly effects: readonly PendingEffect[];
  readonly actors: readonly Actor[];
  /** Whom it is about, where an earlier owner stored it: their actors may not be in memory. */
  readonly sessions?: readonly SessionId[];
}

export interface OutboxPorts extends ReleasePorts {
  readonly store: Pick<SessionStore, 'pending'>;
  readonly clock: Clock;
}

const retryMs = 500;

export class Outbox {
  readonly #shard: ShardId;
  readonly #ports: OutboxPorts;
  readonly #isOpen: () => boolean;
  readonly #onReleased: (actors: readonly Actor[]) => void;
  #held: Outgoing[] = [];
  #settled: number[] = [];
  #nextId = 1;
  #unsettled = 0;
  /** Sessions of restored entries that have not left, and in how many each stands. */
  readonly #unreleased = new Map<SessionId, number>();
  isHolding = false;

  constructor(
    shard: ShardId,
    ports: OutboxPorts,
    isOpen: () => boolean,
    onReleased: (actors: readonly Actor[]) => void,
  ) {
    this.#shard = shard;
    this.#ports = ports;
    this.#isOpen = isOpen;
    this.#onReleased = onReleased;
  }

  /** What an earlier owner committed and did not settle. @returns what cannot be read of it: somebody must be told, and then settle it */
  restore(
    entries: readonly { readonly id: number; readonly body: string }[],
  ): { readonly id: number; readonly body: string; readonly problem: string }[] {
    const poisoned: { id: number; body: string; problem: string }[] = [];
    for (const { id, body } of entries) {
      try {
        const entry = decodeOutbox(body);
        const sessions = [...sessionsOf(entry)];
        for (const session of sessions)
          this.#unreleased.set(session, (this.#unreleased.get(session) ?? 0) + 1);
        this.#held.push({ id, entry, effects: [], actors: [], sessions });
      } catch (error) {
        if (isNewer(error) || !(error instanceof Refused)) throw error;
        poisoned.push({ id, body, problem: error.message });
      }
    }
    this.#nextId = (entries.at(-1)?.id ?? 0) + 1;
    this.#unsettled = entries.length;
    return poisoned;
  }

  /** This entry needs no releasing. */
  settle(id: number): void {
    this.#settled.push(id);
    this.#onReleased([]);
  }

  /**
   * Does something of this session that an earlier owner stored still wait to leave? Its baseline waits too: with it the session may be
   * forgotten, and the entry is all that knows of its end.
   */
  hasUnreleased(session: SessionId): boolean {
    return this.#unreleased.has(session);
  }

  get nextId(): number {
    return this.#nextId;
  }
  get unsettled(): number {
    return this.#unsettled;
  }
  get hasSettled(): boolean {
    return this.#settled.length > 0;
  }
  /** Many are waiting to be settled: do not wait for company. */
  get isCrowded(): boolean {
    return this.#settled.length > 64;
  }

  takeSettled(): number[] {
    const settled = this.#settled;
    this.#settled = [];
    return settled;
  }
  settled(count: number): void {
    this.#unsettled -= count;
  }

  /** An entry whose commit was acknowledged. */
  add(outgoing: Outgoing): void {
    if (outgoing.id > 0) {
      this.#nextId = outgoing.id + 1;
      this.#unsettled += 1;
    }
    for (const actor of outgoing.actors) actor.unreleased += 1;
    if (this.isHolding) this.#held.push(outgoing);
    else void this.#release(outgoing);
  }

  /** The fold has reached the end that the log had: what is still pending leaves now. @param all  also what was released before */
  async letGo(all: boolean): Promise<void> {
    this.isHolding = false;
    const held = this.#held;
    this.#held = [];
    if (held.length === 0 && !all) return;
    const pending = new Map(
      (await this.#pendingNow()).map((effect) => [effect.id as string, effect]),
    );
    for (const outgoing of held) {
      const effects = outgoing.entry.pending.flatMap((effect) => pending.get(effect) ?? []);
      void this.#release({ ...outgoing, effects });
    }
    if (all) await this.#offer([...pending.values()]);
  }

  /** The effect queue was lost: offer everything pending again. Receivers drop what they hold. */
  async offerAllPending(): Promise<void> {
    const pending = await this.#pendingNow();
    this.#ports.telemetry.log('warn', 'the effect queue was lost; offering what is pending again', {
      shard: this.#shard,
      effects: pending.length,
    });
    await this.#offer(pending);
  }

  async #release(outgoing: Outgoing): Promise<void> {
    const done = new Set<string>();
    await this.#persist('release', () =>
      release(outgoing.entry, outgoing.effects, this.#ports, done),
    );
    if (!this.#isOpen()) return;
    if (outgoing.id > 0) this.#settled.push(outgoing.id);
    for (const actor of outgoing.actors) actor.unreleased -= 1;
    for (const session of outgoing.sessions ?? []) {
      const left = this.#unreleased.get(session)! - 1;
      if (left > 0) this.#unreleased.set(session, left);
      else this.#unreleased.delete(session);
    }
    this.#onReleased(outgoing.actors);
  }

  async #offer(effects: readonly PendingEffect[]): Promise<void> {
    await Promise.all(
      effects.map((effect) => this.#persist('offer', () => releasePending(effect, this.#ports))),
    );
  }

  /** Try until it is done, or the shard is lost. */
  async #persist(what: string, attempt: () => Promise<void>): Promise<void> {
    while (this.#isOpen()) {
      try {
        return await attempt();
      } catch (error) {
        this.#ports.telemetry.log('warn', 'not sent; trying again', {
          what,
          shard: this.#shard,
          cause: messageOf(error),
        });
        await this.#ports.clock.sleep(retryMs);
      }
    }
  }

  async #pendingNow(): Promise<PendingEffect[]> {
    while (this.#isOpen()) {
      try {
        return await this.#ports.store.pending(this.#shard);
      } catch (error) {
        if (!(error instanceof Unavailable)) throw error;
        await this.#ports.clock.sleep(100);
      }
    }
    return [];
  }
}
