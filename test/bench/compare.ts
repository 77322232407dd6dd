/**
 * `make compare`: the work of `make bench` done by Understudy and by Restate in turns, on the same machine in the same minutes.
 *
 * A session is 10 x {model call over HTTP to a local stub that answers at once; tool call} and a last model call: 21 durable steps. Closed loop. All are
 * up all the time; one works while the others idle, in windows of some seconds, in another order each round, so that the machine's moods are spread over all.
 * Steps are counted by sessions that ended. CPU is that of all processes of a contender, without the stub and the load.
 *
 * `ARGS=--help` says what may be asked of it.
 */
import { writeFileSync } from 'node:fs';
import { versionOf } from '../../services/local/servers.ts';
import { type ClosedLoop, understudyLoad } from './closed-loop.ts';
import { flag, optionsOf, text, whole, wholes } from './options.ts';
import { restateVersion, startRestate } from './restate/restate.ts';
import { openRig, percentile, say, sleep, startStub } from './rig.ts';
import { cpuSecondsOf } from './usage.ts';

const stepsOfSession = 21;
const options = optionsOf('compare', {
  rounds: whole(3, 'of windows'),
  seconds: whole(4, 'of a window'),
  'in-flight': wholes([1, 16, 64, 256], 'sessions'),
  partitions: wholes([4, 24], 'of Restate'),
  shards: whole(16, 'of Understudy'),
  strict: flag(
    'what is accepted is on the disk: NATS syncs every message, and Restate its log; neither does without it',
  ),
  json: text('', 'a file for the rows'),
});
const { rounds, seconds, 'in-flight': levels, partitions, strict: isStrict } = options;

interface Contender {
  readonly name: string;
  readonly load: ClosedLoop;
  readonly pids: Readonly<Record<string, number>>;
}
interface Sum {
  sessions: number;
  seconds: number;
  readonly rates: number[];
  readonly gaps: number[];
  readonly cpu: Record<string, number>;
}

interface Row {
  readonly inFlight: number;
  readonly contender: string;
  readonly stepsPerSecond: number;
  readonly windows: readonly number[];
  readonly gapP50Ms: number;
  readonly gapP99Ms: number;
  readonly cpuMicros: number;
  readonly cpu: Readonly<Record<string, number>>;
}

const rig = await openRig({ shards: options.shards, isStrict });
const { stack, environment } = rig;
const stubUrl = await startStub(rig, 0);
environment.OPENAI_BASE_URL = `${stubUrl}/v1`;
const [runtime, gateway, executor] = await Promise.all([
  stack.start('runtime'),
  stack.start('gateway'),
  stack.start('executor'),
]);
const contenders: Contender[] = [
  {
    name: 'understudy',
    load: (await understudyLoad(stack.nats.url)).load,
    pids: {
      runtime: runtime.running.pid,
      gateway: gateway.running.pid,
      executor: executor.running.pid,
      nats: stack.nats.running.pid,
      redis: stack.redis.running.pid,
    },
  },
];
for (const count of partitions)
  contenders.push({
    name: `restate, ${count} partitions`,
    ...(await startRestate(rig, { stubUrl, partitions: count, isSynced: isStrict })),
  });

say(
  `nats-server ${versionOf(stack.programs.nats)}, redis ${versionOf(stack.programs.redis)}, node ${process.version}, restate-server ${restateVersion()}; ${isStrict ? 'NATS and Restate sync every write' : 'nothing waits for the disk'}; ${rounds} windows of ${seconds} s each`,
);
say('warming up ...');
for (const { load } of contenders) {
  load.wanted = 128;
  await sleep(10_000);
  await load.rest();
}

async function measure({ load, pids }: Contender, inFlight: number, sum: Sum): Promise<void> {
  load.wanted = inFlight;
  await sleep(1_000);
  await fetch(`${stubUrl}/gaps`);
  const used = () => Object.values(pids).map(cpuSecondsOf);
  const before = { ended: load.ended, at: performance.now(), cpu: used() };
  await sleep(seconds * 1_000);
  const took = (performance.now() - before.at) / 1_000;
  const sessions = load.ended - before.ended;
  const cpu = used();
  sum.gaps.push(...((await (await fetch(`${stubUrl}/gaps`)).json()) as number[]));
  await load.rest();
  sum.sessions += sessions;
  sum.seconds += took;
  sum.rates.push((sessions * stepsOfSession) / took);
  for (const [index, name] of Object.keys(pids).entries())
    sum.cpu[name] = (sum.cpu[name] ?? 0) + cpu[index]! - before.cpu[index]!;
}

const rows: Row[] = [];
say(
  'in flight  contender                steps/s (windows)               gap p50/p99 ms  CPU us/step',
);
for (const inFlight of levels) {
  const sums = new Map<Contender, Sum>(
    contenders.map((contender) => [
      contender,
      { sessions: 0, seconds: 0, rates: [], gaps: [], cpu: {} },
    ]),
  );
  for (let round = 0; round < rounds; round += 1) {
    const turn = round % contenders.length;
    for (const contender of [...contenders.slice(turn), ...contenders.slice(0, turn)])
      await measure(contender, inFlight, sums.get(contender)!);
  }
  const rateOf = ({ sessions, seconds: took }: Sum) => (sessions * stepsOfSession) / took;
  const ours = rateOf(sums.get(contenders[0]!)!);
  for (const [{ name }, sum] of sums) {
    const steps = sum.sessions * stepsOfSession;
    const micros = (cpuSeconds: number) => (cpuSeconds / steps) * 1e6;
    const gaps = sum.gaps.sort((left, right) => left - right);
    const cpu = Object.fromEntries(
      Object.entries(sum.cpu).map(([part, used]) => [part, micros(used)]),
    );
    const row = {
      inFlight,
      contender: name,
      stepsPerSecond: rateOf(sum),
      windows: sum.rates,
      gapP50Ms: percentile(gaps, 0.5),
      gapP99Ms: percentile(gaps, 0.99),
      cpuMicros: Object.values(cpu).reduce((left, right) => left + right, 0),
      cpu,
    };
    rows.push(row);
    const spread = `(${Math.min(...sum.rates).toFixed(0)} to ${Math.max(...sum.rates).toFixed(0)})`;
    const parts = Object.entries(cpu).map(([part, used]) => `${part} ${used.toFixed(0)}`);
    say(
      `${String(inFlight).padStart(9)}  ${name.padEnd(23)} ${rateOf(sum).toFixed(0).padStart(8)} ${spread.padEnd(22)} ${`${row.gapP50Ms.toFixed(2)} / ${row.gapP99Ms.toFixed(2)}`.padStart(15)}  ${row.cpuMicros.toFixed(0).padStart(11)} (${parts.join(', ')})${
        name === contenders[0]!.name
          ? ''
          : `: understudy does ${(ours / rateOf(sum)).toFixed(2)} times its steps`
      }`,
    );
  }
}
if (options.json)
  writeFileSync(options.json, `${JSON.stringify({ isStrict, rounds, seconds, rows }, null, 2)}\n`);
process.exit(0);
