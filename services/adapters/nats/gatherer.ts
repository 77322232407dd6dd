/**
 * Natural batching: what gathers for one subject while a publish is under way leaves as one message.
 * An idle subject sends at once, with what is added in the same microtask queue; there are no timers.
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
  readonly #lanes = new Map<string, { items: Item[]; isBusy: boolean }>();

  constructor(publish: (key: string, texts: readonly string[]) => Promise<unknown>) {
    this.#publish = publish;
  }

  add(key: string, text: string): Promise<void> {
    let lane = this.#lanes.get(key);
    if (!lane) {
      lane = { items: [], isBusy: false };
      this.#lanes.set(key, lane);
    }
    const held = lane;
    return new Promise((resolve, reject) => {
      held.items.push({ text, resolve, reject });
      if (held.isBusy) return;
      held.isBusy = true;
      queueMicrotask(() => void this.#drain(key, held));
    });
  }

  async #drain(key: string, lane: { items: Item[]; isBusy: boolean }): Promise<void> {
    while (lane.items.length > 0) {
      const batch = lane.items.splice(0, fitting(lane.items));
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
    lane.isBusy = false;
    this.#lanes.delete(key);
  }
}

export const joined = (texts: readonly string[]): string => (texts.length === 1 ? texts[0]! : `[${texts.join(',')}]`);
