/**
 * Batching of what nobody waits for: what is added for one subject within a while leaves as one message, an array.
 *
 * R1  Nothing waits here longer than `waitMs`, or than it takes to fill a message.
 * R2  Messages of a subject leave in the order in which their parts were added; one that has to be sent again may come after the next.
 */
import { limits } from '../../core/limits.ts';
import { fitting } from './gatherer.ts';

interface Batch {
  readonly items: { readonly text: string }[];
  readonly left: Promise<unknown>;
  readonly settle: (publish: Promise<unknown>) => void;
}

export class WaitingRoom {
  readonly #waitMs: number;
  readonly #publish: (subject: string, texts: readonly string[]) => Promise<unknown>;
  readonly #batches = new Map<string, Batch>();
  #timer: NodeJS.Timeout | undefined;

  constructor(
    waitMs: number,
    publish: (subject: string, texts: readonly string[]) => Promise<unknown>,
  ) {
    this.#waitMs = waitMs;
    this.#publish = publish;
  }

  /** @returns when it has been published; many share one promise */
  add(subject: string, text: string): Promise<unknown> {
    let batch = this.#batches.get(subject);
    if (!batch) {
      const { promise, resolve } = Promise.withResolvers<unknown>();
      batch = { items: [], left: promise, settle: resolve };
      this.#batches.set(subject, batch);
      this.#timer ??= setTimeout(() => this.#sendAll(), this.#waitMs);
    }
    batch.items.push({ text });
    if (batch.items.length >= limits.batchMessagesMax) this.send(subject);
    return batch.left;
  }

  /** What waits for this subject leaves now. */
  send(subject: string): void {
    const batch = this.#batches.get(subject);
    if (!batch) return;
    this.#batches.delete(subject);
    const published: Promise<unknown>[] = [];
    while (batch.items.length > 0)
      published.push(
        this.#publish(
          subject,
          batch.items.splice(0, fitting(batch.items)).map(({ text }) => text),
        ),
      );
    batch.settle(published.length === 1 ? published[0]! : Promise.all(published));
  }

  #sendAll(): void {
    this.#timer = undefined;
    for (const subject of [...this.#batches.keys()]) this.send(subject);
  }
}
