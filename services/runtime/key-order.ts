/**
 * The order of one key's tasks on their way in: one after the other, by their place in TASKS, also
 * when some of them were given back to the broker because there was no room to wait.
 *
 * K1  A task goes in only when none of its key with a smaller place was given back and has not come
 *     again.
 */
export class KeyOrder {
  /** Places of tasks that were given back, ascending. */
  readonly #back: number[] = [];
  /** When the smallest of them was given back last, epoch ms. */
  #smallestAt = 0;
  /** The last task of this key that goes in. */
  tail: Promise<void> = Promise.resolve();
  /** Tasks that go in, or wait for those before them. */
  length = 0;

  get isEmpty(): boolean {
    return this.length === 0 && this.#back.length === 0;
  }
  get givenBack(): number {
    return this.#back.length;
  }

  /**
   * May it go in, as far as its place says?
   *
   * @param goneAfterMs  the broker offers what was given back sooner than that: else it is gone
   */
  isNext(place: number, now: number, goneAfterMs: number): boolean {
    const smallest = this.#back[0];
    if (smallest === undefined || place <= smallest) return true;
    if (now - this.#smallestAt < goneAfterMs) return false;
    this.#back.shift();
    this.#smallestAt = now;
    return this.isNext(place, now, goneAfterMs);
  }

  giveBack(place: number, now: number): void {
    const at = this.#back.findLastIndex((one) => one <= place);
    if (this.#back[at] !== place) this.#back.splice(at + 1, 0, place);
    if (this.#back[0] === place) this.#smallestAt = now;
  }

  comesIn(place: number, now: number): void {
    const at = this.#back.indexOf(place);
    if (at < 0) return;
    this.#back.splice(at, 1);
    this.#smallestAt = now;
  }
}
