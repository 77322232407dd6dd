/**
 * `make demo`: the refund desk on real servers and real processes, three of which are killed while it works.
 *
 * Reads what really happened from three witnesses (the event stream, the control API, the ledger of the payments
 * service) and prints whether they agree.
 */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connectNats } from '../adapters/nats/connection.ts';
import { natsControl } from '../adapters/nats/control.ts';
import { natsEvents } from '../adapters/nats/events.ts';
import { natsStarts } from '../adapters/nats/starts.ts';
import { Refused } from '../core/errors.ts';
import { type EffectId, type SessionId, shardOf, type TenantId } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import type { UnderstudyEvent } from '../core/wire/cloud-event.ts';
import { isEndEvent } from '../core/wire/event-end.ts';
import { startDesk } from './desk.ts';
import { startProcess } from './processes.ts';
import { versionOf } from './servers.ts';
import { root, type Service } from './stack.ts';

const say = (line = '') => process.stdout.write(`${line}\n`);
const seconds = (ms: number) => `${(ms / 1_000).toFixed(1)} s`;
const euros = (cents: number) => `${(cents / 100).toFixed(2)} EUR`;
const isTerminal = process.stdout.isTTY;

interface Kill {
  readonly what: string;
  readonly at: number;
  readonly sessions: ReadonlySet<string>;
  readonly resumedAt: Map<string, number>;
}
interface Ledger {
  readonly kind: string;
  readonly key: string;
  readonly order: string;
  readonly amountCents?: number;
}
interface Listed {
  readonly session: string;
  readonly tenant: string;
  readonly agent: string;
  readonly state: string;
  readonly status: string;
  readonly waitingOn: string;
}

const startedAt = Date.now();
say('Understudy demo: a refund desk whose processes are killed while they work.');
const desk = await startDesk({
  isWiped: true,
  replicas: { runtime: 2, gateway: 2, executor: 2 },
  say: (line) => say(`  ${line}`),
}).catch((error: unknown) => {
  if (!(error instanceof Refused)) throw error;
  say(`  ${error.message} (the demo begins with an empty state: what that stack holds is wiped)`);
  process.exit(1);
});
const { stack } = desk;
process.on('exit', () => stack.abandon());
process.on('SIGINT', () => process.exit(130));
say(
  `  nats-server ${versionOf(stack.programs.nats)}, redis ${versionOf(stack.programs.redis)}, 2 runtimes, 2 gateways, 2 executors, a payments service, ${desk.isRealModel ? 'the model at OPENAI_BASE_URL' : 'a scripted model'}`,
);
say(`  logs and state: ${join('.understudy', 'local')}`);
say();

const nats = await connectNats({ url: stack.nats.url, name: 'demo' });
const control = natsControl(nats);
const starts = natsStarts(nats);
const ends = new Map<string, UnderstudyEvent>();
const versions = new Map<string, number>();
const kills: Kill[] = [];
let steps = 0;
let tokens = 0;
let costMicros = 0;
const unknown = new Map<string, number>();
/** Effects of refunds that their sessions were told to have succeeded. */
const refunded = new Set<string>();
let firstAt = 0;
let lastAt = 0;
const seenEvents = new Set<string>();
await natsEvents(nats).follow({}, true, (event) => {
  if (seenEvents.has(event.id)) return; // told twice: the id says so
  seenEvents.add(event.id);
  const { data } = event;
  if (isEndEvent(event)) {
    const hasRun = data.agent === 'refund-desk' && data.to !== 'dead-lettered';
    if (hasRun) ends.set(data.session, event);
    return;
  }
  steps += 1;
  firstAt ||= Date.now();
  lastAt = Date.now();
  versions.set(data.session, data.version);
  tokens += Number(data.details.promptTokens ?? 0) + Number(data.details.completionTokens ?? 0);
  if (event.type.endsWith('model-replied')) costMicros += Number(data.details.costMicros ?? 0);
  if (data.details.tool === 'issue_refund' && data.details.outcome === 'ok')
    refunded.add(String(data.details.effect));
  if (data.details.outcome === 'unknown')
    unknown.set(String(data.details.code), (unknown.get(String(data.details.code)) ?? 0) + 1);
  for (const kill of kills)
    if (kill.sessions.has(data.session) && !kill.resumedAt.has(data.session))
      kill.resumedAt.set(data.session, Date.now());
});

