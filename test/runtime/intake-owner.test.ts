/** Who takes tasks in: the lease of the intake outlives whatever keeps its owner busy. */
import { expect, test } from 'vitest';
import { memoryTasks } from '../../services/adapters/memory/queues.ts';
import { memoryStore } from '../../services/adapters/memory/session-store.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { Unavailable } from '../../services/core/errors.ts';
import type { HostId } from '../../services/core/ids.ts';
import { limits } from '../../services/core/limits.ts';
import type { RawTask, Taking, Tasks } from '../../services/ports/tasks.ts';
import { IntakeOwner } from '../../services/runtime/intake-owner.ts';
import { eventually } from '../support/eventually.ts';

const leaseMs = 2_000;

/** Owners on two hosts beside one store, and time that passes when the test says so. */
function world(tasks: Partial<Tasks>) {
  let now = 1_000_000;
  const ticks: { ms: number; next: number; tick: () => void }[] = [];
  const clock = {
    ...systemClock,
    now: () => now,
    every: (ms: number, tick: () => void) => {
      const entry = { ms, next: now + ms, tick };
      ticks.push(entry);
      return { stop: () => void ticks.splice(ticks.indexOf(entry), 1) };
    },
  };
  const { leases } = memoryStore(clock);
  const takes: string[] = [];
  const ownerOf = (
    name: string,
    accept: (task: RawTask) => Promise<void> = async () => undefined,
    isCutOff = () => false,
  ) =>
    new IntakeOwner(
      {
        leases,
        clock,
        telemetry: countingTelemetry(),
        tasks: {
          publish: async () => undefined,
          tell: async () => undefined,
          state: async () => ({ waiting: 0, stuck: false, isTaken: true }),
          take: () => {
            takes.push(name);
            return { drain: async () => undefined };
          },
          ...tasks,
        },
      },
      {
        host: name as HostId,
        boot: name,
        leaseMs,
        capacity: () => 10,
        isCutOff,
        accept,
      },
    );
  const pass = async (ms: number) => {
    for (const until = now + ms; now < until; now += 100) {
      for (const entry of [...ticks].filter(({ next }) => next <= now)) {
        entry.next += entry.ms;
        entry.tick();
      }
      await new Promise(setImmediate);
    }
  };
  return { ownerOf, takes, pass };
}

test('an owner that waits for its tasks in hand keeps the intake', async () => {
  const takes: string[] = [];
  let finish: () => void = () => undefined;
  const { ownerOf, pass } = world({
    state: async () => ({ waiting: 1, stuck: takes.length === 1, isTaken: true }),
    take: (): Taking => {
      takes.push('taken');
      return { drain: () => new Promise<void>((resolve) => (finish = resolve)) };
    },
  });
  const [one, other] = [ownerOf('one'), ownerOf('other')];
  await one.start();
  await other.start();
  expect(takes).toEqual(['taken']);

  // What stands below the floor is read again, once what is in hand is done: that takes long.
  await pass(5 * leaseMs);
  expect(takes).toEqual(['taken']);
  finish();
  await pass(limits.heartbeatMs);
  expect(takes).toEqual(['taken', 'taken']);
});

test('the intake passes to another when its owner drains', async () => {
  const { ownerOf, takes, pass } = world({});
  const [one, other] = [ownerOf('one'), ownerOf('other')];
  await one.start();
  await other.start();
  await pass(2 * leaseMs);
  expect(takes).toEqual(['one']);

  await one.drain();
  await pass(2 * limits.heartbeatMs);
  expect(takes).toEqual(['one', 'other']);
});

test('a key that cannot be handed on holds back neither others nor its own order', async () => {
  const tasks = memoryTasks();
  const accepted: string[] = [];
  let isBroken = true;
  const owner = new IntakeOwner(
    {
      leases: memoryStore(systemClock).leases,
      clock: systemClock,
      telemetry: countingTelemetry(),
      tasks,
    },
    {
      host: 'one' as HostId,
      boot: 'one',
      leaseMs: 60_000,
      capacity: () => 20,
      isCutOff: () => false,
      accept: async ({ tenant, body }) => {
        if (tenant === 'globex' && isBroken) throw new Unavailable('SPEC_BROKEN', 'broken');
        accepted.push(body);
      },
    },
  );
  const chat = { 'Understudy-Session': 'chat' };
  for (let one = 0; one < 60; one += 1) await tasks.publish('globex', 'desk', `g${one}`, chat);
  // And many keys that stand still, beside the one with many tasks.
  for (let one = 0; one < 600; one += 1)
    await tasks.publish('globex', 'desk', 'x', { 'Understudy-Session': `key-${one}` });
  await tasks.publish('acme', 'desk', 'plain', {});
  await tasks.publish('acme', 'desk', 'keyed', chat);
  await owner.start();
  await eventually(() => accepted.length === 2, 'the other tenant to be taken in');
  expect(accepted).toEqual(['plain', 'keyed']);

  isBroken = false;
  const mine = () => accepted.filter((body) => body.startsWith('g'));
  await eventually(() => accepted.length === 662, 'all to be taken in');
  expect(mine()).toEqual(Array.from({ length: 60 }, (_, one) => `g${one}`));
  await owner.drain();
});

test('a runtime that takes the intake again forgets the tasks that another accepted', async () => {
  let taking: ((task: RawTask) => Promise<void>) | undefined;
  const { ownerOf, pass } = world({
    take: (_capacity, accept) => {
      taking = accept;
      return { drain: async () => undefined };
    },
  });
  let isBroken = true;
  let isCutOff = false;
  const accept = async () => {
    if (isBroken) throw new Unavailable('SPEC_BROKEN', 'x');
  };
  const owner = ownerOf('one', accept, () => isCutOff);
  await owner.start();
  const keyed = (sequence: number) =>
    ({ tenant: 'a', agent: 'b', headers: { 'Understudy-Session': 'k' }, sequence }) as never;
  const all = Array.from({ length: 40 }, (_, sequence) => taking?.(keyed(sequence)));
  const results = Promise.allSettled(all);
  // Another has the intake for a while, and accepts them all.
  isCutOff = true;
  await pass(2 * limits.heartbeatMs);
  await results;
  isBroken = false;
  isCutOff = false;
  await pass(2 * limits.heartbeatMs);
  await expect(taking?.(keyed(100))).resolves.toBeUndefined();
});
