/** Modules of users' own machines: changed when one of their files is, whatever names it. */
import { stat } from 'node:fs/promises';

export class WatchedFiles {
  readonly #everyMs: number;
  readonly #states = new Map<string, string>();

  constructor(everyMs = 1_000) {
    this.#everyMs = everyMs;
  }

  /**
   * These are watched from now on, and no others.
   *
   * @param since  epoch ms, when reading them began: what was written after it may not have been read
   */
  async watch(files: ReadonlySet<string>, since: number): Promise<void> {
    for (const file of this.#states.keys()) if (!files.has(file)) this.#states.delete(file);
    for (const file of files) {
      const { state, writtenAt } = await look(file);
      this.#states.set(file, writtenAt >= since ? 'perhaps not read' : state);
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
