/**
 * `make bench`: steps a second and what they cost, on real processes, beside a floor measured in the same run.
 *
 * A session is 10 x {model call over HTTP to a local stub that answers at once; tool call} and a last model call: 21
 * durable steps (the task itself is not counted). Closed loop: so many sessions in flight, for so many seconds.
 * `ARGS=--help` says what may be asked of it.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ask } from '../../services/adapters/nats/connection.ts';
import { redisLeases } from '../../services/adapters/redis/leases.ts';
import { connectedRedis } from '../../services/adapters/redis/scripts.ts';
import { redisSessionStore } from '../../services/adapters/redis/session-store.ts';
import type { HostId, SessionId, ShardId } from '../../services/core/ids.ts';
import { answering, freePort, startProcess } from '../../services/local/processes.ts';
import { versionOf } from '../../services/local/servers.ts';
import type { ShardPosition } from '../../services/ports/session-store.ts';
import { understudyLoad } from './closed-loop.ts';
import { flag, oneOf, optionsOf, text, whole, wholes } from './options.ts';
import { openRig, percentile, say, sleep, startStub } from './rig.ts';
import { callsOf, cpuSecondsOf, writtenBy } from './usage.ts';

const options = optionsOf('bench', {
  seconds: whole(5, 'of a row'),
  'in-flight': wholes([1, 16, 64, 256], 'sessions'),
  memory: wholes([1_000, 5_000], 'sessions that wait while memory is read; 0 for none'),
  latency: whole(200, 'of the model in the memory rows, ms', 0),
  shards: whole(16, 'of the runtime'),
  class: oneOf('pure', ['pure', 'keyed', 'opaque'], 'of the tool'),
  strict: flag('NATS syncs every message'),
  traffic: flag('also count messages, commands, reads and writes a step'),
  node: text(
    '',
    "flags for the node of every service (--node='--cpu-prof --cpu-prof-dir=DIR'); they are stopped in order then, so that they write what they gathered",
  ),
  json: text('', 'a file for the rows'),
});
const { seconds, 'in-flight': levels, memory: memoryLevels, node: nodeFlags } = options;

const rig = await openRig({
  toolClass: options.class,
  shards: options.shards,
  isStrict: options.strict,
});
const { stack, environment, others } = rig;
const stubUrl = await startStub(rig, 0);
environment.OPENAI_BASE_URL = `${stubUrl}/v1`;
if (nodeFlags) environment.NODE_OPTIONS = nodeFlags;
const heapPort = await freePort();
const runtimePort = await freePort();
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
others.push(runtime);
await answering(`http://127.0.0.1:${runtimePort}/readyz`, runtime);
const gateway = await stack.start('gateway');
const executor = await stack.start('executor');
const measured: Readonly<Record<string, number>> = {
  runtime: runtime.pid,
  gateway: gateway.running.pid,
  executor: executor.running.pid,
  nats: stack.nats.running.pid,
  redis: stack.redis.running.pid,
};

const { load, nats } = await understudyLoad(stack.nats.url);
const counting = await connectedRedis(stack.redis.url);
const committed = async () =>
  Number(
    /^understudy_steps_committed_total\{[^}]*\} (\d+)/m.exec(
      await (await fetch(`http://127.0.0.1:${runtimePort}/metrics`)).text(),
    )?.[1] ?? 0,
  );

interface Row {
  readonly inFlight: number;
  readonly stepsPerSecond: number;
  readonly gapP50Ms: number;
  readonly gapP99Ms: number;
  readonly cpuSecondsPer1000: number;
  readonly cpu: Readonly<Record<string, number>>;
  readonly bytesPerStep: number;
  readonly floorStepsPerSecond: number;
  readonly ofFloor: number;
}

/** One bare Lua commit per step from one client, as many at a time as sessions: what the store alone can do. */
async function floor(inFlight: number): Promise<number> {
  const redis = await connectedRedis(stack.redis.url);
  const store = redisSessionStore(redis, 'floor');
  const leases = redisLeases(redis, 'floor');
  const record = JSON.stringify({ padding: 'x'.repeat(1_000) });
  let commits = 0;
  const until = performance.now() + Math.min(2, seconds) * 1_000;
  await Promise.all(
    Array.from({ length: inFlight }, async (_, index) => {
      const shard = (10_000 + index) as ShardId;
      const lease = await leases.acquire(shard, 'floor' as HostId, 'b', 60_000);
      let at: ShardPosition | undefined;
      for (let version = 0; performance.now() < until; version += 1) {
        const to: ShardPosition = {
          position: { incarnation: 0, sequence: version + 1, index: 0 },
          commits: version + 1,
          log: 1,
          queue: 1,
        };
        const sessions = [
          {
            session: 's' as SessionId,
            expectedVersion: version,
            version: version + 1,
            record,
            entriesBefore: 0,
            entries: [],
            pending: [],
            resolved: [],
            wakeAt: undefined,
            floor: undefined,
          },
        ];
        await store.commit(shard, lease!.token, {
          from: at,
          to,
          sessions,
          settled: [],
          archived: [],
        });
        at = to;
        commits += 1;
      }
    }),
  );
  const keys = await redis.keys('{floor:*');
  if (keys.length > 0) await redis.del(keys);
  redis.disconnect();
  return commits / Math.min(2, seconds);
}

