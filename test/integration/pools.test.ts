/** A tool names a pool: only executors of that pool perform it, and only they are asked whether they can. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Health } from '../../services/core/wire/control-answers.ts';
import { eventually } from '../support/eventually.ts';
import { System, script } from '../support/system.ts';

let system: System;
beforeAll(async () => {
  system = await System.start({
    specs: `apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: lifter }
spec: { instructions: Follow the script., model: scripted, tools: [lift, pure] }
---
apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: lift }
spec:
  description: lifts
  class: keyed
  pool: heavy
  input: { type: object }
  run: { kind: http, url: "\${env:WORLD_URL}/do/keyed", headers: { x-license: "\${env:LICENSE}" } }
---
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: mute }
spec: { instructions: Speak., model: keyless }
---
apiVersion: understudy.dev/v1
kind: Model
metadata: { name: keyless }
spec: { model: x, apiKeyEnv: NO_SUCH_KEY, price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 } }
`,
  });
});
afterAll(() => system.stop());

const rowsOf = async () => {
  const { pools, problems } = await system.ask<Health>('doctor');
  return { heavy: pools.find(({ pool }) => pool === 'heavy'), problems: JSON.stringify(problems) };
};

test('a call waits for executors of its pool, through a kill, and is made once', async () => {
  await system.publish('lift-1', script('pure', 'lift'), { agent: 'lifter' });
  const before = await eventually(async () => {
    const { heavy, problems } = await rowsOf();
    return heavy && heavy.queued > 0 ? { heavy, problems } : undefined;
  }, 'the call to wait');
  expect(before.heavy.asking).toBe(0);
  // Executors of another pool know nothing of it, and say nothing of what they lack for it.
  expect(before.problems).not.toContain('LICENSE');
  expect(system.world.calls.filter(({ tool }) => tool === 'keyed')).toEqual([]);

  system.world.beforeMs = 500;
  const first = await system.stack.start('executor', { UNDERSTUDY_POOL: 'heavy', LICENSE: 'x' });
  await eventually(() => system.world.calls.some(({ tool }) => tool === 'keyed'), 'a call');
  system.stack.kill(first);
  await system.stack.start('executor', { UNDERSTUDY_POOL: 'heavy', LICENSE: 'x' });
  expect((await system.endOf('lift-1')).data.to).toBe('completed');
  expect(system.world.doubled()).toEqual([]);
  expect((await rowsOf()).problems).not.toContain('LICENSE');
});

test('what executors of its pool lack is named', async () => {
  const lacking = await system.stack.start('executor', { UNDERSTUDY_POOL: 'heavy' });
  const { problems } = await eventually(async () => {
    const found = await rowsOf();
    return found.problems.includes('LICENSE') ? found : undefined;
  }, 'it to be named');
  expect(problems).toContain('tool lift');
  system.stack.kill(lacking);
});

test('what gateways lack for a Model is named', async () => {
  const { problems } = await eventually(async () => {
    const found = await rowsOf();
    return found.problems.includes('NO_SUCH_KEY') ? found : undefined;
  }, 'it to be named');
  expect(JSON.parse(problems)).toContainEqual({
    file: 'model keyless',
    field: '',
    message: 'needs a key in NO_SUCH_KEY',
  });
});
