/**
 * A host: says that it lives, holds the shards that placement gives it, and lets go of those it lost.
 *
 * Owns     the shards of this process, and their leases.
 *
 * H1  A shard is opened only under a fresh lease, and every write of it carries that lease's owner token.
 * H2  A shard that was lost for any reason is opened again from the store, never continued.
 * H3  On drain nothing new is taken, what is held is committed, and each shard is released at once.
 */

import { placementOf } from '../core/cluster/placement.ts';
import { isNewer, messageOf, Refused, Unavailable } from '../core/errors.ts';
import type { HostId, ShardId } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import { comparePositions } from '../core/session/record.ts';
import type { Control } from '../ports/control.ts';
import type { Leases } from '../ports/leases.ts';
import type { ShardPosition } from '../ports/session-store.ts';
import { type LostBecause, Shard, type ShardPorts } from './shard.ts';

export interface HostSettings {
  readonly host: HostId;
  /** Unlike any other life of this host. */
  readonly boot: string;
  readonly leaseMs: number;
}

export class Host {
  readonly #settings: HostSettings;
  readonly #ports: ShardPorts;
  readonly #leases: Leases;
  readonly #control: Control | undefined;
  readonly #shards = new Map<ShardId, Shard>();
  readonly #opening = new Set<ShardId>();
  #timers: { stop(): void }[] = [];
  #isDraining = false;
  #isPlacing = false;
  #placesAgain = false;
  /** Since when a shard is silent that was let go, by its last owner's word. */
  readonly #letGoAt = new Map<ShardId, number>();
  /** Shards that a newer release has written to: not ours to open. */
  readonly #closed = new Map<ShardId, { readonly why: string; readonly until: number }>();
  readonly #staleAt = new Map<ShardId, string>();
  readonly #repairs = new Set<ShardId>();
  #isListening = false;
  #isWidening = false;
  #isLooking = false;
  #isCutOff = false;
  #mailHeardAt: number;
  /** What the store said when it did not take our last heartbeat. */
  #refusal = '';
  #trimTo = 0;
  members: readonly HostId[] = [];
  #heardAt = 0;

  constructor(settings: HostSettings, ports: ShardPorts, leases: Leases, control?: Control) {
    this.#settings = settings;
    this.#ports = ports;
    this.#leases = leases;
    this.#control = control;
    this.#mailHeardAt = ports.clock.now();
  }

