/**
 * A long run under faults: real processes are killed and frozen, Redis is emptied, NATS is killed,
 * tools are slow and the model breaks off, while two tenants publish tasks of every kind and an
 * operator halts some. Outside the product stand the publisher, who knows what was accepted, and
 * the outside world, which knows what took effect and what the model has counted.
 *
 * Usage: make soak MINUTES=30 (default 5). Prints one JSON document; ends with 1 when a promise
 * was broken.
 */
import { parseArgs } from 'node:util';
import { faultsUntil } from './faults.ts';
import { judged } from './judged.ts';
import { Load } from './load.ts';
import { soakSystem } from './soak-system.ts';

const { values } = parseArgs({ options: { minutes: { type: 'string', default: '5' } } });
const minutes = Number(values.minutes);
if (!(minutes > 0)) throw new Error('say for how long: --minutes=5');

const system = await soakSystem();
const load = new Load(system);
const until = Date.now() + minutes * 60_000;
const say = (line: string) => process.stderr.write(`${line}\n`);
const progress = setInterval(
  () =>
    say(
      `${Math.max(0, Math.round((until - Date.now()) / 60_000))} min left: ` +
        `${load.accepted.length} tasks accepted, ${load.open().length} open`,
    ),
  60_000,
);
const publishing = load.publishUntil(until);
const faults = await faultsUntil(until, { system, say });
await publishing;
clearInterval(progress);
let isBroken = true;
try {
  const verdict = await judged(system, load);
  process.stdout.write(`${JSON.stringify({ minutes, faults, ...verdict }, null, 1)}\n`);
  isBroken = verdict.broken.length > 0;
} finally {
  await system.stop();
}
process.exit(isBroken ? 1 : 0);
