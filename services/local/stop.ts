/** `make stop`: end what `make dev` started, by pid, and only that. */
import { existsSync, rmSync } from 'node:fs';
import { root } from './stack.ts';
import { alive, localFolder, readStackFile } from './stack-file.ts';

const say = (line: string) => process.stdout.write(`${line}\n`);
const folder = localFolder(root);
const stack = readStackFile(folder);
const running = stack ? alive(stack) : [];
// Services first, servers last: a runtime that drains needs both.
for (const isServer of [false, true]) {
  const group = running.filter(({ name }) => /server$/.test(name) === isServer);
  for (const { pid } of group) process.kill(pid, 'SIGTERM');
  const deadline = Date.now() + 15_000;
  while (stack && alive(stack).some(({ pid }) => group.some((member) => member.pid === pid))) {
    if (Date.now() > deadline) {
      for (const { pid } of alive(stack)) process.kill(pid, 'SIGKILL');
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
say(
  running.length > 0
    ? `Ended ${running.map(({ name }) => name).join(', ')}.`
    : 'Nothing of make dev is running.',
);
if (process.env.WIPE) {
  const isThere = existsSync(folder);
  rmSync(folder, { recursive: true, force: true });
  say(isThere ? 'Its state in .understudy/local is removed.' : 'There was no state to remove.');
} else if (stack) say('Its state is kept in .understudy/local; make stop WIPE=1 removes it.');
