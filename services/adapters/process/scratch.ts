/**
 * Scratch folders: one for each session that runs programs here.
 *
 * Owns     a root of its own below `parent`, named after this process; roots whose process is gone are removed at the start.
 *
 * F1  A folder stays from call to call, until its session has made none for `idleMs`.
 * F2  A folder in use is never removed.
 */
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';

const prefix = 'understudy-scratch-';
const remove = (folder: string) => rm(folder, { recursive: true, force: true });

/** Roots of this process. */
const open = new Set<string>();

/** One that bears our number, and is none of ours, lived before us: in a container every life has the same. */
function isLeft(root: string, pid: number): boolean {
  if (pid === process.pid) return !open.has(root);
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

export class ScratchFolders {
  readonly #root: string;
  readonly #idleMs: number;
  readonly #folders = new Map<string, { calls: number; removal: NodeJS.Timeout | undefined }>();

  private constructor(root: string, idleMs: number) {
    this.#root = root;
    this.#idleMs = idleMs;
  }

  static async open(parent: string, idleMs: number): Promise<ScratchFolders> {
    await mkdir(parent, { recursive: true, mode: 0o700 });
    for (const name of await readdir(parent)) {
      const pid = name.startsWith(prefix) ? Number.parseInt(name.slice(prefix.length), 10) : Number.NaN;
      const left = join(parent, name);
      // Another user's stays: it cannot be removed, nor does it have to be.
      if (pid > 0 && isLeft(left, pid)) await remove(left).catch(() => undefined);
    }
    const root = await mkdtemp(join(parent, `${prefix}${process.pid}-`));
    open.add(root);
    return new ScratchFolders(root, idleMs);
  }

  /** @throws what the file system says: it is full, say */
  async use<Value>(tenant: string, session: string, work: (folder: string) => Promise<Value>): Promise<Value> {
    const folder = join(this.#root, tenant, session);
    const found = this.#folders.get(folder) ?? { calls: 0, removal: undefined };
    this.#folders.set(folder, found);
    clearTimeout(found.removal);
    found.calls += 1;
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      return await work(folder);
    } finally {
      found.calls -= 1;
      if (found.calls === 0) {
        found.removal = setTimeout(() => {
          this.#folders.delete(folder);
          void remove(folder).catch(() => undefined);
        }, this.#idleMs).unref();
      }
    }
  }

  async close(): Promise<void> {
    for (const { removal } of this.#folders.values()) clearTimeout(removal);
    await remove(this.#root);
    open.delete(this.#root);
  }
}
