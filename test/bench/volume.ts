/**
 * `make volume`: what stays behind. Two runs on real servers:
 * 1. many finished sessions while one waits the whole time: MAIL, Redis and the runtime's heap must stay bounded;
 * 2. one session with 100 model calls over a conversation of 200k tokens: what Redis and JetStream store of it.
 * `ARGS=--help` says what may be asked of it.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ask, connectNats } from '../../services/adapters/nats/connection.ts';
import { natsControl } from '../../services/adapters/nats/control.ts';
import { OrderedReader } from '../../services/adapters/nats/ordered-reader.ts';
import { natsTasks } from '../../services/adapters/nats/tasks.ts';
import { connectedRedis } from '../../services/adapters/redis/scripts.ts';
import { parseEvents } from '../../services/core/wire/cloud-event.ts';
import { answering, freePort, startProcess } from '../../services/local/processes.ts';
import { Stack } from '../../services/local/stack.ts';
import { optionsOf, whole } from './options.ts';
import { say, sleep } from './rig.ts';

const {
  sessions,
  calls,
  bytes: resultBytes,
} = optionsOf('volume', {
  sessions: whole(20_000, 'that finish'),
  calls: whole(100, 'of the model, in one long session'),
  bytes: whole(8_000, 'of a tool result'),
});

const folder = mkdtempSync(join(tmpdir(), 'understudy-volume-'));
const specs = join(folder, 'specs');
mkdirSync(specs);
writeFileSync(
  join(specs, 'all.yaml'),
  `apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: short }
spec: { model: stub, tools: [guarded], approvals: [{ tool: guarded }] }
---
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: long }
spec: { model: stub, tools: [big], contextTokensMax: 10000000, limits: { stepsMax: 1000, toolCallsMax: 1000, tokensMax: 1000000000, costMicrosMax: 1000000000 } }
---
apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: guarded }
spec: { description: waits for a person, class: pure, input: { type: object }, run: { kind: builtin, name: echo } }
---
apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: big }
spec: { description: a large answer, class: pure, input: { type: object }, run: { kind: http, method: GET, url: "\${env:STUB_URL}/big" } }
---
apiVersion: understudy.dev/v1
kind: Model
metadata: { name: stub }
spec: { model: stub, stream: false, price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 } }
---
apiVersion: understudy.dev/v1
kind: Tenant
metadata: { name: acme }
spec: {}
`,
);

/** Words that do not compress to nothing: what a page of text looks like. */
const words =
  'the refund order was delivered late and customer asked whether payment could be returned before friday while warehouse said that item had left'.split(
    ' ',
  );
let seed = 7;
const text = (bytes: number) => {
  let made = '';
  while (made.length < bytes) {
    seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
    made += `${words[seed % words.length]}${seed % 97} `;
  }
  return made.slice(0, bytes);
};
const server = createServer((request, response) => {
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    response.setHeader('content-type', 'application/json');
    if (request.url?.startsWith('/big'))
      return void response.end(JSON.stringify({ page: text(resultBytes) }));
    const body = Buffer.concat(chunks).toString('latin1');
    const turn = body.split('"role":"tool"').length - 1;
    const isWaiting = body.includes('wait for a person');
    const tool = isWaiting ? 'guarded' : 'big';
    const isDone = body.includes('short task') || turn >= calls;
    const message = isDone
      ? { role: 'assistant', content: 'done' }
      : {
          role: 'assistant',
          content: null,
          tool_calls: [
            {
              id: `c${turn}`,
              type: 'function',
              function: { name: tool, arguments: JSON.stringify({ n: turn }) },
            },
          ],
        };
    response.end(
      JSON.stringify({
        model: 'stub',
        choices: [{ finish_reason: isDone ? 'stop' : 'tool_calls', message }],
        usage: { prompt_tokens: Math.ceil(body.length / 4), completion_tokens: 10 },
      }),
    );
  });
});
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', () => resolve()));
const stubUrl = `http://127.0.0.1:${(server.address() as { port: number }).port}`;

