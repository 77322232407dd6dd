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
    tasks: {
      publish: async (...what: unknown[]) => void published.push(what),
      tell: async (...what: unknown[]) => void published.push(['told', ...what]),
    },
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

test('letters of two agents with one id that go to a third are two tasks', async () => {
  const ids = new Set<string | undefined>();
  for (const agent of ['helper', 'reader']) {
    const ports = portsOf(letter({ agent, identity: `of-${agent}` }));
    for (let again = 0; again < 2; again += 1) {
      const { tasks } = await requeue({ id: 7, all: false, toAgent: 'desk' as AgentName }, ports);
      ids.add(tasks[0]);
    }
  }
  expect(ids.size).toBe(2);
});

test('what was no task, and what was not kept whole, stays a letter', async () => {
  for (const one of [letter({ subject: '' }), letter({ isCut: true })]) {
    const ports = portsOf(one);
    const { refused } = await requeue({ id: 7, all: false }, ports);
    expect(refused).toHaveLength(1);
    expect([ports.published, ports.unburied]).toEqual([[], []]);
  }
});

const requeuedId = async (one: Partial<DeadLetter>, body?: string) => {
  const { tasks } = await requeue({ id: 7, all: false, body }, portsOf(letter(one)));
  return tasks[0]!;
};

test.each([
  ['t-1', 't-1-requeued-1'],
  ['t-1-requeued-1', 't-1-requeued-2'],
  ['t-1-requeued-9-0123abcd', 't-1-requeued-10'],
  ['x'.repeat(200), `${'x'.repeat(200)}-requeued-1`],
  [undefined, 'letter-7-requeued-1'],
])('a requeue of %s makes one task, and counts', async (task, expected) => {
  expect(await requeuedId({ task, identity: 'a'.repeat(24) })).toBe(expected);
  expect(await requeuedId({ task })).toBe(expected);
});

test.each<[string, string, { wasCut?: boolean; isCut?: boolean }]>([
  ['ids of 205 characters', 'x'.repeat(204), {}],
  ['ids of 256 characters', 'x'.repeat(255), {}],
  ['ids that were cut to 256 characters', 'x'.repeat(256), { wasCut: true }],
  ['ids that were cut to 64 characters', 'x'.repeat(64), { wasCut: true, isCut: true }],
  ['ids of emoji', '\u{1f600}'.repeat(127), {}],
])(
  'a requeue of two %s makes two tasks',
  async (_what, start, { wasCut = false, isCut = false }) => {
    const made = await Promise.all(
      ['1', '2'].map((one) =>
        requeuedId(
          { task: wasCut ? start : start + one, identity: one.repeat(24), isCut },
          isCut ? '{}' : undefined,
        ),
      ),
    );
    expect(new Set(made).size).toBe(2);
    for (const [index, task] of made.entries()) {
      expect(task.length).toBeLessThanOrEqual(256);
      expect(task.isWellFormed()).toBe(true);
      const again = await requeuedId({ task, identity: 'f'.repeat(24) });
      expect(again).toBe(task.replace(/-requeued-1(-[0-9a-f]{8})?$/, '-requeued-2'));
      expect(again).toContain(start.length > 220 || isCut ? String(index + 1).repeat(24) : start);
    }
  },
);

test('a requeue halves no emoji, and works for a long id without an identity', async () => {
  const odd = `x${'\u{1f600}'.repeat(120)}`;
  const task = await requeuedId({ task: odd, identity: undefined });
  expect(task).toBe(`x${'\u{1f600}'.repeat(89)}-letter-7-requeued-1`);
});
