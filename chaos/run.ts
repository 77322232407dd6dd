/**
 * `make chaos-cluster`: installs the system and load on the cluster of the current context, applies each scenario with Chaos Mesh,
 * lets the checker judge, and writes the scorecard (.understudy/chaos/). Fails when a task is lost, an effect doubled, an invariant
 * broken, or a planned fault was not seen.
 *
 * ARGS: names of scenarios (all of them when none is given); KILLS=n: so many pod kills under one load instead; RATE: tasks a second;
 * NODE_OFF, NODE_ON: commands for the loss of a node's power (power.ts).
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { type Counters, countsIn } from './checker/counters.ts';
import type { Fault } from './checker/history.ts';
import type { Score, Verdict } from './checker/invariants.ts';
import { type InTurn, inTurn, runInTurn } from './in-turn.ts';
import { checkerJob, loadPod } from './jobs.ts';
import { command, kubectlFor } from './kubectl.ts';
import { cutPower, powerLoss, switches } from './power.ts';
import { brokenOf, isPassed, pageOf, type Row, tableOf } from './report.ts';
import { killedTwice, killTwice } from './twice.ts';

interface Scenario {
  readonly name: string;
  readonly hypothesis: string;
  readonly text: string;
  readonly kind: string;
  readonly holdMs: number;
  readonly needs: string | undefined;
  readonly isZombieExpected: boolean;
  /** Neither runtimes nor what they write to are touched: what they count must be what is told. */
  readonly areCountersWhole: boolean;
}

const folder = join(import.meta.dirname, 'scenarios');
const output = join(import.meta.dirname, '../.understudy/chaos');
const namespace = 'understudy-chaos';
const kubectl = kubectlFor(namespace);
const RATE = process.env.RATE || '3';
const KILLS = process.env.KILLS || '0';
const say = (line: string) =>
  process.stdout.write(`${new Date().toISOString().slice(11, 19)}  ${line}\n`);
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

function scenarioOf(file: string): Scenario {
  const text = readFileSync(join(folder, file), 'utf8');
  const { kind, metadata } = parse(text) as {
    kind: string;
    metadata: { name: string; annotations: Record<string, string> };
  };
  return {
    name: metadata.name,
    hypothesis: /^# Hypothesis: (.*)$/m.exec(text)?.[1] ?? '',
    text,
    kind,
    holdMs: Number(metadata.annotations['understudy.dev/hold-seconds']) * 1_000,
    needs: metadata.annotations['understudy.dev/needs'],
    isZombieExpected: metadata.annotations['understudy.dev/zombies'] === 'true',
    areCountersWhole: metadata.annotations['understudy.dev/counters'] === 'true',
  };
}

async function install(): Promise<void> {
  await command('kubectl', ['get', 'crd', 'podchaos.chaos-mesh.org']).catch(() => {
    throw new Error(
      'Chaos Mesh is not on this cluster: https://chaos-mesh.org/docs/production-installation-using-helm/',
    );
  });
  await kubectl
    .run('get', 'namespace', namespace)
    .catch(() => command('kubectl', ['create', 'namespace', namespace]));
  await command('kubectl', [
    'label',
    '--overwrite',
    'namespace',
    namespace,
    'pod-security.kubernetes.io/enforce=restricted',
  ]);
  say('installing');
  const chart = join(import.meta.dirname, '../charts/understudy');
  await command(
    'helm',
    [
      'upgrade',
      '--install',
      'understudy',
      chart,
      '--namespace',
      namespace,
      '--reset-values',
      '--values',
      join(import.meta.dirname, 'values.yaml'),
      '--wait',
      '--timeout',
      '4m',
    ],
    300_000,
  );
  await kubectl.apply(readFileSync(join(import.meta.dirname, 'stack.yaml'), 'utf8'));
  await kubectl.run('rollout', 'status', 'deployment/chaos-world', '--timeout=60s');
  // The agent comes by a labelled ConfigMap: live when a runtime says so.
  for (let tries = 0; tries < 30; tries += 1) {
    const doctor = await kubectl
      .run('exec', 'deployment/understudy-cli', '--', 'understudy', '-o', 'json', 'doctor')
      .catch(() => '{}');
    if (
      (JSON.parse(doctor || '{}') as { agents?: { name: string }[] }).agents?.some(
        ({ name }) => name === 'desk',
      )
    )
      return;
    await sleep(1_000);
  }
  throw new Error('the agent "desk" did not become live within 30 s');
}

