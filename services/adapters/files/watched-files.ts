/** Modules of users' own machines: changed when one of their files is, whatever names it. */
import { stat } from 'node:fs/promises';

export class WatchedFiles {
  readonly #everyMs: number;
  readonly #states = new Map<string, string>();
  /** As they were when they were read again to be sure: a time in the future says so once. */
  readonly #sure = new Map<string, string>();

  constructor(everyMs = 1_000) {
    this.#everyMs = everyMs;
  }

  /**
   * These are watched from now on, and no others.
   *
   * @param since  epoch ms, when reading them began: what was written after it may not have been read
   */
  async watch(files: ReadonlySet<string>, since: number): Promise<void> {
    for (const known of [this.#states, this.#sure])
      for (const file of known.keys()) if (!files.has(file)) known.delete(file);
    for (const file of files) {
      const { state, writtenAt } = await look(file);
      const isUnsure = writtenAt >= since && this.#sure.get(file) !== state;
      this.#states.set(file, isUnsure ? 'perhaps not read' : state);
      if (isUnsure) this.#sure.set(file, state);
    }
  }

  follow(onChange: () => void): { stop(): void } {
    const timer = setInterval(() => {
      void this.#haveChanged().then((have) => have && onChange());
    }, this.#everyMs);
    timer.unref();
    return { stop: () => clearInterval(timer) };
  }

  async #haveChanged(): Promise<boolean> {
    let have = false;
    for (const [file, before] of this.#states) {
      const { state } = await look(file);
      if (state === before || this.#states.get(file) !== before) continue;
      this.#states.set(file, state);
      have = true;
    }
    return have;
  }
}

async function look(file: string): Promise<{ state: string; writtenAt: number }> {
  try {
    const { mtimeMs, ctimeMs, size, ino } = await stat(file);
    return { state: `${mtimeMs} ${size} ${ino}`, writtenAt: Math.max(mtimeMs, ctimeMs) };
  } catch {
    return { state: 'away', writtenAt: 0 };
  }
}
