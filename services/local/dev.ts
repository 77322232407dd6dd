/** `make dev`: the stack of the demo, left running. */
import { startDesk } from './desk.ts';
import { root } from './stack.ts';
import { alive, localFolder, readStackFile } from './stack-file.ts';

const say = (line = '') => process.stdout.write(`${line}\n`);
const folder = localFolder(root);
const before = readStackFile(folder);
if (before && alive(before).length > 0) {
  say(
    `A stack runs already (${alive(before)
      .map(({ name }) => name)
      .join(', ')}).`,
  );
  const dead = before.pids.filter(({ pid }) => !alive(before).some((one) => one.pid === pid));
  if (dead.length > 0) say(`These have died: ${dead.map(({ name }) => name).join(', ')}.`);
  say('make stop, then make dev, brings all of it back with its state.');
  process.exit(1);
}
const desk = await startDesk({ folder, isDetached: true, isCalm: true, hasConsole: true, replicas: { runtime: 2, gateway: 1, executor: 1 }, say });
const { stack } = desk;
say('Understudy runs. Everything is in .understudy/local.');
say();
say(`  console     ${desk.console}`);
say(`  NATS        ${stack.nats.url}`);
say(`  Redis       ${stack.redis.url}`);
for (const { instance, port } of stack.services) say(`  ${instance.padEnd(12)}http://127.0.0.1:${port}/metrics  (also /livez, /readyz)`);
say(`  model       ${desk.isRealModel ? 'OPENAI_BASE_URL' : 'scripted'}`);
say();
say('Try:');
say(`  bin/understudy run refund-desk '{"case":"C-0001","letter":"letters/C-0001.txt"}'`);
say('  bin/understudy ps');
say('  bin/understudy approvals');
say('  bin/understudy doctor');
say(`  nats --server ${stack.nats.url} pub understudy.task.acme.refund-desk '{"input":{"case":"C-0002","letter":"letters/C-0002.txt"}}'`);
say('  make stop');
process.exit(0);
