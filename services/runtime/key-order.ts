/**
 * The order of one key's tasks on their way in: one after the other, by their sequence in TASKS, also
 * when some of them were handed back to the broker because there was no room to wait.
 *
 * K1  A task goes in only when none of its key with a smaller sequence was handed back and has not
 *     come again.
 */
export class KeyOrder {
  /** Tasks that were handed back, by sequence ascending; `at`: when each was last, epoch ms. */
  readonly #back: { readonly sequence: number; at: number }[] = [];
  /** The last task of this key that goes in. */
  tail: Promise<void> = Promise.resolve();
  /** Tasks that go in, or wait for those before them. */
  length = 0;

  get isEmpty(): boolean {
    return this.length === 0 && this.#back.length === 0;
  }
  get handedBack(): number {
    return this.#back.length;
  }

  isNext(sequence: number): boolean {
    const [smallest] = this.#back;
    return smallest === undefined || sequence <= smallest.sequence;
  }

  /**
   * The broker offers what was handed back sooner than `afterMs`: what has not come again for so long
   * is not stored any more.
   */
  forgetGone(now: number, afterMs: number): void {
    while (this.#back[0] && now - this.#back[0].at >= afterMs) this.#back.shift();
  }

  handBack(sequence: number, now: number): void {
    const index = this.#back.findLastIndex((one) => one.sequence <= sequence);
    const known = this.#back[index];
    if (known?.sequence === sequence) known.at = now;
    else this.#back.splice(index + 1, 0, { sequence, at: now });
  }

  readmit(sequence: number): void {
    const index = this.#back.findIndex((one) => one.sequence === sequence);
    if (index >= 0) this.#back.splice(index, 1);
  }
}
