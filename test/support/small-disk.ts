/** A disk that is full at will: a small file system in memory, mounted where a server keeps its files. Needs the right to mount. */
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmdirSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const tmpfs = (folder: string, mebibytes: number) => [
  '-t',
  'tmpfs',
  '-o',
  `size=${mebibytes}m,mode=0777`,
  'understudy-test',
  folder,
];

/** May this process mount a file system? */
export const canMount = (() => {
  const folder = mkdtempSync(join(tmpdir(), 'understudy-mount-'));
  const isMounted = spawnSync('mount', tmpfs(folder, 1), { stdio: 'ignore' }).status === 0;
  if (isMounted) spawnSync('umount', ['--lazy', folder], { stdio: 'ignore' });
  rmdirSync(folder);
  return isMounted;
})();

export class SmallDisk {
  readonly folder: string;

  constructor(folder: string, mebibytes: number) {
    this.folder = folder;
    mkdirSync(folder, { recursive: true });
    execFileSync('mount', tmpfs(folder, mebibytes));
  }

  /** Leave no byte free. */
  fill(): void {
    const file = openSync(join(this.folder, 'ballast'), 'a');
    try {
      for (let size = 65_536; size >= 1; ) {
        try {
          writeSync(file, Buffer.alloc(size));
        } catch (error) {
          if ((error as { code?: string }).code !== 'ENOSPC') throw error;
          size = Math.floor(size / 2);
        }
      }
    } finally {
      closeSync(file);
    }
  }

  free(): void {
    rmSync(join(this.folder, 'ballast'), { force: true });
  }

  unmount(): void {
    spawnSync('umount', ['--lazy', this.folder], { stdio: 'ignore' });
  }
}
