/** Machines whose clocks are wrong: sessions count in the broker's time. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Service } from '../../services/local/stack.ts';
import { eventually } from '../support/eventually.ts';
import { System, script } from '../support/system.ts';

let system: System;
beforeAll(async () => {
  system = await System.start();
});
afterAll(() => system.stop());

/** Start one whose clock is off, and end the one that stood there. */
async function replace(kind: 'runtime' | 'gateway' | 'executor', byMs: number): Promise<Service> {
  const shift = join(system.folder, `shift-${byMs}.mjs`);
  writeFileSync(shift, `const now = Date.now.bind(Date); Date.now = () => now() + ${byMs};\n`);
  for (const service of system.of(kind)) system.stack.kill(service);
  // It never gets ready.
  void system.stack.start(kind, { NODE_OPTIONS: `--import=${shift}` }).catch(() => undefined);
  return eventually(() => system.of(kind).at(-1), 'the process to be there');
}

const readiness = async ({ port }: Service) => {
  const response = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined);
  return { status: response?.status, text: (await response?.text()) ?? '' };
};

test.each([
  ['executor', -60_000, 'behind'],
  ['executor', 60_000, 'ahead of'],
  ['gateway', 60_000, 'ahead of'],
  ['runtime', -60_000, 'behind'],
] as const)('%s, %i ms: it says so, and its work is done in time', async (kind, byMs, word) => {
  const service = await replace(kind, byMs);
  const said = await eventually(async () => {
    const found = await readiness(service);
    return found.text.includes('clock') ? found : undefined;
  }, 'the clock to be named');
  expect(said.status).toBe(503);
  expect(said.text).toMatch(new RegExp(`the clock of this machine is (59|60)\\.\\d s ${word}`));
  await eventually(async () => {
    const seconds = await system.metric(service, 'understudy_clock_ahead_seconds');
    return Math.abs(seconds * 1_000 - byMs) < 1_000;
  }, 'the gauge to tell');
  const task = `${kind}-${byMs}`;
  await system.publish(task, script('pure', 'keyed'));
  expect((await system.endOf(task)).data).toMatchObject({ to: 'completed' });
  for (const one of system.of(kind)) system.stack.kill(one);
  await system.stack.start(kind);
});
