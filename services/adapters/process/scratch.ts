/**
 * Scratch folders: one for each session that runs programs here.
 *
 * Owns     a root of its own below `parent`, which other processes may share.
 *
 * F1  A folder stays from call to call, until its session has made none for `idleMs`.
 * F2  A folder in use is never removed, and none is used while it is being removed.
 * F3  At the start two kinds of roots go: those that nobody has touched for an hour, and those of our own name whose process is gone.
 */
import { mkdir, mkdtemp, readdir, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { removeTree } from './remove-tree.ts';

const prefix = 'understudy-scratch-';
const touchMs = 5 * 60_000;
const goneMs = 60 * 60_000;

/** One of our own name whose process is gone. In a container every life has the same number: one that bears ours, and is none of ours, lived before us. */
function isOfEarlierLife(name: string, owner: string): boolean {
  const own = `${prefix}${owner}--`;
  const pid = Number(
    name.startsWith(own) ? /^(\d+)-\w{6}$/.exec(name.slice(own.length))?.[1] : Number.NaN,
  );
  if (!(pid > 0)) return false;
  if (pid === process.pid) return true;
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

/** Roots of this process. */
const ours = new Set<string>();

interface Folder {
  calls: number;
  removal: NodeJS.Timeout | undefined;
  removing: Promise<void> | undefined;
}

export interface ScratchOptions {
  readonly idleMs: number;
  /** Name of this process, the same in its next life, and no other's: what its last life left is removed. */
  readonly owner?: string | undefined;
}

export class ScratchFolders {
  readonly #root: string;
  readonly #idleMs: number;
  readonly #touching: NodeJS.Timeout;
  readonly #folders = new Map<string, Folder>();

  private constructor(root: string, idleMs: number) {
    this.#root = root;
    this.#idleMs = idleMs;
    this.#touching = setInterval(
      () => void utimes(root, new Date(), new Date()).catch(() => undefined),
      touchMs,
    ).unref();
  }

  static async open(
    parent: string,
    { idleMs, owner = 'nobody' }: ScratchOptions,
  ): Promise<ScratchFolders> {
    await mkdir(parent, { recursive: true, mode: 0o700 });
    for (const name of await readdir(parent)) {
      const root = join(parent, name);
      if (!name.startsWith(prefix) || ours.has(root)) continue;
      const touched = await stat(root).then(
        ({ mtimeMs }) => mtimeMs,
        () => undefined,
      );
      if (touched !== undefined && (isOfEarlierLife(name, owner) || Date.now() - touched > goneMs))
        await removeTree(root);
    }
    const root = await mkdtemp(join(parent, `${prefix}${owner}--${process.pid}-`));
    ours.add(root);
    return new ScratchFolders(root, idleMs);
  }

  /** @throws what the file system says: it is full, say */
  async use<Value>(
    tenant: string,
    session: string,
    work: (folder: string) => Promise<Value>,
  ): Promise<Value> {
    const folder = join(this.#root, tenant, session);
    const found = this.#folders.get(folder) ?? {
      calls: 0,
      removal: undefined,
      removing: undefined,
    };
    this.#folders.set(folder, found);
    clearTimeout(found.removal);
    found.calls += 1;
    try {
      await found.removing;
      await mkdir(folder, { recursive: true, mode: 0o700 });
      return await work(folder);
    } finally {
      found.calls -= 1;
      if (found.calls === 0)
        found.removal = setTimeout(() => this.#remove(folder, found), this.#idleMs).unref();
    }
  }

  async close(): Promise<void> {
    clearInterval(this.#touching);
    for (const { removal } of this.#folders.values()) clearTimeout(removal);
    await removeTree(this.#root);
    ours.delete(this.#root);
  }

  #remove(folder: string, found: Folder): void {
    found.removing = removeTree(folder).then(() => {
      found.removing = undefined;
      if (found.calls === 0) this.#folders.delete(folder);
    });
  }
}