  async start(): Promise<void> {
    const { clock, effects, store, shards } = this.#ports;
    const fixed = await store.fixShards(shards);
    if (fixed !== shards) {
      throw new Refused(
        'SHARDS_FIXED',
        `this installation has ${fixed} shards, and this runtime was told ${shards}: set UNDERSTUDY_SHARDS=${fixed}`,
      );
    }
    effects.onLost(() => {
      for (const shard of this.#shards.values()) {
        shard.releaseAllPending().catch((error: unknown) =>
          this.#ports.telemetry.log('error', 'what is pending could not be offered again', {
            shard: shard.id,
            cause: messageOf(error),
          }),
        );
      }
    });
    this.#control?.onReleased((handOver) => {
      if (handOver && handOver.host !== this.#settings.host)
        this.#letGoAt.set(handOver.shard, handOver.silentSince);
      void this.#place();
    });
    await this.#place();
    if (this.#isDraining) return; // it was told to go while it came
    this.#timers = [
      clock.every(limits.heartbeatMs, () => void this.#place()),
      clock.every(limits.heartbeatMs, () => void this.#listen()),
      clock.every(limits.leaseRenewMs, () => void this.#renew()),
      clock.every(1_000, () => this.#sweep()),
      clock.every(1_000, () => void this.#widen()),
      clock.every(limits.queueLookMs, () => void this.#lookAtQueue()),
      clock.every(limits.trimMs, () => void this.#trim()),
    ];
  }

  /** Why this host is not ready, or nothing. */
  get whyNotReady(): string {
    if (this.#isDraining) return 'draining';
    const { clock, mailbox } = this.#ports;
    // One that is cut off from the broker sends no heartbeat either.
    if (this.#isCutOff || clock.now() - this.#mailHeardAt > 2 * limits.mailSilenceMs)
      return 'the broker does not answer';
    if (clock.now() - this.#heardAt > 3 * this.#settings.leaseMs)
      return `the session store does not take our heartbeat: ${this.#refusal || 'no answer'}`;
    const [closed] = this.#closed;
    if (closed) return `shard ${closed[0]} stays closed here: ${closed[1].why}`;
    return mailbox.trouble() || (this.#opening.size > 0 ? 'shards are being opened' : '');
  }
  /** The broker does not answer, and there are others. */
  get isCutOff(): boolean {
    return this.#isCutOff;
  }
  get shards(): readonly ShardId[] {
    return [...this.#shards.keys()];
  }
  shard(id: ShardId): Shard | undefined {
    return this.#shards.get(id);
  }
  /** Sessions in memory and messages under way: what intake looks at before it takes more. */
  get load(): { actors: number; backlog: number; unsettled: number } {
    const load = { actors: 0, backlog: 0, unsettled: 0 };
    for (const shard of this.#shards.values()) {
      load.actors += shard.actors;
      load.backlog += shard.backlog;
      load.unsettled += shard.unsettled;
    }
    return load;
  }

  /** May be asked for more than once. */
  async drain(): Promise<void> {
    this.#isDraining = true;
    for (const timer of this.#timers) timer.stop();
    // Should nobody hear it, our word expires by itself.
    await this.#leases.leave(this.#settings.host).catch(() => undefined);
    const renewing = this.#ports.clock.every(limits.leaseRenewMs, () => void this.#renew());
    await Promise.all([...this.#shards.keys()].map((id) => this.#letGo(id)));
    renewing.stop();
  }

  // ---- placement --------------------------------------------------------------------------------

  async #place(): Promise<void> {
    if (this.#isDraining || this.#isCutOff) return;
    // What was released while we looked would wait for the next heartbeat.
    if (this.#isPlacing) {
      this.#placesAgain = true;
      return;
    }
    this.#isPlacing = true;
    this.#placesAgain = false;
    try {
      const { host } = this.#settings;
      this.members = await this.#leases.heartbeat(host, this.#settings.leaseMs);
      this.#heardAt = this.#ports.clock.now();
      this.#refusal = '';
      const placement = placementOf([...this.members].sort(), this.#ports.shards);
      for (const [id, wanted] of placement) {
        if (wanted !== host) {
          this.#letGoAt.delete(id); // somebody else takes it
          this.#closed.delete(id);
        }
        if (wanted === host && !this.#shards.has(id) && !this.#opening.has(id)) void this.#take(id);
        else if (wanted !== host && this.#shards.has(id)) void this.#letGo(id);
      }
      this.#gauges();
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
      this.#refusal = error.message;
      this.#ports.telemetry.log('warn', 'no heartbeat', {
        host: this.#settings.host,
        cause: error.message,
      });
    } finally {
      this.#isPlacing = false;
      if (this.#placesAgain) void this.#place();
    }
  }

  /**
   * Is the log within reach? Our leases are beside the data, so a host that is cut off from the broker alone would hold its shards for
   * ever and hear nothing. It lets them go and takes itself off the list, unless nobody else is on it.
   */
  async #listen(): Promise<void> {
    if (this.#isListening || this.#isDraining) return;
    this.#isListening = true;
    const { mailbox, clock, telemetry } = this.#ports;
    const { host } = this.#settings;
    try {
      if (await mailbox.answers(1_000)) {
        this.#mailHeardAt = clock.now();
        if (this.#isCutOff) telemetry.log('info', 'the broker answers again', { host });
        this.#isCutOff = false;
        return;
      }
      const silentMs = clock.now() - this.#mailHeardAt;
      if (this.#isCutOff || silentMs < limits.mailSilenceMs || this.members.length < 2) return;
      this.#isCutOff = true;
      telemetry.log('error', 'the broker does not answer: letting all shards go', {
        host,
        silentMs,
        shards: this.#shards.size,
      });
      for (const [id, shard] of this.#shards) {
        if (this.#opening.has(id)) continue; // it cannot be opened without the broker, and says so itself
        shard.close();
        this.#lost(id, shard, 'cut-off', 'the broker does not answer');
        // Should nobody hear it, the lease expires by itself: it is not renewed any more.
        void this.#leases.release(shard.lease).catch(() => undefined);
      }
      await this.#leases.leave(host).catch(() => undefined);
    } finally {
      this.#isListening = false;
    }
  }

  async #take(id: ShardId): Promise<void> {
    const { telemetry } = this.#ports;
    const { host, boot, leaseMs } = this.#settings;
    const closed = this.#closed.get(id);
    if (closed && closed.until > this.#ports.clock.now()) return;
    this.#opening.add(id);
    const from = performance.now();
    try {
      const lease = await this.#leases.acquire(id, host, boot, leaseMs);
      if (!lease) return;
      const isRepaired = this.#repairs.delete(id);
      const onLost = (why: LostBecause, detail: string) => this.#lost(id, shard, why, detail);
      const shard = new Shard(lease, this.#ports, onLost, isRepaired);
      this.#shards.set(id, shard);
      await shard.open();
      // Lost while it was opened (a newer release wrote to it, say): what closed it stands.
      if (this.#shards.get(id) !== shard) return;
      this.#closed.delete(id);
      telemetry.tookOver(id, (performance.now() - from) / 1_000, {
        host,
        position: shard.position.sequence,
      });
      const silentMs = this.#ports.clock.now() - (this.#letGoAt.get(id) ?? 0);
      this.#letGoAt.delete(id);
      // An old word is of another hand-over, which somebody else took.
      if (silentMs < 5 * leaseMs) telemetry.handedOver(Math.max(0, silentMs) / 1_000);
    } catch (error) {
      this.#shards.get(id)?.close();
      this.#shards.delete(id);
      if (isNewer(error)) this.#keepClosed(id, error.message);
      telemetry.log('warn', 'a shard could not be opened; trying again', {
        shard: id,
        cause: messageOf(error),
      });
    } finally {
      this.#opening.delete(id);
    }
  }

  #lost(id: ShardId, shard: Shard, why: string, detail: string): void {
    const { telemetry } = this.#ports;
    if (why === 'fenced')
      telemetry.fenced({ shard: id, host: this.#settings.host, token: shard.lease.token });
    telemetry.gaveUp(id, why);
    if (why === 'newer') this.#keepClosed(id, detail);
    if (why === 'stale' && detail === 'commit') this.#wasStale(id, shard);
    telemetry.log('warn', 'a shard was lost', { shard: id, why, detail });
    if (this.#shards.get(id) === shard) this.#shards.delete(id);
  }

  /** Something of it was written by a newer release: whoever runs that may open it. Looked at again after a while. */
  #keepClosed(id: ShardId, why: string): void {
    this.#closed.set(id, { why, until: this.#ports.clock.now() + limits.newerRetryMs });
  }

  /** The second time at one place what is stored disagrees with itself: opened again, it would be stale for ever. */
  #wasStale(id: ShardId, { committedAt }: Shard): void {
    const place = JSON.stringify(committedAt ?? null);
    if (this.#staleAt.get(id) === place) this.#repairs.add(id);
    this.#staleAt.set(id, place);
  }

  async #letGo(id: ShardId): Promise<void> {
    const shard = this.#shards.get(id);
    if (!shard || this.#opening.has(id)) return;
    this.#opening.add(id);
    const silentSince = this.#ports.clock.now();
    try {
      await shard.drain();
      this.#shards.delete(id);
      // Should nobody hear it, the lease expires by itself.
      await this.#leases.release(shard.lease).catch(() => undefined);
      this.#letGoAt.delete(id);
      this.#control?.announceReleased({ shard: id, host: this.#settings.host, silentSince });
    } finally {
      this.#opening.delete(id);
    }
  }

  async #renew(): Promise<void> {
    await Promise.all([...this.#shards].map(([id, shard]) => this.#renewOne(id, shard)));
  }

  async #renewOne(id: ShardId, shard: Shard): Promise<void> {
    const before = this.#opening.has(id) ? undefined : shard.standing;
    try {
      const { isOurs, at } = await this.#leases.renew(shard.lease, this.#settings.leaseMs);
      if (this.#shards.get(id) !== shard) return;
      if (!isOurs) {
        shard.close();
        this.#lost(id, shard, 'expired', 'the lease was not ours any more');
      } else if (before?.at && before.at === shard.standing?.at && !isSame(before.at, at)) {
        // An owner with nothing to commit would not notice a store that went back under it.
        shard.notAsStored();
      }
    } catch (error) {
      // The store is away: our next commit would be refused or fail by itself (fencing needs no clock).
      if (!(error instanceof Unavailable)) throw error;
    }
  }

  // ---- housekeeping -----------------------------------------------------------------------------

  #sweep(): void {
    const now = this.#ports.clock.now();
    for (const shard of this.#shards.values()) {
      shard.sweep(now).catch((error: unknown) =>
        this.#ports.telemetry.log('warn', 'sweep failed', {
          shard: shard.id,
          cause: messageOf(error),
        }),
      );
    }
  }

  async #widen(): Promise<void> {
    if (this.#isWidening) return;
    this.#isWidening = true;
    // Asked again in a second, if it cannot be said now.
    await this.#ports.windows.widen().catch((error: unknown) =>
      this.#ports.telemetry.log('debug', 'the pools could not be looked at', {
        cause: messageOf(error),
      }),
    );
    this.#isWidening = false;
  }

  /** A queue that was deleted, purged or lost says nothing: what is pending is offered again. */
  async #lookAtQueue(): Promise<void> {
    if (this.#isLooking) return;
    this.#isLooking = true;
    const { effects, windows, telemetry } = this.#ports;
    try {
      const life = await effects.life();
      for (const shard of this.#shards.values()) {
        if (shard.queueLife !== undefined && shard.queueLife !== life)
          await shard.releaseAllPending();
      }
      await windows.offerAgain();
    } catch (error) {
      telemetry.log('debug', 'the effect queue cannot be looked at', { cause: messageOf(error) });
    } finally {
      this.#isLooking = false;
    }
  }

  #gauges(): void {
    const { telemetry } = this.#ports;
    const { actors, backlog, unsettled } = this.load;
    telemetry.gauge('shards', this.#shards.size);
    telemetry.gauge('actors', actors);
    telemetry.gauge('backlog', backlog);
    telemetry.gauge('outbox', unsettled);
    for (const [pool, count] of this.#ports.windows.waiting) telemetry.effectsWaiting(pool, count);
  }

  /** The owner of shard 0 trims MAIL to what was needed a round ago: a store that loses its last second still finds its mail. */
  async #trim(): Promise<void> {
    if (!this.#shards.get(0 as ShardId)?.isCaughtUp) return;
    const { store, mailbox, shards } = this.#ports;
    try {
      // Read first: mail that comes while we ask is after it, and stays.
      const { last } = await mailbox.bounds();
      let needed = last + 1;
      for (let id = 0; id < shards; id += 1) {
        const known = await store.lowest(id as ShardId);
        const lastOfShard = await mailbox.lastOf(id as ShardId);
        if (!known && lastOfShard > 0) return; // its mail is not applied yet
        if (!known) continue;
        // A shard that has applied all its mail holds nothing back but what its sessions' next baselines need.
        if (lastOfShard > known.applied) needed = Math.min(needed, known.applied + 1);
        if (known.floor !== undefined) needed = Math.min(needed, known.floor);
      }
      if (this.#trimTo > 1) await mailbox.trim(Math.min(this.#trimTo, needed));
      this.#trimTo = needed;
    } catch (error) {
      this.#ports.telemetry.log('warn', 'mail not trimmed; the next round tries again', {
        cause: messageOf(error),
      });
    }
  }
}

/** Position, commits, and which life of the log: `at` was not stored by every version. */
const isSame = (left: ShardPosition | undefined, right: ShardPosition | undefined): boolean =>
  left === undefined || right === undefined
    ? left === right
    : comparePositions(left.position, right.position) === 0 &&
      left.commits === right.commits &&
      left.log === right.log &&
      left.queue === right.queue;