/** What passes through the servers, and how often each process reads and writes: how well work is gathered. */
interface Traffic {
  readonly streams: Readonly<Record<string, number>>;
  readonly scripts: number;
  readonly commands: number;
  readonly reads: readonly number[];
  readonly writes: readonly number[];
}
async function traffic(): Promise<Traffic> {
  const streams: Record<string, number> = {};
  for (const stream of ['mail', 'effects', 'events', 'archive'] as const)
    streams[stream] = (
      await ask<{ state: { last_seq: number } }>(
        nats,
        `$JS.API.STREAM.INFO.${nats.streams[stream]}`,
        undefined,
      )
    ).state.last_seq;
  const stats = await counting.info('commandstats');
  const callsTo = (name: string) =>
    Number(new RegExp(`cmdstat_${name}:calls=(\\d+)`).exec(stats)?.[1] ?? 0);
  const all = [...stats.matchAll(/cmdstat_[^:]+:calls=(\d+)/g)].reduce(
    (sum, [, calls]) => sum + Number(calls),
    0,
  );
  const io = Object.values(measured).map(callsOf);
  return {
    streams,
    scripts: callsTo('evalsha'),
    commands: all,
    reads: io.map(({ reads }) => reads),
    writes: io.map(({ writes }) => writes),
  };
}

async function measure(inFlight: number): Promise<Row> {
  load.wanted = inFlight;
  await sleep(Math.max(1_500, seconds * 300)); // warm
  await fetch(`${stubUrl}/gaps`);
  const trafficBefore = options.traffic ? await traffic() : undefined;
  const before = {
    steps: await committed(),
    ended: load.ended,
    at: performance.now(),
    cpu: Object.values(measured).map(cpuSecondsOf),
    bytes: writtenBy(measured.nats!) + writtenBy(measured.redis!),
  };
  await sleep(seconds * 1_000);
  const gaps = ((await (await fetch(`${stubUrl}/gaps`)).json()) as number[]).sort(
    (left, right) => left - right,
  );
  const tookSeconds = (performance.now() - before.at) / 1_000;
  // The first step of a session is its task; what is counted are answers and results.
  const steps = (await committed()) - before.steps - (load.ended - before.ended);
  const cpu = Object.values(measured).map((pid, index) => cpuSecondsOf(pid) - before.cpu[index]!);
  const bytes = writtenBy(measured.nats!) + writtenBy(measured.redis!) - before.bytes;
  if (trafficBefore) {
    const trafficAfter = await traffic();
    const per = (from: number, to: number) => ((to - from) / steps).toFixed(2);
    const { streams, scripts, commands, reads, writes } = trafficBefore;
    say(
      `  a step: messages ${Object.entries(streams)
        .map(([name, count]) => `${name} ${per(count, trafficAfter.streams[name]!)}`)
        .join(
          ', ',
        )}; redis scripts ${per(scripts, trafficAfter.scripts)}, commands ${per(commands, trafficAfter.commands)}; reads/writes ${Object.keys(
        measured,
      )
        .map(
          (name, index) =>
            `${name} ${per(reads[index]!, trafficAfter.reads[index]!)}/${per(writes[index]!, trafficAfter.writes[index]!)}`,
        )
        .join(', ')}`,
    );
  }
  await load.rest();
  const floorStepsPerSecond = await floor(inFlight);
  return {
    inFlight,
    stepsPerSecond: steps / tookSeconds,
    gapP50Ms: percentile(gaps, 0.5),
    gapP99Ms: percentile(gaps, 0.99),
    cpuSecondsPer1000: (cpu.reduce((sum, one) => sum + one, 0) / steps) * 1_000,
    cpu: Object.fromEntries(
      Object.keys(measured).map((name, index) => [name, (cpu[index]! / steps) * 1e6]),
    ),
    bytesPerStep: bytes / steps,
    floorStepsPerSecond,
    ofFloor: steps / tookSeconds / floorStepsPerSecond,
  };
}

