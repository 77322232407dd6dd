/**
 * The way of effects into the queues: each tenant has a window into each pool, and what does not fit waits here.
 *
 * Owns     which effects of this runtime are in a queue or in somebody's hands, and which wait.
 *
 * N1  A tenant's effects leave in the order in which they were wanted; tenants do not wait for each other.
 * N2  What waits is pending in the store and stays in its outbox until it has left: the next owner finds it there.
 * N3  Of a shard that was lost nothing leaves any more, and what it had out counts for nobody.
 */
import { afterAnswer, afterIdle, firstWindow, type Window } from '../core/cluster/window.ts';
import { type PooledEffect, poolOf } from '../core/session/effects.ts';
import type { Message } from '../core/session/messages.ts';
import type { Clock } from '../ports/clock.ts';
import type { Effects } from '../ports/effects.ts';

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
  /** When it has left, or nobody wants it any more. */
  readonly over: Promise<void>;
  send(): void;
  drop(): void;
}

type QueuePorts = Pick<Effects, 'offer' | 'pools'>;

export class Windows {
  readonly #queue: QueuePorts;
  readonly #clock: Pick<Clock, 'now'>;
  readonly #lanes = new Map<string, Lane>();

  constructor(queue: QueuePorts, clock: Pick<Clock, 'now'>) {
    this.#queue = queue;
    this.#clock = clock;
  }

  /** Effects that wait for their tenant's window. */
  get waiting(): number {
    let count = 0;
    for (const { waiting } of this.#lanes.values()) count += waiting.size;
    return count;
  }

  open(): ShardWindows {
    return new ShardWindows(this.#queue, this.#clock, (effect) => this.#laneOf(effect));
  }

  /** Once a second: where effects wait and their pool's queue is empty, no answer will tell that there is room. @throws Unavailable when the queue cannot be asked */
  async widen(): Promise<void> {
    const crowded = [...this.#lanes.values()].filter(({ waiting }) => waiting.size > 0);
    if (crowded.length === 0) return;
    const queued = new Map((await this.#queue.pools()).map((state) => [state.pool, state.queued]));
    for (const lane of crowded) {
      if (queued.get(lane.pool) !== 0) continue;
      lane.window = afterIdle(lane.window);
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
  readonly #queue: QueuePorts;
  readonly #clock: Pick<Clock, 'now'>;
  readonly #laneOf: (effect: PooledEffect) => Lane;
  readonly #out = new Map<string, { readonly lane: Lane; readonly offeredAt: number }>();
  readonly #waiting = new Map<string, Waiting>();

  constructor(queue: QueuePorts, clock: Pick<Clock, 'now'>, laneOf: (effect: PooledEffect) => Lane) {
    this.#queue = queue;
    this.#clock = clock;
    this.#laneOf = laneOf;
  }

  /** @returns when it has left, or nobody wants it any more. @throws Unavailable; offer it again */
  offer = (effect: PooledEffect): Promise<void> => {
    // Once more, because the queue was lost or did not take it: it has its place.
    if (this.#out.has(effect.id)) return this.#queue.offer(effect);
    const known = this.#waiting.get(effect.id);
    if (known) return known.over;
    const lane = this.#laneOf(effect);
    if (lane.waiting.size === 0 && lane.out < lane.window.size) return this.#send(effect, lane);
    const { promise, resolve } = Promise.withResolvers<void>();
    const entry: Waiting = {
      lane,
      over: promise,
      send: () => {
        this.#waiting.delete(effect.id);
        resolve(this.#send(effect, lane));
      },
      drop: resolve,
    };
    lane.waiting.add(entry);
    this.#waiting.set(effect.id, entry);
    return promise;
  };

  /** Nobody waits for this effect any more. @param message  its answer, if that is why */
  answered(effect: string, message: Message | undefined): void {
    const waiting = this.#waiting.get(effect);
    if (waiting) {
      this.#waiting.delete(effect);
      waiting.lane.waiting.delete(waiting);
      waiting.drop();
      return;
    }
    const out = this.#out.get(effect);
    if (!out) return;
    this.#out.delete(effect);
    const { lane, offeredAt } = out;
    const performedMs = message && performedMsOf(message);
    if (performedMs !== undefined)
      lane.window = afterAnswer(lane.window, { offeredAt, now: this.#clock.now(), performedMs, isFull: lane.waiting.size > 0 || lane.out >= lane.window.size });
    lane.out -= 1;
    pump(lane);
  }

  /** The shard was lost, or let go. */
  close(): void {
    const lanes = new Set<Lane>();
    for (const entry of this.#waiting.values()) {
      entry.lane.waiting.delete(entry);
      entry.drop();
    }
    for (const { lane } of this.#out.values()) {
      lane.out -= 1;
      lanes.add(lane);
    }
    this.#waiting.clear();
    this.#out.clear();
    for (const lane of lanes) pump(lane);
  }

  #send(effect: PooledEffect, lane: Lane): Promise<void> {
    lane.out += 1;
    this.#out.set(effect.id, { lane, offeredAt: this.#clock.now() });
    return this.#queue.offer(effect);
  }
}

function pump(lane: Lane): void {
  for (const entry of lane.waiting) {
    if (lane.out >= lane.window.size) return;
    lane.waiting.delete(entry);
    entry.send();
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