async function whole(): Promise<void> {
  for (const what of [
    'statefulset/understudy-nats',
    'statefulset/understudy-redis',
    'statefulset/understudy-runtime',
    'deployment/understudy-gateway',
    'deployment/understudy-executor',
  ]) {
    await kubectl.run('rollout', 'status', what, '--timeout=120s');
  }
}

/** Give the nodes time to start what was killed: on two cores, kills as fast as they can be asked for leave nothing that runs. */
async function mostlyWhole(withinMs: number): Promise<void> {
  for (const end = Date.now() + withinMs; Date.now() < end; await sleep(1_000)) {
    const ready = await kubectl
      .run(
        'get',
        'pods',
        '-l',
        'app.kubernetes.io/name=understudy,app.kubernetes.io/component!=sandbox',
        '-o',
        'jsonpath={range .items[*]}{.status.containerStatuses[0].ready}{"\\n"}{end}',
      )
      .catch(() => '');
    const lines = ready.split('\n').slice(0, -1);
    if (lines.length > 1 && lines.filter((one) => one !== 'true').length <= 1) return;
  }
}

const accepted = async (run: string): Promise<number> => {
  const text = await kubectl.run(
    'exec',
    'deployment/chaos-world',
    '--',
    'node',
    '-e',
    `fetch('http://127.0.0.1:8080/history').then((r)=>r.json()).then((h)=>console.log(h.accepted.filter((a)=>a.task.startsWith('${run}-')).length))`,
  );
  return Number(text.trim());
};

/**
 * Apply one object of Chaos Mesh, wait until it says that it has been injected, hold, take it away.
 *
 * @param needs  of the pods that it selects: all must be reached, or one (of sandboxes, which come and go, some are gone before they can be killed)
 */
async function inject(
  scenario: Pick<Scenario, 'name' | 'kind' | 'text' | 'holdMs'>,
  needs: 'all' | 'one' = 'all',
): Promise<Fault> {
  await kubectl.remove(scenario.kind, scenario.name);
  const at = Date.now();
  await kubectl.apply(scenario.text);
  let isObserved = false;
  let seenAt = at;
  while (Date.now() - at < Math.max(15_000, scenario.holdMs) && !isObserved) {
    const { status } = await kubectl.json<{
      status?: {
        conditions?: { type: string; status: string }[];
        experiment?: { containerRecords?: { injectedCount?: number }[] };
      };
    }>('get', scenario.kind, scenario.name);
    const records = status?.experiment?.containerRecords ?? [];
    const reached = records.filter(({ injectedCount = 0 }) => injectedCount > 0).length;
    isObserved = reached > 0 && (needs === 'one' || reached === records.length);
    seenAt = Date.now();
    if (!isObserved) await sleep(200);
  }
  await sleep(Math.max(0, scenario.holdMs - (Date.now() - seenAt)));
  await kubectl.remove(scenario.kind, scenario.name);
  return { name: scenario.name, at: seenAt, healedAt: Date.now(), isObserved };
}

async function check(
  run: string,
  { faults, before }: Load,
  options: { zombies?: boolean; counters?: boolean; boundMs?: number } = {},
): Promise<{ score: Score; verdicts: Verdict[] }> {
  await kubectl.remove('job', 'chaos-checker');
  await kubectl.apply(
    checkerJob(run, faults, {
      before,
      boundMs: 180_000,
      zombies: false,
      counters: false,
      ...options,
    }),
  );
  const deadline = Date.now() + 420_000;
  while (Date.now() < deadline) {
    const { status } = await kubectl.json<{ status: { succeeded?: number; failed?: number } }>(
      'get',
      'job',
      'chaos-checker',
    );
    if (status.succeeded || status.failed) {
      const log = await kubectl.run('logs', 'job/chaos-checker');
      const last = log.trimEnd().split('\n').at(-1) ?? '';
      if (!last.startsWith('{')) throw new Error(`the checker gave no verdict: ${log.slice(-600)}`);
      return JSON.parse(last) as { score: Score; verdicts: Verdict[] };
    }
    await sleep(1_000);
  }
  throw new Error('the checker did not end');
}

