/** `make dev`: the stack of the demo, left running. */
import { messageOf } from '../core/errors.ts';
import { startDesk } from './desk.ts';
import { hintsOf, linesOf, ownSpecs } from './own-specs.ts';
import { root } from './stack.ts';
import { alive, localFolder, readStackFile, type StackFile } from './stack-file.ts';

const say = (line = '') => process.stdout.write(`${line}\n`);
const folder = localFolder(root);

function show({ console, natsUrl, redisUrl, pids }: StackFile): void {
  const row = (name: string, value: string) => say(`  ${name.padEnd(12)}${value}`);
  if (console) row('console', console);
  row('NATS', natsUrl);
  row('Redis', redisUrl);
  for (const { name, port } of pids)
    if (port !== undefined && !/server$/.test(name))
      row(name, `http://127.0.0.1:${port}/metrics  (also /livez, /readyz)`);
}

const before = readStackFile(folder);
const running = before ? alive(before) : [];
if (before && running.length > 0) {
  const dead = before.pids
    .filter(({ pid }) => !running.some((one) => one.pid === pid))
    .map(({ name }) => name);
  say('A stack runs already.');
  say();
  show(before);
  say();
  say(
    dead.length > 0
      ? `These have died: ${dead.join(', ')}. make stop, then make dev, brings all of it back with its state.`
      : 'make stop ends it; make stop WIPE=1 also removes its state.',
  );
  if (process.env.SPECS) {
    say();
    say(
      `SPECS=${process.env.SPECS} was not taken: make stop, then make dev SPECS=${process.env.SPECS}`,
    );
    process.exit(1);
  }
  process.exit(dead.length > 0 ? 1 : 0);
}
const own = await ownSpecs().catch((error: unknown) => {
  say(messageOf(error));
  process.exit(2);
});
const desk = await startDesk({
  folder,
  isDetached: true,
  isCalm: true,
  hasConsole: true,
  own,
  replicas: { runtime: 2, gateway: 2, executor: 2 },
  say,
});
say('Understudy runs. Everything is in .understudy/local.');
say();
show(readStackFile(folder)!);
say(
  `  model       ${desk.isRealModel ? 'OPENAI_BASE_URL' : 'scripted: it answers like a clerk, and what it costs is made up'}`,
);
if (own) {
  say();
  for (const hint of hintsOf(own, desk.isRealModel)) say(`  ${hint}`);
  say('  a file that you save there is live within a second: bin/understudy doctor');
  for (const line of await linesOf(own)) say(`  ${line}`);
}
say();
say('Try:');
say(`  bin/understudy run refund-desk '{"case":"C-0001","letter":"letters/C-0001.txt"}'`);
say('  bin/understudy ps');
say('  bin/understudy approvals');
say('  bin/understudy doctor');
say(
  `  nats --server ${desk.stack.nats.url} pub -J -H Understudy-Task:by-hand-1 understudy.task.acme.refund-desk '{"input":{"case":"C-0002","letter":"letters/C-0002.txt"}}'`,
);
say('  make stop');
process.exit(0);
