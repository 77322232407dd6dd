/**
 * The last so many keys, each with a value; the oldest goes when a new one comes.
 *
 * A Map alone can do it, and is slow at it: what is deleted at its front stays there as a hole until the whole is copied, and to find the oldest
 * means to walk over all the holes.
 */
export class Recent<Key, Value> {
  readonly #values = new Map<Key, Value>();
  readonly #order: Key[] = [];
  readonly #max: number;
  #oldest = 0;

  constructor(max: number) {
    this.#max = max;
  }

  has(key: Key): boolean {
    return this.#values.has(key);
  }

  get(key: Key): Value | undefined {
    return this.#values.get(key);
  }

  /** A key that is known keeps its place. */
  set(key: Key, value: Value): void {
    const isKnown = this.#values.has(key);
    this.#values.set(key, value);
    if (isKnown) return;
    if (this.#order.length < this.#max) {
      this.#order.push(key);
      return;
    }
    this.#values.delete(this.#order[this.#oldest]!);
    this.#order[this.#oldest] = key;
    this.#oldest = (this.#oldest + 1) % this.#max;
  }
}
