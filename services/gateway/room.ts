/** How much of a gateway's memory prompts may take: beyond it calls wait where they lie. */
export class PromptRoom {
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** No more is to be begun: there is hardly any room left. */
  get isFull(): boolean {
    return this.#bytes >= 0.9 * this.#bytesMax;
  }

  /** One alone always has room. @returns whether it does; then `leave` is called with the same bytes */
  enter(bytes: number): boolean {
    if (this.#bytes > 0 && this.#bytes + bytes > this.#bytesMax) return false;
    this.#bytes += bytes;
    return true;
  }

  leave(bytes: number): void {
    this.#bytes -= bytes;
  }
}

const copies = 6; // of a prompt while it is asked: entries, messages, the request as text and as bytes, what comes back
const share = 0.5; // of the memory that this process may have

/** @param memoryBytes  what the process may have */
export const promptBytesOf = (memoryBytes: number): number =>
  Math.floor((memoryBytes * share) / copies);
