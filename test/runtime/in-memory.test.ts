/** The real services over the in-memory adapters, in one process: what `make play` runs. */

import { afterEach, describe, expect, test } from 'vitest';
import { parseSpecs } from '../../services/adapters/files/spec-parser.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { type SessionId, shardOf, type TenantId } from '../../services/core/ids.ts';
import type { SpecDocument } from '../../services/core/session/specs.ts';
import { catalogOf } from '../../services/core/session/specs.ts';
import { failed } from '../../services/core/tools/job.ts';
import type { UnderstudyEvent } from '../../services/core/wire/cloud-event.ts';
import { isEndEvent } from '../../services/core/wire/event-end.ts';
import { startInMemory } from '../../services/local/in-memory.ts';
import type { Model } from '../../services/ports/performers.ts';
import { eventually } from '../support/eventually.ts';

const yaml = `
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: desk }
spec: { model: first, tools: [echo] }
---
apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: echo }
spec: { description: echo, class: pure, input: { type: object }, run: { kind: builtin, name: echo } }
---
apiVersion: understudy.dev/v1
kind: Model
metadata: { name: first }
spec: { model: a, fallback: second, attempts: 2, backoffMs: 1, price: { inputMicrosPerMillion: 10, outputMicrosPerMillion: 10 } }
---
apiVersion: understudy.dev/v1
kind: Model
metadata: { name: second }
spec: { model: b, attempts: 2, backoffMs: 1, price: { inputMicrosPerMillion: 90, outputMicrosPerMillion: 90 } }
---
apiVersion: understudy.dev/v1
kind: Tenant
metadata: { name: acme }
spec: {}
---
apiVersion: understudy.dev/v1
kind: Tenant
metadata: { name: loud }
spec: { requestsPerMinute: 2 }
`;

const answer = (
  content: string,
  calls: { id: string; name: string; arguments: string }[] = [],
) => ({
  ok: true as const,
  value: {
    content,
    calls,
    finish: calls.length > 0 ? 'tool_calls' : 'stop',
    usage: { promptTokens: 10, completionTokens: 5, cachedTokens: 0 },
    model: 'x',
    latencyMs: 1,
  },
});
/** One tool call, then an answer. */
const polite: Model = {
  complete: async (_spec, { entries }) =>
    entries.some(({ role }) => role === 'tool')
      ? answer('done')
      : answer('', [{ id: 'c', name: 'echo', arguments: '{"n":1}' }]),
};

let running: Awaited<ReturnType<typeof startInMemory>> | undefined;
afterEach(async () => {
  await running?.stop();
  running = undefined;
});

async function start(model: Model) {
  const built = catalogOf(
    parseSpecs(yaml, 'a.yaml').map(({ document }) => ({
      document: document as SpecDocument,
      file: 'a.yaml',
    })),
  );
  running = await startInMemory({
    specs: ['.'],
    model,
    clock: systemClock,
    documents: {
      load: async () => ({
        ...built,
        lastGood: new Set(),
        unsure: { names: new Set(), isAny: false },
      }),
      follow: () => ({ stop: () => undefined }),
    },
  });
  const events: UnderstudyEvent[] = [];
  await running.events.follow({}, true, (event) => events.push(event));
  const system = running;
  return {
    ...system,
    told: events,
    publish: (task: string, tenant = 'acme') =>
      system.tasks.publish(tenant, 'desk', JSON.stringify({ input: task }), {
        'Understudy-Task': task,
      }),
    endOf: (task: string) =>
      eventually(
        () => events.find((event) => isEndEvent(event) && event.data.task === task),
        `the end of ${task}`,
      ),
  };
}

test('sessions run to their end in memory, and fold to what is stored', async () => {
  const system = await start(polite);
  for (const task of ['a', 'b', 'c']) await system.publish(task);
  for (const task of ['a', 'b', 'c'])
    expect((await system.endOf(task)).data).toMatchObject({ to: 'completed', output: 'done' });
  const session = (await system.endOf('a')).data.session;

  expect(await system.control.ask('verify', { session }, 1_000)).toMatchObject({
    ok: true,
    value: { isEqual: true, messages: 4 },
  });
  expect(system.telemetry.counts).toMatchObject({ accepted: 3, 'ended.completed': 3 });
});