const ask = async <Value>(verb: string, body: unknown): Promise<Value | undefined> => {
  for (let attempt = 0; attempt < 5; attempt += 1) {
    try {
      const answer = await control.ask(verb, body, 3_000);
      if (answer.ok) return answer.value as Value;
    } catch {
      // the runtime that was asked may just have been killed: another answers
    }
  }
  return undefined;
};
const running = async () => (await ask<Listed[]>('list', { max: 5_000 })) ?? [];
const ledger = (): Ledger[] =>
  existsSync(desk.ledger)
    ? readFileSync(desk.ledger, 'utf8')
        .trim()
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Ledger)
    : [];

const publisher = startProcess({
  name: 'publisher',
  command: [process.execPath, join(root, 'examples/refund-desk/publish.ts')],
  environment: { NATS_URL: stack.nats.url, PER_SECOND: '14', TASKS: process.env.TASKS ?? '' },
  logs: stack.logs,
});
const cases =
  readFileSync(join(root, 'examples/refund-desk/data/cases.csv'), 'utf8').trim().split('\n')
    .length - 1;
const total = Math.min(cases, Number(process.env.TASKS) || cases);
const malformed = 4;

const draw = (listed: readonly Listed[]) => {
  const waiting = listed.filter(
    ({ agent, waitingOn }) => agent === 'refund-desk' && waitingOn.startsWith('approval'),
  ).length;
  const active = listed.filter(({ agent }) => agent === 'refund-desk').length - waiting;
  const settled = ends.size + waiting;
  const width = 30;
  const filled = Math.round((settled / total) * width);
  const line = `  [${'#'.repeat(filled)}${'.'.repeat(width - filled)}] ${ends.size} ended, ${waiting} wait for approval, ${active} at work, ${steps} steps`;
  if (isTerminal) process.stdout.write(`\r\x1b[K${line}`);
  else say(line);
  return { waiting, active };
};
const announce = (line: string) => say(`${isTerminal ? '\r\x1b[K' : ''}  ${line}`);

/** kill -9, and put a new one in its place. */
async function killAndReplace(
  service: Service,
  what: string,
  sessions: ReadonlySet<string>,
): Promise<void> {
  kills.push({
    what: `${service.instance}, ${what}`,
    at: Date.now(),
    sessions,
    resumedAt: new Map(),
  });
  stack.kill(service);
  announce(`kill -9 ${service.instance} (pid ${service.running.pid}): ${what}`);
  const next = await stack.start(service.kind);
  desk.save();
  announce(`${next.instance} started in its place`);
}

async function killOwner(): Promise<void> {
  const listed = await running();
  const owners = (await ask<{ owners: Record<string, string> }>('doctor', {}))?.owners ?? {};
  const byHost = new Map<string, string[]>();
  for (const { session, tenant, waitingOn } of listed) {
    if (waitingOn.startsWith('approval')) continue;
    const host =
      owners[String(shardOf(tenant as TenantId, session as SessionId, limits.shardsDefault))];
    if (host) byHost.set(host, [...(byHost.get(host) ?? []), session]);
  }
  const [host, sessions] =
    [...byHost].sort((left, right) => right[1].length - left[1].length)[0] ?? [];
  const victim =
    stack.of('runtime').find(({ instance }) => instance === host) ?? stack.of('runtime')[0];
  if (victim)
    await killAndReplace(
      victim,
      `the runtime that owned ${sessions?.length ?? 0} sessions at work`,
      new Set(sessions),
    );
}

