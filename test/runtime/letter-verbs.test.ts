/** What operators do with dead letters, by the ports that do it. */
import { expect, test } from 'vitest';
import type { AgentName, TenantId } from '../../services/core/ids.ts';
import type { DeadLetter } from '../../services/ports/events.ts';
import { requeue } from '../../services/runtime/letter-verbs.ts';

const letter = (more: Partial<DeadLetter> = {}): DeadLetter => ({
  id: 7,
  at: 0,
  code: 'AGENT_UNKNOWN',
  reason: 'no such agent',
  tenant: 'globex',
  agent: 'helper',
  task: 't-1',
  subject: 'understudy.task.globex.helper',
  body: '{"input":"x"}',
  headers: { 'Understudy-Session': 'key', 'Nats-Msg-Id': 'old' },
  ...more,
});

function portsOf(one: DeadLetter) {
  const published: unknown[][] = [];
  const unburied: number[] = [];
  return {
    published,
    unburied,
    events: {
      deadLetters: async () => [one],
      deadLetter: async () => one,
      removeDeadLetter: async (id: number) => {
        unburied.push(id);
        return true;
      },
    },
    tasks: { publish: async (...what: unknown[]) => void published.push(what) },
  };
}

test('a letter goes back to its own tenant and agent, with its headers and an id that follows from it', async () => {
  const ports = portsOf(letter());
  const { tasks } = await requeue({ id: 7, all: false }, ports);
  const headers = { 'Understudy-Session': 'key', 'Understudy-Task': tasks[0] };
  expect(ports.published).toEqual([['globex', 'helper', '{"input":"x"}', headers]]);
  expect(ports.unburied).toEqual([7]);

  await requeue({ id: 7, all: false }, ports);
  expect(ports.published[1]).toEqual(ports.published[0]);
});

test.each([
  [{ toTenant: 'acme' as TenantId }, ['acme', 'helper']],
  [{ toAgent: 'desk' as AgentName }, ['globex', 'desk']],
  [{ toTenant: 'acme' as TenantId, toAgent: 'desk' as AgentName }, ['acme', 'desk']],
])('its address can be mended: %j', async (mended, to) => {
  const ports = portsOf(letter());
  await requeue({ id: 7, all: false, ...mended }, ports);
  expect(ports.published[0]?.slice(0, 2)).toEqual(to);
});

test('what was no task, and what was not kept whole, stays a letter', async () => {
  for (const one of [letter({ subject: '' }), letter({ isCut: true })]) {
    const ports = portsOf(one);
    const { refused } = await requeue({ id: 7, all: false }, ports);
    expect(refused).toHaveLength(1);
    expect([ports.published, ports.unburied]).toEqual([[], []]);
  }
});
