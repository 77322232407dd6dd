/**
 * The way of effects into the queues: each tenant has a window into each pool, and what does not fit waits here.
 *
 * Owns     which effects of this runtime are in a queue or in somebody's hands, and which wait.
 *
 * N1  A tenant's effects leave in the order in which they were wanted; tenants do not wait for each other.
 * N2  What waits holds nothing back: its outbox entry may be settled. So a shard that has something unsent says so in each commit, and
 *     its next owner offers all that is pending again.
 * N3  Of a shard that was lost nothing leaves any more, and what it had out counts for nobody.
 * N4  Nothing takes a place whose answer has come already: nobody would give the place back.
 */
import { afterAnswer, afterIdle, firstWindow, type Window } from '../core/cluster/window.ts';
import { isTooLarge, messageOf } from '../core/errors.ts';
import { type PooledEffect, poolOf } from '../core/session/effects.ts';
import type { Message } from '../core/session/messages.ts';
import type { Clock } from '../ports/clock.ts';
import type { Effects } from '../ports/effects.ts';
import type { Telemetry } from '../ports/telemetry.ts';

/** One tenant's window into one pool. */
interface Lane {
  readonly pool: string;
  window: Window;
  /** Offered and not answered. */
  out: number;
  readonly waiting: Set<Waiting>;
}

interface Waiting {
  readonly lane: Lane;
  leave(): void;
}

export interface WindowPorts {
  readonly effects: Pick<Effects, 'offer' | 'pools'>;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
}

const retryMs = 500;
const lostMs = 4_000; // an effect is taken sooner; what a performer has done is told in less

/** What the windows must know of a shard. */
export interface WindowHost {
  isOpen(): boolean;
  /** Does its session still wait for this effect, as far as it is known here? */
  isWanted(effect: PooledEffect): boolean;
  /** No message carries it: whoever waits for it is told. @throws Unavailable; tell again */
  refused(effect: PooledEffect, error: unknown): Promise<void>;
}

export class Windows {
  readonly #ports: WindowPorts;
  readonly #lanes = new Map<string, Lane>();
  readonly #shards = new Set<ShardWindows>();

  constructor(ports: WindowPorts) {
    this.#ports = ports;
  }

