/** `make play`: the refund desk in one process and in memory. */

import { join } from 'node:path';
import { folderTexts, specsOf } from '../adapters/files/spec-files.ts';
import { isEndEvent } from '../core/wire/event-end.ts';
import { eventLine } from '../core/wire/event-line.ts';
import { startInMemory } from './in-memory.ts';
import { freePort, type Running, startProcess } from './processes.ts';
import { root } from './stack.ts';

const say = (line = '') => process.stdout.write(`${line}\n`);
const example = join(root, 'examples', 'refund-desk');
const folder = join(root, '.understudy', 'play');
const started: Running[] = [];
process.on('exit', () => {
  for (const running of started) running.signal('SIGKILL');
});

async function outside(
  name: string,
  file: string,
  environment: Record<string, string>,
): Promise<string> {
  const port = await freePort();
  started.push(
    startProcess({
      name,
      command: [process.execPath, join(example, file)],
      environment: { ...environment, PORT: String(port), CALM: '1' },
      logs: join(folder, 'logs'),
    }),
  );
  for (;;) {
    try {
      await fetch(`http://127.0.0.1:${port}/health`);
      return `http://127.0.0.1:${port}`;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  }
}

say(
  'Understudy in one process, in memory. NOTHING SURVIVES IT: when this process ends, its sessions are gone.',
);
say(
  '(make demo runs the same agents on real servers, and kills them. Without OPENAI_BASE_URL and OPENAI_API_KEY the model is a script, and what it costs is made up.)',
);
say();
const payments = await outside('payments', 'payments-server.ts', { LEDGER: '/dev/null' });
const model =
  process.env.OPENAI_BASE_URL && process.env.OPENAI_API_KEY
    ? process.env.OPENAI_BASE_URL
    : `${await outside('model', 'model-server.ts', { LATENCY_MS: '40' })}/v1`;
const specs = join(example, 'agents');
const system = await startInMemory({
  specs,
  files: join(example, 'data'),
  environment: {
    PAYMENTS_URL: payments,
    OPENAI_BASE_URL: model,
    OPENAI_API_KEY: process.env.OPENAI_API_KEY ?? 'scripted',
  },
  documents: specsOf([folderTexts(specs)], specs),
});
let ended = 0;
const cases = ['C-0001', 'C-0003', 'C-0007', 'C-0010'];
await system.events.follow({}, true, (event) => {
  say(eventLine(event));
  if (isEndEvent(event) && event.data.agent === 'refund-desk') {
    say(`  ${event.data.output}`);
    ended += 1;
  }
});
for (const id of cases)
  await system.tasks.publish(
    'acme',
    'refund-desk',
    JSON.stringify({ input: { case: id, letter: `letters/${id}.txt` } }),
    { 'Understudy-Task': id },
  );
const deadline = Date.now() + 30_000;
while (ended < cases.length && Date.now() < deadline) {
  const waiting = (await system.control.ask('approvals', {}, 1_000)) as {
    value?: { session: string; tool: string; arguments: string; hash: string }[];
  };
  for (const approval of waiting.value ?? []) {
    say(
      `  ${approval.tool} ${approval.arguments} needs a person; this once, it is approved by play`,
    );
    await system.control.ask(
      'approve',
      { session: approval.session, actor: 'play', reason: 'a first look', hash: approval.hash },
      5_000,
    );
  }
  await new Promise((resolve) => setTimeout(resolve, 50));
}
say();
say(`${ended} of ${cases.length} tasks ended. Next: make demo, make dev.`);
await system.stop();
process.exit(ended === cases.length ? 0 : 1);