const stack = new Stack({
  folder,
  specs,
  environment: {
    OPENAI_API_KEY: 'x',
    OPENAI_BASE_URL: `${stubUrl}/v1`,
    STUB_URL: stubUrl,
    UNDERSTUDY_LOG_LEVEL: 'warn',
  },
});
await stack.startServers();
const [heapPort, runtimePort] = [await freePort(), await freePort()];
const runtime = startProcess({
  name: 'runtime-1',
  command: [process.execPath, '--expose-gc', join(import.meta.dirname, 'measured-runtime.ts')],
  environment: {
    ...stack.environment,
    UNDERSTUDY_INSTANCE: 'runtime-1',
    UNDERSTUDY_HTTP_PORT: String(runtimePort),
    HEAP_PORT: String(heapPort),
  },
  logs: stack.logs,
});
process.on('exit', () => {
  runtime.signal('SIGKILL');
  stack.abandon();
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
});
process.on('SIGINT', () => process.exit(130));
process.on('SIGTERM', () => process.exit(143));
await answering(`http://127.0.0.1:${runtimePort}/readyz`, runtime);
await Promise.all([stack.start('gateway'), stack.start('executor')]);
const nats = await connectNats({ url: stack.nats.url, name: 'volume' });
const redis = await connectedRedis(stack.redis.url);
const tasks = natsTasks(nats);
let ended = 0;
await new OrderedReader(
  nats,
  {
    stream: nats.streams.events,
    filter: nats.subjects.ends('acme', '*', '*'),
    afterSequence: 0,
  },
  (message) => {
    ended += parseEvents(message.text()).length;
  },
).start();

interface Sizes {
  readonly mail: number;
  readonly mailMessages: number;
  readonly effects: number;
  readonly archive: number;
  readonly events: number;
  readonly redis: number;
  readonly heap: number;
}
async function sizes(): Promise<Sizes> {
  const stream = async (name: string) =>
    (
      await ask<{ state: { bytes: number; messages: number } }>(
        nats,
        `$JS.API.STREAM.INFO.${name}`,
        undefined,
      )
    ).state;
  const mail = await stream(nats.streams.mail);
  return {
    mail: mail.bytes,
    mailMessages: mail.messages,
    effects: (await stream(nats.streams.effects)).bytes,
    archive: (await stream(nats.streams.archive)).bytes,
    events: (await stream(nats.streams.events)).bytes,
    redis: Number(/used_memory_dataset:(\d+)/.exec(await redis.info('memory'))?.[1] ?? 0),
    heap: ((await (await fetch(`http://127.0.0.1:${heapPort}`)).json()) as { heapUsed: number })
      .heapUsed,
  };
}
const kib = (bytes: number) => `${(bytes / 1_024).toFixed(0)}K`.padStart(9);

say(`${sessions} sessions that finish, one that waits the whole time`);
await tasks.publish('acme', 'short', '{"input":"wait for a person"}', {
  'Understudy-Task': 'waits',
});
say(' finished  MAIL msgs      MAIL     Redis  runtime heap   archive    events');
let published = 0;
for (let mark = 0; mark <= sessions; mark += sessions / 5) {
  while (ended < mark) {
    while (published < mark && published - ended < 256) {
      published += 1;
      void tasks.publish('acme', 'short', `{"input":"short task ${published}"}`, {
        'Understudy-Task': `s-${published}`,
      });
    }
    await sleep(5);
  }
  await sleep(12_000); // two rounds of trimming
  const now = await sizes();
  say(
    `${String(mark).padStart(9)}  ${String(now.mailMessages).padStart(9)} ${kib(now.mail)} ${kib(now.redis)}     ${kib(now.heap)} ${kib(now.archive)} ${kib(now.events)}`,
  );
}
const waiting = (await natsControl(nats).ask('list', {}, 5_000)) as {
  ok: boolean;
  value?: { session: string; waitingOn: string }[];
};
say(`still waiting: ${waiting.value?.map(({ waitingOn }) => waitingOn).join(', ')}`);
const verdict = (await natsControl(nats).ask(
  'verify',
  { session: waiting.value?.[0]?.session },
  10_000,
)) as { value?: { isEqual: boolean } };
say(`its log folds to its state: ${String(verdict.value?.isEqual)}`);

say();
say(
  `one session, ${calls} model calls over a conversation of about ${Math.round((calls * resultBytes) / 4 / 1_000)}k tokens`,
);
await redis.call('CONFIG', 'SET', 'active-defrag-cycle-min', '1').catch(() => undefined);
const before = await sizes();
let most = before;
const endedBefore = ended;
await tasks.publish('acme', 'long', '{"input":"read everything"}', { 'Understudy-Task': 'long' });
while (ended === endedBefore) {
  await sleep(200);
  const now = await sizes();
  if (now.mail + now.redis + now.archive > most.mail + most.redis + most.archive) most = now;
}
const total =
  most.mail -
  before.mail +
  most.redis -
  before.redis +
  most.archive -
  before.archive +
  most.events -
  before.events;
say(`  the conversation itself  ${kib(calls * resultBytes)}`);
say(`  MAIL                     ${kib(most.mail - before.mail)}`);
say(`  Redis                    ${kib(most.redis - before.redis)}`);
say(`  archive                  ${kib(most.archive - before.archive)}`);
say(`  events                   ${kib(most.events - before.events)}`);
say(`  together, at the most    ${kib(total)}`);
process.exit(0);