  /** Effects that wait for their tenant's window, by pool. */
  get waiting(): ReadonlyMap<string, number> {
    const waiting = new Map<string, number>();
    for (const lane of this.#lanes.values())
      waiting.set(lane.pool, (waiting.get(lane.pool) ?? 0) + lane.waiting.size);
    return waiting;
  }

  open(host: WindowHost): ShardWindows {
    const opened = new ShardWindows(host, this.#ports, (effect) => this.#laneOf(effect));
    this.#shards.add(opened);
    return opened;
  }

  /** What was offered long ago, and stands in no queue and in no hand, is offered again. @throws Unavailable when the queue cannot be asked */
  async offerAgain(): Promise<void> {
    for (const shard of this.#shards) if (shard.isClosed) this.#shards.delete(shard);
    const before = this.#ports.clock.now() - lostMs;
    const old = [...this.#shards].flatMap((shard) => shard.outSince(before));
    if (old.length === 0) return;
    const idle = new Set(
      (await this.#ports.effects.pools())
        .filter(({ queued, inHand }) => queued === 0 && inHand === 0)
        .map(({ pool }) => pool),
    );
    // Answered meanwhile, it is out no more.
    const lost = old.filter(({ effect, shard }) => idle.has(poolOf(effect)) && shard.isOut(effect));
    if (lost.length === 0) return;
    this.#ports.telemetry.log('warn', 'effects stand in no queue and in no hand; offered again', {
      effects: lost.length,
    });
    for (const { effect, shard } of lost) await shard.offer(effect);
  }

  /** Once a second: where effects wait and their pool's queue is empty, no answer will tell that there is room. @throws Unavailable when the queue cannot be asked */
  async widen(): Promise<void> {
    const crowded = [...this.#lanes.values()].filter(({ waiting }) => waiting.size > 0);
    if (crowded.length === 0) return;
    const queued = new Map(
      (await this.#ports.effects.pools()).map((state) => [state.pool, state.queued]),
    );
    for (const lane of crowded) {
      if (queued.get(lane.pool) !== 0) continue;
      lane.window = afterIdle(lane.window, this.#ports.clock.now());
      pump(lane);
    }
  }

  #laneOf(effect: PooledEffect): Lane {
    const pool = poolOf(effect);
    const key = `${pool}/${effect.tenant}`;
    let lane = this.#lanes.get(key);
    if (!lane) {
      lane = { pool, window: firstWindow, out: 0, waiting: new Set() };
      this.#lanes.set(key, lane);
    }
    return lane;
  }
}

/** What one shard has out, and what of it waits. */
export class ShardWindows {
  readonly #host: WindowHost;
  readonly #ports: WindowPorts;
  readonly #laneOf: (effect: PooledEffect) => Lane;
  readonly #out = new Map<
    string,
    { readonly lane: Lane; offeredAt: number; readonly effect: PooledEffect }
  >();
  isClosed = false;
  readonly #waiting = new Map<string, Waiting>();
  /** Waiting, or on the way from here without word that the queue has them. */
  #unsent = 0;

  constructor(host: WindowHost, ports: WindowPorts, laneOf: (effect: PooledEffect) => Lane) {
    this.#host = host;
    this.#ports = ports;
    this.#laneOf = laneOf;
  }

  /** Something that was taken over here is in no queue yet (N2). */
  get hasUnsent(): boolean {
    return this.#unsent > 0;
  }

  /** @returns when the queue has it, or it waits here. @throws Unavailable; offer it again */
  offer = async (effect: PooledEffect): Promise<void> => {
    if (!this.#host.isWanted(effect) || this.#waiting.has(effect.id)) return;
    // Once more, because the queue was lost or did not take it: it has its place.
    if (this.#out.has(effect.id)) return this.#ports.effects.offer(effect);
    const lane = this.#laneOf(effect);
    if (lane.waiting.size === 0 && lane.out < lane.window.size) {
      this.#take(effect, lane);
      return this.#ports.effects.offer(effect);
    }
    const entry: Waiting = { lane, leave: () => this.#leave(effect, entry) };
    lane.waiting.add(entry);
    this.#waiting.set(effect.id, entry);
    this.#unsent += 1;
  };

  /** Its performer is done, or nobody waits for it any more. @param message  its answer, if that is why */
  answered(effect: string, message: Message | undefined): void {
    const waiting = this.#waiting.get(effect);
    if (waiting) {
      this.#waiting.delete(effect);
      waiting.lane.waiting.delete(waiting);
      this.#unsent -= 1;
      return;
    }
    const out = this.#out.get(effect);
    if (!out) return;
    this.#out.delete(effect);
    const { lane, offeredAt } = out;
    const performedMs = message && performedMsOf(message);
    if (performedMs !== undefined)
      lane.window = afterAnswer(lane.window, {
        offeredAt,
        now: this.#ports.clock.now(),
        performedMs,
        isFull: lane.waiting.size > 0 || lane.out >= lane.window.size,
      });
    lane.out -= 1;
    pump(lane);
  }

  /** Offered before that time and not answered. */
  outSince(before: number): { readonly effect: PooledEffect; readonly shard: ShardWindows }[] {
    const old = [...this.#out.values()].filter(({ offeredAt }) => offeredAt < before);
    return old.map(({ effect }) => ({ effect, shard: this }));
  }
  isOut(effect: PooledEffect): boolean {
    return this.#out.has(effect.id) && this.#host.isOpen();
  }

  /** The shard was lost, or let go. */
  close(): void {
    this.isClosed = true;
    const lanes = new Set<Lane>();
    for (const entry of this.#waiting.values()) entry.lane.waiting.delete(entry);
    for (const { lane } of this.#out.values()) {
      lane.out -= 1;
      lanes.add(lane);
    }
    this.#waiting.clear();
    this.#out.clear();
    for (const lane of lanes) pump(lane);
  }

  #take(effect: PooledEffect, lane: Lane): void {
    lane.out += 1;
    this.#out.set(effect.id, { lane, offeredAt: this.#ports.clock.now(), effect });
    this.#ports.telemetry.released('effect', 1);
  }

  #leave(effect: PooledEffect, { lane }: Waiting): void {
    this.#waiting.delete(effect.id);
    if (!this.#host.isWanted(effect)) {
      this.#unsent -= 1;
      return;
    }
    this.#take(effect, lane);
    void this.#sendUntilTaken(effect);
  }

  /** Nobody else remembers that it must leave: its outbox entry may be settled. */
  async #sendUntilTaken(effect: PooledEffect): Promise<void> {
    const { effects, telemetry, clock } = this.#ports;
    // Whatever the queue says, a stream that is full among it: no error may end this.
    while (this.#host.isOpen() && this.#out.has(effect.id)) {
      try {
        await effects.offer(effect).catch((error: unknown) => {
          if (!isTooLarge(error)) throw error;
          return this.#host.refused(effect, error);
        });
        break;
      } catch (error) {
        telemetry.log('warn', 'not sent; trying again', {
          what: 'offer',
          effect: effect.id,
          cause: messageOf(error),
        });
        await clock.sleep(retryMs);
      }
    }
    this.#unsent -= 1;
  }
}

function pump(lane: Lane): void {
  for (const entry of lane.waiting) {
    if (lane.out >= lane.window.size) return;
    lane.waiting.delete(entry);
    entry.leave();
  }
}

/** How long its performer took, where one try was all: what lies between several says nothing about the queue. */
function performedMsOf(message: Message): number | undefined {
  switch (message.kind) {
    case 'modelReplied':
      return message.reply.attempts === 1 ? message.reply.latencyMs : undefined;
    case 'toolReturned':
    case 'toolFailed':
      return message.attempts === 1 ? message.latencyMs : undefined;
    default:
      return undefined;
  }
}
