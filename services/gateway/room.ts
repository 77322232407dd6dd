/**
 * How much of a gateway's memory prompts may take. Calls wait for their turn before their prompts are
 * read, in the order in which they came.
 */
const readingMax = 32; // prompts that are being read: how large they are is not known yet

export class PromptRoom {
  readonly #bytesMax: number;
  readonly #waiting: (() => void)[] = [];
  #bytes = 0;
  #reading = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** No more is to be taken: there is hardly any room left. */
  get isFull(): boolean {
    return this.#bytes >= 0.9 * this.#bytesMax;
  }

  /** Until a prompt may be read; `read` must follow. */
  async turn(): Promise<void> {
    if (this.#waiting.length > 0 || !this.#mayRead)
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    else this.#reading += 1;
  }

  /** It was read, or is not to be: `leave` follows with the same bytes. */
  read(bytes: number): void {
    this.#reading -= 1;
    this.#bytes += bytes;
    this.#go();
  }

  leave(bytes: number): void {
    this.#bytes -= bytes;
    this.#go();
  }

  /** With nothing in hand one always may, however large it is. */
  get #mayRead(): boolean {
    return this.#reading < readingMax && (!this.isFull || this.#bytes + this.#reading === 0);
  }

  #go(): void {
    while (this.#waiting.length > 0 && this.#mayRead) {
      this.#reading += 1;
      this.#waiting.shift()!();
    }
  }
}

const copies = 6; // of a prompt while it is asked: entries, messages, the request as text and as bytes, what comes back
const share = 0.5; // of the memory that this process may have

/** @param memoryBytes  what the process may have */
export const promptBytesOf = (memoryBytes: number): number =>
  Math.floor((memoryBytes * share) / copies);
