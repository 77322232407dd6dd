/**
 * Which messages of a shard are still open, and with that how far its position may move.
 *
 * Owns     the order of the batches that arrived; a batch is passed only when each of its messages, and all before it, are done (S2).
 */
import { limits } from '../core/limits.ts';

interface Arrived {
  readonly sequence: number;
  /** The broker's time of it, epoch ms. */
  readonly at: number;
  open: number;
}

export class Arrivals {
  readonly #batches: Arrived[] = [];
  readonly #onDone: () => void;
  #backlog = 0;

  /** @param onDone  told when all messages of a batch are done */
  constructor(onDone: () => void) {
    this.#onDone = onDone;
  }

  /** @returns to be called once for each of its messages, when nothing of it has to be read again */
  add(sequence: number, at: number, messages: number): () => void {
    const arrived: Arrived = { sequence, at, open: messages };
    this.#batches.push(arrived);
    this.#backlog += messages;
    return () => {
      arrived.open -= 1;
      this.#backlog -= 1;
      if (arrived.open === 0) this.#onDone();
    };
  }

  /** Messages that are not done. */
  get backlog(): number {
    return this.#backlog;
  }
  get isTooMany(): boolean {
    return this.#backlog > limits.shardBacklogMax;
  }
  get isFewAgain(): boolean {
    return this.#backlog < limits.shardBacklogMax / 2;
  }
  get hasPassed(): boolean {
    return this.#batches[0]?.open === 0;
  }

  /** Forgets what has passed. @returns its last batch; undefined when none has */
  takePassed(): Pick<Arrived, 'sequence' | 'at'> | undefined {
    let last: Arrived | undefined;
    while (this.#batches[0]?.open === 0) last = this.#batches.shift()!;
    return last;
  }
}
