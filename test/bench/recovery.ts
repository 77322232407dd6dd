/**
 * `make recovery`: how long a shard is silent when its owner goes, over many goings, with sessions at work all the time.
 *
 * Three runtimes share sixteen shards. In turn one gets a SIGTERM (it hands over), or dies by `kill -9` (its lease runs out, or it is
 * started again under its own name and reclaims them at once, as a StatefulSet does). A shard's silence is the longest stretch without a step
 * of any of its sessions in the seconds after; the stretch that is usual without anybody going stands beside it.
 *
 * `ARGS=--help` says what may be asked of it.
 */

import { writeFileSync } from 'node:fs';
import { connectNats } from '../../services/adapters/nats/connection.ts';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { connectedRedis } from '../../services/adapters/redis/scripts.ts';
import { type SessionId, shardOf, type TenantId } from '../../services/core/ids.ts';
import { isEndEvent } from '../../services/core/wire/event-end.ts';
import type { Service } from '../../services/local/stack.ts';
import { understudyLoad } from './closed-loop.ts';
import { optionsOf, text, whole } from './options.ts';
import { openRig, percentile, say, sleep, startStub } from './rig.ts';

const options = optionsOf('recovery', {
  rounds: whole(10, 'of each kind'),
  'in-flight': whole(96, 'sessions'),
  latency: whole(20, 'of the model, ms', 0),
  json: text('', 'a file for the rows'),
});
const { rounds } = options;
const shards = 16;
const watchMs = 6_000;

const rig = await openRig({ shards });
const { stack, environment } = rig;
environment.OPENAI_BASE_URL = `${await startStub(rig, options.latency)}/v1`;
const runtimes: Service[] = [];
for (let count = 0; count < 3; count += 1) runtimes.push(await stack.start('runtime'));
await Promise.all([stack.start('gateway'), stack.start('executor')]);
const redis = await connectedRedis(stack.redis.url);
const ownedBy = async (host: string): Promise<number[]> => {
  const owners = await Promise.all(
    Array.from({ length: shards }, (_, shard) => redis.get(`{understudy:${shard}}:owner`)),
  );
  return owners.flatMap((owner, shard) => (owner?.startsWith(`${host}#`) ? [shard] : []));
};

/** When each shard was heard of, in order. */
const heard: number[][] = Array.from({ length: shards }, () => []);
const nats = await connectNats({ url: stack.nats.url, name: 'recovery' });
const seen = new Map<string, number>();
let repeated = 0;
await natsEvents(nats).follow({}, false, ({ id, data }) => {
  if (isEndEvent({ id })) return; // of the version of its last step
  // A version that was told before is a repeat after a take-over, and no step.
  if ((seen.get(data.session) ?? 0) >= data.version) {
    repeated += 1;
    return;
  }
  seen.set(data.session, data.version);
  heard[shardOf(data.tenant as TenantId, data.session as SessionId, shards)]!.push(
    performance.now(),
  );
});
const { load } = await understudyLoad(stack.nats.url);
load.wanted = options['in-flight'];

/** The longest stretch without a step of a shard between two times, ms. */
function silenceOf(shard: number, from: number, to: number): number {
  const times = heard[shard]!.filter((at) => at >= from && at <= to);
  const before = heard[shard]!.findLast((at) => at < from) ?? from;
  return Math.max(
    ...[...times, to].map((at, index) => at - (index === 0 ? before : times[index - 1]!)),
  );
}

const silences: Record<string, number[]> = {
  nobody: [],
  'SIGTERM, hand-over': [],
  'kill -9, another takes over': [],
  'kill -9, back under its name': [],
};

async function round(
  kind: string,
  go: (victim: Service) => Promise<() => Promise<void>>,
): Promise<void> {
  const victim = runtimes.shift()!;
  const owned = await ownedBy(victim.instance);
  for (const times of heard) times.splice(0, Math.max(0, times.length - 100));
  const from = performance.now();
  const settle = await go(victim);
  await sleep(watchMs);
  const to = performance.now();
  for (const shard of owned) silences[kind]!.push(silenceOf(shard, from, to));
  await settle();
  await sleep(2_500); // for the placement to come to rest
}
const startAgain = async (name: string): Promise<void> =>
  void runtimes.push(await stack.start('runtime', {}, name));
const forget = (victim: Service): void =>
  void stack.services.splice(stack.services.indexOf(victim), 1);

await sleep(8_000);
for (let count = 0; count < rounds; count += 1) {
  await round('nobody', async (victim) => async () => void runtimes.push(victim));
  await round('SIGTERM, hand-over', async (victim) => {
    victim.running.signal('SIGTERM');
    forget(victim);
    return () => startAgain(victim.instance);
  });
  await round('kill -9, another takes over', async (victim) => {
    stack.kill(victim);
    return () => startAgain(victim.instance);
  });
  await round('kill -9, back under its name', async (victim) => {
    stack.kill(victim);
    await victim.running.ended;
    await startAgain(victim.instance);
    return async () => undefined;
  });
  say(`${count + 1} of ${rounds} rounds, ${load.ended} sessions ended`);
}
load.wanted = 0;
const deadline = Date.now() + 30_000;
while (load.ended < load.begun && Date.now() < deadline) await sleep(50);

const rows = Object.entries(silences).map(([who, all]) => {
  const sorted = all.sort((left, right) => left - right);
  return {
    who,
    shards: sorted.length,
    p50Ms: percentile(sorted, 0.5),
    p90Ms: percentile(sorted, 0.9),
    p99Ms: percentile(sorted, 0.99),
    mostMs: sorted.at(-1) ?? Number.NaN,
  };
});
say();
say('who goes                        shards  silent ms: p50      p90      p99     most');
for (const { who, shards: count, p50Ms, p90Ms, p99Ms, mostMs } of rows)
  say(
    `${who.padEnd(30)}  ${String(count).padStart(6)}  ${[p50Ms, p90Ms, p99Ms, mostMs].map((ms) => ms.toFixed(0).padStart(7)).join('  ')}`,
  );
say(
  `${load.begun} sessions published, ${load.begun - load.ended} not ended, ${repeated} events told twice (same id)`,
);
if (options.json) writeFileSync(options.json, `${JSON.stringify(rows, null, 2)}\n`);
process.exit(load.ended === load.begun ? 0 : 1);
