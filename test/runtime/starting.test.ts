/** A runtime reclaims its shards before it has read its specs: one that then cannot start, or is told to go, holds none. */

import { expect, test } from 'vitest';
import { esbuildMachines } from '../../services/adapters/esbuild/machines.ts';
import { memoryArchive, memoryEvents } from '../../services/adapters/memory/archive.ts';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import {
  memoryControl,
  memoryEffects,
  memoryStarts,
  memoryTasks,
} from '../../services/adapters/memory/queues.ts';
import { memoryStore } from '../../services/adapters/memory/session-store.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { memoryToolChecks } from '../../services/adapters/memory/tool-checks.ts';
import { systemClock as clock } from '../../services/adapters/observability/clock.ts';
import { Refused } from '../../services/core/errors.ts';
import type { LoadedSpecs } from '../../services/ports/specs.ts';
import type { Host } from '../../services/runtime/host.ts';
import { startRuntime } from '../../services/runtime/service.ts';
import { eventually } from '../support/eventually.ts';

const settings = { instance: 'runtime-0', shards: 4, leaseMs: 60_000, specs: ['.'] };
const ports = () => {
  const store = memoryStore(clock);
  const memory = {
    mailbox: memoryMailbox(clock),
    archive: memoryArchive(),
    effects: memoryEffects(clock),
    starts: memoryStarts(clock),
    events: memoryEvents(clock),
    tasks: memoryTasks(),
    control: memoryControl(),
    checks: memoryToolChecks(),
    listings: undefined as never, // no document names a server
    machines: esbuildMachines(),
  };
  return { ...memory, store, leases: store.leases, telemetry: countingTelemetry(), clock };
};
const specs = (load: () => Promise<LoadedSpecs>) => ({
  load,
  follow: () => ({ stop: () => undefined }),
});

test('one whose specs are refused lets its shards go before it ends', async () => {
  const own = ports();
  const load = async () => {
    await eventually(async () => (await own.leases.owners(4)).size === 4, 'its shards to be taken');
    throw new Refused('SPECS_MISSING', 'there is no such folder');
  };
  await expect(startRuntime(settings, own, specs(load))).rejects.toThrow('there is no such folder');
  expect([...(await own.leases.owners(4))]).toEqual([]);
});

test('one that is told to go while it starts lets its shards go, and takes none afterwards', async () => {
  const own = ports();
  let host: Host | undefined;
  void startRuntime(
    settings,
    own,
    specs(() => new Promise(() => undefined)),
    (starting) => {
      host = starting;
    },
  );
  await eventually(async () => (await own.leases.owners(4)).size === 4, 'its shards to be taken');
  await host!.drain();
  await host!.drain();
  expect([...(await own.leases.owners(4))]).toEqual([]);
});

test('one that is told to go before it has begun leaves no timer behind', async () => {
  let running = 0;
  const counting = {
    ...clock,
    every(ms: number, work: () => void) {
      const timer = clock.every(ms, work);
      running += 1;
      return {
        stop() {
          running -= 1;
          timer.stop();
        },
      };
    },
  };
  const own = { ...ports(), clock: counting };
  const drained = Promise.withResolvers<void>();
  void startRuntime(
    settings,
    own,
    specs(() => new Promise(() => undefined)),
    (host) => {
      void host.drain().then(drained.resolve);
    },
  );
  await drained.promise;
  await clock.sleep(50);
  expect(running).toBe(0);
});
