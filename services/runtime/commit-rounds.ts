/**
 * When the shards of a runtime commit: together, in rounds.
 *
 * What gathers in all of them while the commits of a round are under way is committed by the next. Few sessions in many shards make
 * large commits so, and the store is woken once for all of them. While nothing is under way a commit leaves when this callback and all
 * that it promised are done: what came in one read is committed together, and nothing waits for a turn of the loop.
 *
 * A round that takes long (a node of the store is gone) holds up its own shards only: after `roundMsMax` the others go on.
 * Whether what they commit then waits for the call before it is the store's affair.
 */
const roundMsMax = 20; // many times what a commit takes

export class CommitRounds {
  /** Those of the next round. */
  #waiting: (() => Promise<void>)[] = [];
  #isRound = false;

  /** @param commit  called when its round begins, and so takes what has gathered until then; it must not reject */
  join(commit: () => Promise<void>): void {
    this.#waiting.push(commit);
    if (this.#isRound) return;
    this.#isRound = true;
    queueMicrotask(() => process.nextTick(() => void this.#rounds()));
  }

  async #rounds(): Promise<void> {
    while (this.#waiting.length > 0) {
      const commits = this.#waiting;
      this.#waiting = [];
      await this.#round(commits);
    }
    this.#isRound = false;
  }

  #round(commits: readonly (() => Promise<void>)[]): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, roundMsMax);
      void Promise.all(commits.map((commit) => commit())).then(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
}
