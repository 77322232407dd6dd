/** The workspace as one compressed archive, out and in. */
import { spawn } from 'node:child_process';
import { mkdir, readdir, rm } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';

/**
 * The same files give the same bytes: sorted, without times and owners. Each entry of the folder and not the folder itself, which may be a
 * volume that we may write to and do not own: nobody could restore its mode.
 */
const pack =
  'find . -mindepth 1 -maxdepth 1 ! -name lost+found -print0 | LC_ALL=C sort -z | tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --sparse --null -T - -I "gzip -n -6" -cf -';

/** Writes the archive as the answer. */
export async function sendWorkspace(folder: string, response: ServerResponse): Promise<void> {
  await mkdir(folder, { recursive: true });
  await permit(folder);
  const tar = spawn('/bin/sh', ['-c', pack], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'ignore'],
    env: { PATH: '/usr/bin:/bin' },
  });
  response.writeHead(200, { 'content-type': 'application/gzip' });
  tar.stdout.pipe(response, { end: false });
  tar.on('error', () => response.destroy());
  // A part must not pass for the whole: what tar could not read makes it no archive.
  tar.on('close', (code) => (code === 0 ? response.end() : response.destroy()));
}

/** A job may have forbidden us what it made: it is ours to read, to change and to remove. Links are left as they are. */
const permit = (folder: string): Promise<void> =>
  new Promise((resolve) => {
    const chmod = spawn('chmod', ['-R', 'u+rwX', '.'], {
      cwd: folder,
      stdio: 'ignore',
      env: { PATH: '/usr/bin:/bin' },
    });
    chmod.on('error', () => resolve());
    chmod.on('close', () => resolve());
  });

/** @throws Error when something of it remains: a sandbox that cannot forget is of no more use */
export async function emptyWorkspace(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  const names = async () => (await readdir(folder)).filter((name) => name !== 'lost+found');
  const remove = async () => {
    for (const name of await names())
      await rm(join(folder, name), { recursive: true, force: true }).catch(() => undefined);
  };
  await remove();
  if ((await names()).length === 0) return;
  await permit(folder);
  await remove();
  const [left] = await names();
  if (left !== undefined) throw new Error('the workspace cannot be emptied');
}

export async function receiveWorkspace(folder: string, request: IncomingMessage): Promise<boolean> {
  await emptyWorkspace(folder);
  return new Promise((resolve) => {
    const tar = spawn('tar', ['-xzf', '-', '--no-same-owner', '-C', folder], {
      stdio: ['pipe', 'ignore', 'ignore'],
      env: { PATH: '/usr/bin:/bin' },
    });
    tar.stdin.on('error', () => undefined);
    request.pipe(tar.stdin);
    tar.on('error', () => resolve(false));
    tar.on('exit', (code) => resolve(code === 0));
  });
}
