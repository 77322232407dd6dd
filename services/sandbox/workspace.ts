/** The workspace as one compressed archive, out and in. */
import { spawn } from 'node:child_process';
import { mkdir, readdir, rm } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';

/** Sizes and times of day differ from run to run; with these the same files give the same bytes. */
const tarOut = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--exclude=lost+found', '-C'];

/** Writes the archive as the answer; a job's files may be unreadable to tar on purpose, then it is no archive. */
export function sendWorkspace(folder: string, response: ServerResponse): void {
  const tar = spawn('/bin/sh', ['-c', 'tar -cf - "$@" . | gzip -n -6', 'tar', ...tarOut, folder], { stdio: ['ignore', 'pipe', 'ignore'], env: { PATH: '/usr/bin:/bin' } });
  response.writeHead(200, { 'content-type': 'application/gzip' });
  tar.stdout.pipe(response);
  tar.on('error', () => response.destroy());
}

export async function receiveWorkspace(folder: string, request: IncomingMessage): Promise<boolean> {
  await mkdir(folder, { recursive: true });
  for (const name of await readdir(folder)) await rm(join(folder, name), { recursive: true, force: true }).catch(() => undefined);
  return new Promise((resolve) => {
    // The folder itself may be a volume that we may write to and do not own: its mode and times are left alone.
    const tar = spawn('tar', ['-xzf', '-', '--no-same-owner', '--no-overwrite-dir', '-C', folder], { stdio: ['pipe', 'ignore', 'ignore'], env: { PATH: '/usr/bin:/bin' } });
    tar.stdin.on('error', () => undefined);
    request.pipe(tar.stdin);
    tar.on('error', () => resolve(false));
    tar.on('exit', (code) => resolve(code === 0));
  });
}