say(
  `nats-server ${versionOf(stack.programs.nats)}, redis ${versionOf(stack.programs.redis)}, node ${process.version}, ${seconds} s a row${options.strict ? ', NATS synced' : ''}`,
);
say(
  'in flight  steps/s  gap p50/p99 ms  CPU us/step (runtime gateway executor nats redis)  bytes/step  floor/s  of floor',
);
const rows: Row[] = [];
// A service is measured as it runs for weeks: compiled. The first seconds of a process say more about its compiler.
load.wanted = 128;
await sleep(Math.max(8_000, seconds * 1_500));
await load.rest();
for (const level of levels) {
  const row = await measure(level);
  rows.push(row);
  say(
    `${`${String(level).padStart(9)}  ${row.stepsPerSecond.toFixed(0).padStart(7)}  ${`${row.gapP50Ms.toFixed(2)} / ${row.gapP99Ms.toFixed(2)}`.padStart(14)}  ${(row.cpuSecondsPer1000 * 1_000).toFixed(0).padStart(11)} (${Object.values(
      row.cpu,
    )
      .map((us) => us.toFixed(0))
      .join(' ')})`.padEnd(
      86,
    )}${row.bytesPerStep.toFixed(0).padStart(10)}  ${row.floorStepsPerSecond.toFixed(0).padStart(7)}  ${(row.ofFloor * 100).toFixed(0).padStart(7)}%`,
  );
}

/** Sessions come on in waves: the least of many looks is when all wait, the median has what is under way besides. */
const memoryNow = async (): Promise<{ least: number; median: number }> => {
  const looks: number[] = [];
  for (let tries = 0; tries < 15; tries += 1) {
    looks.push(
      ((await (await fetch(`http://127.0.0.1:${heapPort}`)).json()) as { used: number }).used,
    );
    await sleep(70);
  }
  looks.sort((left, right) => left - right);
  return { least: looks[0]!, median: percentile(looks, 0.5) };
};
const memory: { sessions: number; kibWaiting: number; kibInFlight: number }[] = [];
if (memoryLevels.length > 0) {
  // The same sessions with a model that takes its time: what a waiting session costs the runtime.
  const slowUrl = await startStub(rig, options.latency);
  await gateway.running.stop();
  await stack.start(
    'gateway',
    { OPENAI_BASE_URL: `${slowUrl}/v1`, UNDERSTUDY_CONCURRENCY: '6000' },
    'gateway-slow',
  );
  const empty = await memoryNow();
  for (const sessions of memoryLevels) {
    load.wanted = sessions;
    await sleep(6_000);
    const used = await memoryNow();
    const each = (of: 'least' | 'median') => (used[of] - empty[of]) / 1_024 / sessions;
    memory.push({ sessions, kibWaiting: each('least'), kibInFlight: each('median') });
    say(
      `${sessions} sessions in flight at ${options.latency} ms, after a collection: ${each('least').toFixed(1)} KiB of runtime memory each while they wait, ${each('median').toFixed(1)} with what is under way`,
    );
  }
  load.wanted = 0;
}
if (options.json) writeFileSync(options.json, `${JSON.stringify({ rows, memory }, null, 2)}\n`);
if (nodeFlags)
  await Promise.all([runtime.stop(), ...stack.services.map(({ running }) => running.stop())]);
process.exit(0);
