/** What goes wrong meanwhile: a fault every few seconds, of every kind. */
import { setTimeout as sleep } from 'node:timers/promises';
import { connectedRedis } from '../../services/adapters/redis/scripts.ts';
import type { System } from '../support/system.ts';

export type Faults = Readonly<Record<string, number>>;

const pick = <Value>(all: readonly Value[]): Value =>
  all[Math.floor(Math.random() * all.length)] as Value;

async function kill(system: System): Promise<string> {
  const kind = pick(['runtime', 'runtime', 'gateway', 'executor', 'executor'] as const);
  const victim = pick(system.of(kind));
  system.stack.kill(victim);
  // Half of them come back under the name that they had.
  await system.stack.start(kind, {}, Math.random() < 0.5 ? victim.instance : undefined);
  return `kill ${kind}`;
}

async function freeze(system: System): Promise<string> {
  const kind = pick(['runtime', 'runtime', 'gateway', 'executor', 'executor'] as const);
  const { running } = pick(system.of(kind));
  running.signal('SIGSTOP');
  const forMs = 500 + Math.random() * (Math.random() < 0.3 ? 20_000 : 4_000);
  setTimeout(() => running.signal('SIGCONT'), forMs);
  return `freeze ${kind}`;
}

async function flush(system: System): Promise<string> {
  const redis = await connectedRedis(system.stack.redis.url);
  await redis.flushall();
  redis.disconnect();
  return 'empty redis';
}

async function killNats(system: System): Promise<string> {
  await system.stack.restartServer('nats', 'SIGKILL', Math.random() * 1_500);
  return 'kill nats';
}

export async function faultsUntil(
  until: number,
  { system, say }: { system: System; say: (line: string) => void },
): Promise<Faults> {
  const counts: Record<string, number> = {};
  while (Date.now() < until) {
    await sleep(1_500 + Math.random() * 2_500);
    system.world.beforeMs = pick([0, 0, 50, 400, 1_500, 4_000]);
    system.world.modelBreakRate = pick([0, 0, 0.05, 0.3]);
    const dice = Math.random();
    const fault = dice < 0.6 ? kill : dice < 0.8 ? freeze : dice < 0.92 ? flush : killNats;
    try {
      const what = await fault(system);
      counts[what] = (counts[what] ?? 0) + 1;
    } catch (error) {
      say(`${fault.name}: ${String(error).slice(0, 200)}`);
    }
  }
  for (const { running } of system.stack.services) running.signal('SIGCONT');
  system.world.beforeMs = 0;
  system.world.modelBreakRate = 0;
  return counts;
}
