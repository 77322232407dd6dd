/**
 * Natural batching: what gathers for a subject while publishes are under way leaves as one message, when they have been acknowledged.
 * While nothing is under way it leaves at once, with what is added in the same microtask queue. Only who has more of its kind on the way
 * waits for it, and not for long: each message wakes a broker and its readers, which costs more than what is in it.
 * Subjects go together, in rounds: they share a stream, and few large messages cost it less than many small ones. A round that takes long
 * (an acknowledgement was lost) holds up its own subjects only: after `roundMsMax` the others go on.
 */
import { limits } from '../../core/limits.ts';

const roundMsMax = 20; // several times what an acknowledgement takes
const companyMsMax = 2; // what nobody notices in a model call, and a provider's answers of one burst lie apart

interface Item {
  readonly text: string;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** How many of these, from the first on, fit into one message. */
export function fitting(
  items: readonly { readonly text: string }[],
  bytesMax: number = limits.batchBytesMax,
): number {
  let bytes = 0;
  let count = 0;
  while (count < items.length && count < limits.batchMessagesMax) {
    bytes += Buffer.byteLength(items[count]!.text);
    if (count > 0 && bytes > bytesMax) break;
    count += 1;
  }
  return count;
}

export class Gatherer {
  readonly #publish: (key: string, texts: readonly string[]) => Promise<unknown>;
  readonly #bytesMax: () => number;
  /** What waits, by subject. */
  readonly #lanes = new Map<string, Item[]>();
  /** Subjects with a message that is not acknowledged: sent again, it must not be overtaken by the next. */
  readonly #busy = new Set<string>();
  #isRound = false;
  /** Of what waits something has no company, or fills a message: the next round waits for nobody. */
  #isUrgent = false;
  #waitsForCompany: NodeJS.Timeout | undefined;

  /** @param bytesMax  of a message; asked for each, since a broker that comes back may carry another */
  constructor(
    publish: (key: string, texts: readonly string[]) => Promise<unknown>,
    bytesMax: () => number = () => limits.batchBytesMax,
  ) {
    this.#publish = publish;
    this.#bytesMax = bytesMax;
  }

  /** @param company  how many more the caller has on the way: as long as there are any this one may wait for them, 2 ms at most beyond the round that is under way */
  add(key: string, text: string, company = 0): Promise<void> {
    return new Promise((resolve, reject) => {
      const item = { text, resolve, reject };
      const lane = this.#lanes.get(key);
      if (lane) lane.push(item);
      else this.#lanes.set(key, [item]);
      if (company === 0 || (lane && lane.length >= limits.batchMessagesMax)) this.#isUrgent = true;
      this.#beginSoon();
    });
  }

  #beginSoon(): void {
    if (this.#isRound) return;
    if (this.#isUrgent) this.#begin();
    else this.#waitsForCompany ??= setTimeout(() => this.#begin(), companyMsMax);
  }

  #begin(): void {
    clearTimeout(this.#waitsForCompany);
    this.#waitsForCompany = undefined;
    this.#isRound = true;
    queueMicrotask(() => void this.#round());
  }

  async #round(): Promise<void> {
    const sent: Promise<void>[] = [];
    this.#isUrgent = false;
    for (const [key, items] of this.#lanes) {
      const batch = this.#busy.has(key) ? [] : items.splice(0, fitting(items, this.#bytesMax()));
      // What stays behind has waited for a round already.
      if (items.length > 0) this.#isUrgent = true;
      else this.#lanes.delete(key);
      if (batch.length === 0) continue;
      sent.push(this.#send(key, batch));
    }
    if (sent.length > 0) await within(roundMsMax, Promise.all(sent));
    this.#isRound = false;
    for (const key of this.#lanes.keys()) if (!this.#busy.has(key)) return this.#beginSoon();
  }

  async #send(key: string, batch: readonly Item[]): Promise<void> {
    this.#busy.add(key);
    try {
      await this.#publish(
        key,
        batch.map((item) => item.text),
      );
      for (const item of batch) item.resolve();
    } catch (error) {
      for (const item of batch) item.reject(error);
    }
    this.#busy.delete(key);
    if (this.#lanes.has(key)) this.#beginSoon();
  }
}

/** Resolves with the promise, or when the time is over. */
async function within(ms: number, promise: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([promise, over]);
  clearTimeout(timer);
}

export const joined = (texts: readonly string[]): string =>
  texts.length === 1 ? texts[0]! : `[${texts.join(',')}]`;