/** What was done under load, and what runtimes had counted before it. */
interface Load {
  readonly faults: readonly Fault[];
  readonly before: Counters;
}

async function counters(): Promise<Counters> {
  const { items } = await kubectl.json<{
    items: { metadata: { name: string }; status: { podIP: string } }[];
  }>('get', 'pods', '-l', 'app.kubernetes.io/component=runtime');
  const read =
    "fetch('http://127.0.0.1:8080/metrics').then((answer) => answer.text()).then((text) => process.stdout.write(text))";
  return Object.fromEntries(
    await Promise.all(
      items.map(
        async ({ metadata, status }) =>
          [
            status.podIP,
            countsIn(await kubectl.run('exec', metadata.name, '--', 'node', '-e', read)),
          ] as const,
      ),
    ),
  );
}

async function underLoad(run: string, work: () => Promise<Fault[]>): Promise<Load> {
  // One that cannot be asked leaves the tenth invariant unjudged, not the run without a verdict.
  const before = await counters().catch(() => ({}));
  await kubectl.remove('pod', 'chaos-load');
  await kubectl.apply(loadPod(run, Number(RATE)));
  const enough = Date.now() + 60_000;
  while ((await accepted(run).catch(() => 0)) < 4 * Number(RATE) && Date.now() < enough)
    await sleep(500);
  const faults = await work();
  await sleep(3_000);
  await kubectl.run('delete', 'pod', 'chaos-load', '--grace-period=30');
  await whole();
  return { faults, before };
}

const notRun = (scenario: string, hypothesis: string, error: unknown): Row => ({
  scenario,
  hypothesis,
  faults: 0,
  score: undefined,
  verdicts: [
    {
      number: 11,
      what: 'the scenario was run',
      result: 'broken',
      broken: [error instanceof Error ? error.message : String(error)],
    },
  ],
});

async function one(scenario: Scenario): Promise<Row> {
  const { name, hypothesis } = scenario;
  const base = { scenario: name, hypothesis, verdicts: [], score: undefined, faults: 0 };
  if (scenario.needs !== undefined && process.env.CAN_DO_ALL !== '1') {
    await command('kubectl', [
      '--namespace',
      namespace,
      'apply',
      '--dry-run=server',
      '--filename',
      join(folder, `${name}.yaml`),
    ]);
    return {
      ...base,
      skipped: `needs ${scenario.needs}; valid by server-side dry run (CAN_DO_ALL=1 runs it)`,
    };
  }
  const run = `${name}-${Date.now().toString(36)}`;
  try {
    await whole();
    const load = await underLoad(run, async () => [await inject(scenario)]);
    const { score, verdicts } = await check(run, load, {
      zombies: scenario.isZombieExpected,
      counters: scenario.areCountersWhole,
    });
    return { ...base, faults: load.faults.length, score, verdicts };
  } catch (error) {
    return notRun(name, hypothesis, error);
  }
}

async function withoutPower(): Promise<Row> {
  const { name, hypothesis } = powerLoss;
  const given = switches();
  if (!given)
    return {
      scenario: name,
      hypothesis,
      verdicts: [],
      score: undefined,
      faults: 0,
      skipped: 'needs NODE_OFF and NODE_ON: commands that cut a node ($NODE) and bring it back',
    };
  const run = `power-${Date.now().toString(36)}`;
  try {
    await whole();
    const load = await underLoad(run, async () => [await cutPower(kubectl, given, 20_000)]);
    const { score, verdicts } = await check(run, load, { boundMs: 300_000 });
    return { scenario: name, hypothesis, faults: load.faults.length, score, verdicts };
  } catch (error) {
    return notRun(name, hypothesis, error);
  }
}

async function brokerTwice(): Promise<Row> {
  const { name, hypothesis } = killedTwice;
  const run = `twice-${Date.now().toString(36)}`;
  try {
    await whole();
    const load = await underLoad(run, async () => [await killTwice(kubectl, 12_000)]);
    const { score, verdicts } = await check(run, load);
    return { scenario: name, hypothesis, faults: load.faults.length, score, verdicts };
  } catch (error) {
    return notRun(name, hypothesis, error);
  }
}