describe('the gateway', () => {
  test('a transient failure is tried again, then the fallback is asked, at its own price', async () => {
    const asked: string[] = [];
    const system = await start({
      complete: async (spec) => {
        asked.push(spec.name);
        return spec.name === 'first'
          ? failed('transient', 'MODEL_OVERLOADED', 'busy')
          : answer('done');
      },
    });
    await system.publish('a');
    await system.endOf('a');

    expect(asked).toEqual(['first', 'first', 'second']);
    expect(
      system.told.find(({ type }) => type.endsWith('model-replied'))?.data.details,
    ).toMatchObject({ attempts: 3, costMicros: 1 });
  });

  test('a permanent failure is not tried again at the same provider', async () => {
    const asked: string[] = [];
    const system = await start({
      complete: async (spec) => {
        asked.push(spec.name);
        return failed('permanent', 'MODEL_REFUSED', 'no');
      },
    });
    await system.publish('a');

    expect((await system.endOf('a')).data).toMatchObject({
      to: 'failed',
      reason: expect.stringContaining('MODEL_REFUSED'),
    });
    expect(asked).toEqual(['first', 'second']);
  });

  test('a tenant that has used its requests for this minute waits, and the others go on', async () => {
    const system = await start({ complete: async () => answer('done') });
    for (const task of ['l1', 'l2', 'l3', 'l4']) await system.publish(task, 'loud');
    await eventually(
      () =>
        system.told.filter((event) => isEndEvent(event) && event.data.tenant === 'loud').length ===
        2,
    );
    for (const task of ['a1', 'a2', 'a3']) await system.publish(task);
    for (const task of ['a1', 'a2', 'a3']) await system.endOf(task);

    expect(
      system.told.filter((event) => isEndEvent(event) && event.data.tenant === 'loud'),
    ).toHaveLength(2);
    expect((await system.control.ask('list', { tenant: 'loud' }, 1_000)) as unknown).toMatchObject({
      ok: true,
      value: [{ waitingOn: 'model first' }, { waitingOn: 'model first' }],
    });
  });
});

test('a store that loses everything is built again from the mailbox, and no task ends twice', async () => {
  let hold = true;
  const system = await start({
    complete: async (spec, prompt, options) => {
      while (hold) await new Promise((resolve) => setTimeout(resolve, 5));
      return polite.complete(spec, prompt, options);
    },
  });
  const tasks = Array.from({ length: 20 }, (_, index) => `t${index}`);
  for (const task of tasks) await system.publish(task);
  await eventually(
    () => system.told.filter(({ type }) => type.endsWith('task-received')).length === 20,
  );
  system.store.flush();
  hold = false;
  for (const task of tasks) await system.endOf(task);

  expect(
    system.told
      .filter(isEndEvent)
      .map(({ data }) => data.task)
      .sort(),
  ).toEqual([...tasks].sort());
  expect(system.telemetry.counts.fenced).toBeGreaterThan(0);
});

test('mail that belongs to another shard is a dead letter, not a session', async () => {
  const system = await start(polite);
  const session = 'desk-x' as SessionId;
  const wrong = ((shardOf('acme' as TenantId, session, 4) + 1) % 4) as Parameters<
    typeof system.mailbox.inject
  >[0];
  system.mailbox.inject(
    wrong,
    JSON.stringify({ v: 1, tenant: 'acme', session, message: { kind: 'wake' } }),
  );

  expect(await eventually(async () => (await system.events.deadLetters(9))[0])).toMatchObject({
    code: 'MAIL_MISROUTED',
  });
});

test('requeue of all makes two tasks of two whose long ids begin alike', async () => {
  const system = await start({ complete: async () => answer('done') });
  const ids = ['1', '2'].map((end) => `${'x'.repeat(205)}-${end}`);
  for (const id of ids)
    await system.tasks.publish('acme', 'nobody', '{"input":"x"}', { 'Understudy-Task': id });
  await eventually(async () => (await system.events.deadLetters(9)).length === 2);
  const answered = await system.control.ask('requeue', { all: true, toAgent: 'desk' }, 1_000);
  const { tasks } = (answered as { value: { tasks: string[] } }).value;

  for (const task of tasks) expect((await system.endOf(task)).data.to).toBe('completed');
  expect(new Set(tasks).size).toBe(2);
});