async function killExecutor(): Promise<void> {
  for (let tries = 0; tries < 400; tries += 1) {
    const lines = ledger();
    const paid = new Set(lines.filter(({ kind }) => kind === 'paid').map(({ key }) => key));
    const open = lines.findLast(({ kind, key }) => kind === 'call' && !paid.has(key));
    if (open) {
      // The start record knows who began it; asking for it with another name changes nothing.
      const start = await starts.create(open.key as EffectId, 'demo', 'keyed');
      const victim = start.created
        ? undefined
        : stack
            .of('executor')
            .find(({ instance }) => start.first.performer.startsWith(`${instance}-`));
      if (
        victim &&
        !start.created &&
        (await starts.holds(start.first.performer, open.key as EffectId, 200)) === 'holding'
      ) {
        return killAndReplace(
          victim,
          'in the middle of issue_refund',
          new Set([open.key.slice(0, open.key.indexOf('_'))]),
        );
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 15));
  }
}

async function killGateway(): Promise<void> {
  for (let tries = 0; tries < 100; tries += 1) {
    for (const gateway of stack.of('gateway')) {
      const inFlight = Number(
        /^understudy_effects_in_flight\{[^}]*\} (\d+)/m.exec(await stack.metrics(gateway))?.[1] ??
          0,
      );
      const thinking = (await running())
        .filter(({ waitingOn }) => waitingOn.startsWith('model'))
        .map(({ session }) => session);
      if (inFlight > 0 && thinking.length > 0)
        return killAndReplace(
          gateway,
          `in the middle of ${inFlight} model ${inFlight === 1 ? 'call' : 'calls'}`,
          new Set(thinking),
        );
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const plan: { readonly after: number; readonly kill: () => Promise<void> }[] = [
  { after: 0.15, kill: killOwner },
  { after: 0.35, kill: killExecutor },
  { after: 0.55, kill: killGateway },
];
const deadline = Date.now() + (desk.isRealModel ? 600_000 : 170_000);
let quiet = 0;
for (;;) {
  await new Promise((resolve) => setTimeout(resolve, isTerminal ? 400 : 2_000));
  const listed = await running();
  const { waiting, active } = draw(listed);
  const next = plan[0];
  if (next && ends.size + waiting >= next.after * total) {
    plan.shift();
    await next.kill();
  }
  quiet =
    !publisher.isRunning() && active === 0 && plan.length === 0 && ends.size + waiting >= total
      ? quiet + 1
      : 0;
  if (quiet >= 2) break;
  if (Date.now() > deadline) {
    announce('the demo did not come to rest in time; what follows is where it stands');
    break;
  }
}
say();

// ---- what the witnesses say ---------------------------------------------------------------------

const listed = (await running()).filter(({ agent }) => agent === 'refund-desk');
const waiting = listed.filter(({ waitingOn }) => waitingOn.startsWith('approval'));
const stillRunning = listed.length - waiting.length;
const dead = (await ask<{ id: number; code: string }[]>('dead', {})) ?? [];
const byOutcome = (outcome: string) =>
  [...ends.values()].filter((event) => event.type.endsWith(`.${outcome}`)).length;
const accepted = total + malformed;
const lost =
  accepted -
  byOutcome('completed') -
  byOutcome('failed') -
  byOutcome('halted') -
  dead.length -
  waiting.length -
  stillRunning;

interface Decision {
  readonly decision: string;
  readonly order: string;
  readonly amountCents: number;
}
const decisions = [...ends.values()].flatMap((event): Decision[] => {
  try {
    return [JSON.parse(event.data.output ?? '') as Decision];
  } catch {
    return [];
  }
});
const decided = decisions
  .filter(({ decision }) => decision === 'refunded')
  .reduce((sum, { amountCents }) => sum + amountCents, 0);
const payments = ledger().filter(({ kind }) => kind === 'paid');
const paid = payments.reduce((sum, { amountCents = 0 }) => sum + amountCents, 0);
const doubled =
  payments.length -
  new Set(payments.map(({ order }) => order)).size +
  (payments.length - new Set(payments.map(({ key }) => key)).size);
const calls = ledger().filter(({ kind }) => kind === 'call').length;

const row = (name: string, value: string) => say(`  ${name.padEnd(34)}${value}`);
const worst = (times: readonly number[]) =>
  times.length === 0
    ? 'no session was in its hands'
    : `first after ${seconds(Math.min(...times))}, half after ${seconds([...times].sort((a, b) => a - b)[Math.floor(times.length / 2)]!)}, last after ${seconds(Math.max(...times))}`;
say('Tasks');
row('accepted', String(accepted));
row(
  'completed',
  `${byOutcome('completed')}  (${['refunded', 'denied', 'unreadable', 'unanswered'].map((what) => `${decisions.filter(({ decision }) => decision === what).length} ${what}`).join(', ')})`,
);
row('failed, halted', `${byOutcome('failed')}, ${byOutcome('halted')}`);
row('waiting for approval', String(waiting.length));
row('dead-lettered', `${dead.length}  (${dead.map(({ code }) => code).join(', ')})`);
row('still running', String(stillRunning));
say('Money');
row('refunds decided by the agents', euros(decided));
row('refunds paid by the service', `${euros(paid)}  (${payments.length} payments, ${calls} calls)`);
// What a real model says of its decision is prose: there the sessions' own records are compared.
const isToTheCent = paid === decided;
const isByRecord =
  payments.length === refunded.size && payments.every(({ key }) => refunded.has(key));
const agrees = desk.isRealModel ? isByRecord : isToTheCent;
row(
  'they agree',
  desk.isRealModel && agrees
    ? `${refunded.size} refunds in the sessions' records, each of them in the ledger`
    : agrees
      ? 'to the cent'
      : `NO: ${euros(paid - decided)} apart`,
);
say('Under fire');
row('lost', String(lost));
row('doubled', String(doubled));
row(
  'unknown outcomes',
  `${[...unknown.values()].reduce((sum, count) => sum + count, 0)}  (${[...unknown].map(([code, count]) => `${code} ${count}`).join(', ')}; not repeated, each session was told)`,
);
for (const kill of kills)
  row(
    `kill -9 ${kill.what.split(',')[0]}`,
    `${kill.what.split(',').slice(1).join(',').trim()}: next commit of its sessions ${worst([...kill.resumedAt.values()].map((at) => at - kill.at))}`,
  );
say('Work');
row(
  'steps',
  `${steps}, ${(steps / Math.max(1, (lastAt - firstAt) / 1_000)).toFixed(0)} a second (the model takes its time; make bench measures speed)`,
);
row('tokens, cost', `${tokens}, $${(costMicros / 1_000_000).toFixed(4)}`);
row('time in all', seconds(Date.now() - startedAt));
say();

// A real model may be too quick, or too slow, for each kill to find somebody at work.
const areKilled = desk.isRealModel || total < cases || kills.length === 3;
const isGood = lost === 0 && doubled === 0 && agrees && stillRunning === 0 && areKilled;
const sample = [...ends.keys()][0] ?? '<session>';
const open = waiting[0]?.session ?? '<session>';
await nats.close();
await desk.stop();
say(
  isGood
    ? 'Nothing lost, nothing doubled.'
    : 'SOMETHING IS WRONG: see the rows above, and the logs in .understudy/local/logs.',
);
say();
say('Everything has been stopped, and its state is kept. Next:');
say(
  '  make dev                                       the same stack again, with the sessions that wait and a console to look at them',
);
say('  bin/understudy ps                              who waits on what, since when');
say(`  bin/understudy inspect ${sample}`);
say(`  bin/understudy approve ${open}`);
say(`  bin/understudy verify ${sample}     fold its log again and compare`);
say(
  `  nats --server "$(bin/understudy url)" pub -J -H Understudy-Task:by-hand-1 understudy.task.acme.refund-desk '{"input":{"case":"C-0001","letter":"letters/C-0001.txt"}}'`,
);
say(
  '  make stop                                      end the stack; make stop WIPE=1 also removes its state',
);
process.exit(isGood ? 0 : 1);
