/** `make play`: the refund desk in one process and in memory. */

import { join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { esbuildMachines } from '../adapters/esbuild/machines.ts';
import { foldersTexts, loadSpecs, specsOf } from '../adapters/files/spec-files.ts';
import { messageOf } from '../core/errors.ts';
import { shown } from '../core/format.ts';
import type { AgentName } from '../core/ids.ts';
import { isEndEvent } from '../core/wire/event-end.ts';
import { eventLine } from '../core/wire/event-line.ts';
import { startInMemory } from './in-memory.ts';
import { hintsOf, ownSpecs } from './own-specs.ts';
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

if (!process.env.SPECS && (process.env.AGENT || process.env.INPUT)) {
  say(
    'AGENT and INPUT are for your own agents: make play SPECS=<folder> AGENT=<name> INPUT=<text>',
  );
  process.exit(2);
}
say(
  'Understudy in one process, in memory. NOTHING SURVIVES IT: when this process ends, its sessions are gone.',
);
say(
  '(make demo runs the same agents on real servers, and kills them. Without OPENAI_BASE_URL and OPENAI_API_KEY the model is a script, and what it costs is made up.)',
);
say();
const payments = await outside('payments', 'payments-server.ts', { LEDGER: '/dev/null' });
const { OPENAI_BASE_URL, OPENAI_API_KEY } = process.env;
const isRealModel = Boolean(OPENAI_BASE_URL && OPENAI_API_KEY);
const model = isRealModel
  ? OPENAI_BASE_URL
  : `${await outside('model', 'model-server.ts', { LATENCY_MS: '40' })}/v1`;
const own = await ownSpecs().catch((error: unknown) => {
  say(messageOf(error));
  process.exit(2);
});
if (own) for (const hint of hintsOf(own, isRealModel)) say(hint);
const specs = [...(own ? [own.folder] : []), join(example, 'agents')];
const system = await startInMemory({
  specs,
  files: join(example, 'data'),
  environment: {
    PAYMENTS_URL: payments,
    OPENAI_BASE_URL: model,
    OPENAI_API_KEY: OPENAI_API_KEY ?? 'scripted',
    ...own?.environment,
  },
  documents: (listings) => specsOf(foldersTexts(specs), specs, esbuildMachines(), listings),
});
const jobs = own ? await ownJobs(own.folder) : exampleJobs();
const agents = new Set(jobs.map(({ agent }) => agent));
let ended = 0;
await system.events.follow({}, true, (event) => {
  say(eventLine(event));
  if (isEndEvent(event) && agents.has(event.data.agent)) {
    say(`  ${event.data.output ?? event.data.reason ?? ''}`);
    ended += 1;
  }
});
for (const { id, agent, input } of jobs)
  await system.tasks.publish('acme', agent, JSON.stringify({ input }), { 'Understudy-Task': id });
const deadline = Date.now() + (own ? 600_000 : 30_000);
while (ended < jobs.length && Date.now() < deadline) {
  const waiting = (await system.control.ask('approvals', {}, 1_000)) as {
    value?: Approval[];
  };
  for (const approval of waiting.value ?? []) {
    const verb = await decisionOn(approval);
    const decision = { session: approval.session, actor: 'play', reason: 'a first look' };
    await system.control.ask(verb, { ...decision, hash: approval.hash }, 5_000);
  }
  await new Promise((resolve) => setTimeout(resolve, 50));
}
say();
say(`${ended} of ${jobs.length} tasks ended. Next: make demo, make dev.`);
await system.stop();
process.exit(ended === jobs.length ? 0 : 1);

interface Job {
  readonly id: string;
  readonly agent: string;
  readonly input: unknown;
}
interface Approval {
  readonly session: string;
  readonly tool: string;
  readonly arguments: string;
  readonly hash: string;
}

function exampleJobs(): Job[] {
  return ['C-0001', 'C-0003', 'C-0007', 'C-0010'].map((id) => ({
    id,
    agent: 'refund-desk',
    input: { case: id, letter: `letters/${id}.txt` },
  }));
}

/** One task for AGENT, or for the first agent of the folder. */
async function ownJobs(directory: string): Promise<Job[]> {
  const { catalog, problems } = await specsOf(foldersTexts(specs), specs, esbuildMachines()).load();
  const { catalog: others } = await loadSpecs(join(example, 'agents'));
  for (const { file, field, message } of problems)
    say(`BAD ${file}: ${field ? `${field}: ` : ''}${message}`);
  const { AGENT, INPUT = 'Hello.' } = process.env;
  const names = [...catalog.agents.keys()] as string[];
  const agent = AGENT || names.find((name) => !others.agents.has(name as AgentName));
  if (!agent || !names.includes(agent)) {
    say(
      `There is no agent ${agent ?? ''} in ${directory}; there are: ${names.join(', ') || 'none'}.`,
    );
    process.exit(2);
  }
  return [{ id: 'play-1', agent, input: inputOf(INPUT) }];
}

function inputOf(text: string): unknown {
  if (!/^[[{]/.test(text)) return text;
  try {
    return JSON.parse(text);
  } catch (error) {
    say(`INPUT is not valid JSON: ${messageOf(error)}`);
    process.exit(2);
  }
}

/** Of the example play decides; what the reader's own tools do, only the reader. */
async function decisionOn({ tool, arguments: args }: Approval): Promise<'approve' | 'reject'> {
  if (!own) {
    say(`  ${tool} ${args} needs a person; this once, it is approved by play`);
    return 'approve';
  }
  if (!process.stdin.isTTY) {
    say(`  ${tool} ${args} needs a person, and there is none at this terminal: rejected`);
    return 'reject';
  }
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  const answer = await terminal.question(`  ${shown(tool)} ${shown(args)}: approve? [y/N] `);
  terminal.close();
  return /^y(es)?$/i.test(answer.trim()) ? 'approve' : 'reject';
}
