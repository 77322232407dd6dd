/**
 * Which effect is begun next, when tenants share the hands of one performer: a tenant that floods waits for itself.
 *
 * Owns     what waits here for a free hand, by tenant.
 *
 * F1  A tenant begins one more only while it holds fewer than eight times the hands that are free. So one alone has 8/9 of them, two have
 *     8/17 each, and some are always left for whoever comes next (the dynamic threshold of Choudhury and Hahne, IEEE/ACM Transactions
 *     on Networking 6(2), 1998, there for packets that share a buffer).
 * F2  A hand that comes free goes to the tenant that waits and holds the fewest, in turn among equals; within a tenant, first come, first
 *     served.
 */
const timesFree = 8;

export const mayBegin = (held: number, free: number): boolean => free > 0 && held < timesFree * free;

export interface Waiter {
  begin(): void;
  /** It is not begun here. */
  giveBack(): void;
}

export class Hands {
  readonly size: number;
  readonly #held = new Map<string, number>();
  readonly #waiting = new Map<string, Waiter[]>();
  #busy = 0;

  constructor(size: number) {
    this.size = size;
  }

  get busy(): number {
    return this.#busy;
  }
  get free(): number {
    return this.size - this.#busy;
  }
  heldBy(tenant: string): number {
    return this.#held.get(tenant) ?? 0;
  }
  waitingOf(tenant: string): number {
    return this.#waiting.get(tenant)?.length ?? 0;
  }

  /** Begin now, or when it is this tenant's turn. */
  take(tenant: string, waiter: Waiter): void {
    if (!this.#waiting.has(tenant) && mayBegin(this.heldBy(tenant), this.free)) return this.#begin(tenant, waiter);
    const queue = this.#waiting.get(tenant);
    if (queue) queue.push(waiter);
    else this.#waiting.set(tenant, [waiter]);
  }

  /** One that was begun is over. */
  release(tenant: string): void {
    this.#busy -= 1;
    const held = this.heldBy(tenant) - 1;
    if (held > 0) this.#held.set(tenant, held);
    else this.#held.delete(tenant);
    for (let next = this.#next(); next !== undefined; next = this.#next()) {
      const queue = this.#waiting.get(next)!;
      const waiter = queue.shift()!;
      // To the end of the row: of those who hold the same, each has its turn.
      this.#waiting.delete(next);
      if (queue.length > 0) this.#waiting.set(next, queue);
      this.#begin(next, waiter);
    }
  }

  /** What waits is not begun here any more. */
  giveBackAll(): void {
    const all = [...this.#waiting.values()].flat();
    this.#waiting.clear();
    for (const waiter of all) waiter.giveBack();
  }

  #next(): string | undefined {
    let least: string | undefined;
    for (const tenant of this.#waiting.keys()) if (least === undefined || this.heldBy(tenant) < this.heldBy(least)) least = tenant;
    // Who holds the fewest may begin if anybody may.
    return least !== undefined && mayBegin(this.heldBy(least), this.free) ? least : undefined;
  }

  #begin(tenant: string, waiter: Waiter): void {
    this.#busy += 1;
    this.#held.set(tenant, this.heldBy(tenant) + 1);
    waiter.begin();
  }
}
