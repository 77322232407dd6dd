/**
 * Natural batching: what gathers for a subject while publishes are under way leaves as one message, when they have been acknowledged.
 * While nothing is under way it leaves at once, with what is added in the same microtask queue; there are no timers.
 * Subjects go together, in rounds: they share a stream, and few large messages cost it less than many small ones.
 */
import { limits } from '../../core/limits.ts';

interface Item {
  readonly text: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** How many of these, from the first on, fit into one message. */
export function fitting(items: readonly { readonly text: string }[]): number {
  let bytes = 0;
  let count = 0;
  while (count < items.length && count < limits.batchMessagesMax) {
    bytes += Buffer.byteLength(items[count]!.text);
    if (count > 0 && bytes > limits.batchBytesMax) break;
    count += 1;
  }
  return count;
}

export class Gatherer {
  readonly #publish: (key: string, texts: readonly string[]) => Promise<unknown>;
  #lanes = new Map<string, Item[]>();
  #isBusy = false;

  constructor(publish: (key: string, texts: readonly string[]) => Promise<unknown>) {
    this.#publish = publish;
  }

  add(key: string, text: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const lane = this.#lanes.get(key);
      const item = { text, resolve, reject };
      if (lane) lane.push(item);
      else this.#lanes.set(key, [item]);
      if (this.#isBusy) return;
      this.#isBusy = true;
      queueMicrotask(() => void this.#rounds());
    });
  }

  async #rounds(): Promise<void> {
    while (this.#lanes.size > 0) {
      const lanes = this.#lanes;
      this.#lanes = new Map();
      await Promise.all([...lanes].map(([key, items]) => this.#send(key, items)));
    }
    this.#isBusy = false;
  }

  async #send(key: string, items: Item[]): Promise<void> {
    // One after the other: should the first have to be sent again, the second must not overtake it.
    while (items.length > 0) {
      const batch = items.splice(0, fitting(items));
      try {
        await this.#publish(
          key,
          batch.map((item) => item.text),
        );
        for (const item of batch) item.resolve();
      } catch (error) {
        for (const item of batch) item.reject(error);
      }
    }
  }
}

export const joined = (texts: readonly string[]): string => (texts.length === 1 ? texts[0]! : `[${texts.join(',')}]`);