async function oneAfterTheOther(what: InTurn): Promise<Row> {
  const { name, hypothesis } = what;
  const run = `${name}-${Date.now().toString(36)}`;
  try {
    await whole();
    const load = await underLoad(run, () => runInTurn(kubectl, what));
    const { score, verdicts } = await check(run, load);
    return { scenario: name, hypothesis, faults: load.faults.length, score, verdicts };
  } catch (error) {
    return notRun(name, hypothesis, error);
  }
}

async function manyKills(count: number): Promise<Row> {
  const scenarios = [
    'commit-kill-runtime',
    'perform-kill-gateway',
    'perform-kill-executor',
    'perform-kill-sandbox',
    'commit-kill-redis',
    'receive-kill-nats',
  ].map((name) => scenarioOf(`${name}.yaml`));
  const run = `kills-${Date.now().toString(36)}`;
  const load = await underLoad(run, async () => {
    const done: Fault[] = [];
    for (let tries = 0; done.length < count; tries += 1) {
      const fault = await inject({ ...scenarios[tries % scenarios.length]!, holdMs: 500 }, 'one');
      // None of a kind was there to kill just then: the next is of another kind, or it would be all that ever happens.
      if (!fault.isObserved) continue;
      done.push(fault);
      await mostlyWhole(20_000);
      if (done.length % 10 === 0)
        say(
          `${done.length} of ${count} kills, ${await accepted(run).catch(() => 0)} tasks accepted`,
        );
    }
    return done;
  });
  const { score, verdicts } = await check(run, load, { boundMs: 300_000 });
  return {
    scenario: `${count}-kills`,
    hypothesis: 'pods of every kind die one after the other, each in the middle of work',
    faults: load.faults.length,
    score,
    verdicts,
  };
}

async function calm(): Promise<Row> {
  const run = `calm-${Date.now().toString(36)}`;
  const load = await underLoad(run, async () => {
    await sleep(5_000);
    return [];
  });
  const { score, verdicts } = await check(run, load, { counters: true });
  return {
    scenario: 'calm',
    hypothesis: 'nothing dies: what the others are compared with',
    faults: 0,
    score,
    verdicts,
  };
}

await install();
const wanted = process.argv.slice(2);
const all = readdirSync(folder)
  .filter((file) => file.endsWith('.yaml'))
  .sort()
  .map(scenarioOf);
const known = [
  'calm',
  ...all.map(({ name }) => name),
  ...inTurn.map(({ name }) => name),
  powerLoss.name,
  killedTwice.name,
];
const unknown = wanted.filter((name) => !known.includes(name));
if (unknown.length > 0)
  throw new Error(`there is no scenario ${unknown.join(', ')}; there are: ${known.join(', ')}`);
const rows: Row[] = [];
const keep = (row: Row) => {
  rows.push(row);
  say(
    row.skipped
      ? `${row.scenario}: skipped`
      : `${row.scenario}: ${isPassed(row) ? 'passed' : `FAILED ${brokenOf(row).map(({ number }) => number)}`}`,
  );
};
const isWanted = ({ name }: { readonly name: string }) =>
  wanted.length === 0 || wanted.includes(name);
if (isWanted({ name: 'calm' })) keep(await calm());
if (Number(KILLS) > 0) keep(await manyKills(Number(KILLS)));
else {
  for (const scenario of all.filter(isWanted)) keep(await one(scenario));
  for (const what of inTurn.filter(isWanted)) keep(await oneAfterTheOther(what));
  if (isWanted(killedTwice)) keep(await brokerTwice());
  if (isWanted(powerLoss)) keep(await withoutPower());
}

mkdirSync(output, { recursive: true });
writeFileSync(join(output, 'scorecard.json'), `${JSON.stringify(rows, null, 2)}\n`);
writeFileSync(join(output, 'scorecard.html'), pageOf(rows, 'Understudy under chaos'));
process.stdout.write(
  `\n${tableOf(rows)}\n\n${join(output, 'scorecard.json')}\n${join(output, 'scorecard.html')}\n`,
);
process.exit(rows.every(isPassed) ? 0 : 1);
