/** Machines of users on real processes: events from outside, what they tell, what is refused, and files that change. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { natsTasks } from '../../services/adapters/nats/tasks.ts';
import { eventually } from '../support/eventually.ts';
import { System } from '../support/system.ts';

const agentOf = (name: string, more = '') => `---
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: ${name} }
spec: { model: scripted, tools: [ship], machine: ${name}.machine.ts${more} }
`;
/** It hears what it is told in order, and ships what was paid. */
const waits = `import { assign, emit, fromPromise, log, setup } from 'xstate';
import { total } from './total.ts';
interface Context { readonly heard: readonly number[] }
type Heard = { type: string; n: number };
export default setup({
  types: { context: {} as Context, events: {} as Heard },
  actors: { tool: fromPromise<unknown, { tool: string; arguments: object }>(async () => ({})) },
}).createMachine({
  id: 'waits',
  context: { heard: [] },
  initial: 'open',
  output: ({ context }) => ({ heard: context.heard, total: total(context.heard) }),
  states: {
    open: {
      on: {
        ADD: { actions: [
          assign({ heard: ({ context, event }) => [...context.heard, event.n] }),
          emit(({ event }) => ({ type: 'added', n: event.n })),
          log(({ event }) => 'added ' + event.n),
        ] },
        PAID: 'shipping',
      },
    },
    shipping: {
      invoke: { id: 'ship', src: 'tool', input: { tool: 'ship', arguments: { n: 1 } }, onDone: 'shipped' },
    },
    shipped: { type: 'final' },
  },
});
`;
const total = (by: number) =>
  `export const total = (all: readonly number[]): number => all.reduce((sum, one) => sum + one, 0) * ${by};\n`;

let system: System;
beforeAll(async () => {
  system = await System.start({
    runtimes: 2,
    shards: 4,
    specs: agentOf('waits'),
    files: { 'waits.machine.ts': waits, 'total.ts': total(1) },
  });
});
afterAll(() => system.stop());

const specFile = (name: string) => join(system.folder, 'specs', name);
const tell = (tenant: string, session: string, id: string, event: unknown) =>
  natsTasks(system.nats).tell(
    tenant,
    session,
    typeof event === 'string' ? event : JSON.stringify(event),
    { 'Understudy-Event': id },
  );
const letters = async () => {
  const events = natsEvents(system.nats);
  const heads = await events.deadLetters(1_000);
  return Promise.all(heads.map(async ({ id }) => (await events.deadLetter(id))!));
};
const letterOf = (event: string) =>
  eventually(
    async () => (await letters()).find(({ headers }) => headers['Understudy-Event'] === event),
    `the dead letter of ${event}`,
  );

test('events are heard once and in order by their own session, whatever is killed', async () => {
  const names = Array.from({ length: 12 }, (_, index) => `order-${index}`);
  for (const name of names)
    await system.publish(
      name,
      {},
      { agent: 'waits', tenant: name.endsWith('1') ? 'globex' : 'acme' },
    );
  const sessions = new Map<string, string>();
  for (const name of names) sessions.set(name, await system.sessionOf(name));
  const tenantOf = (name: string) => (name.endsWith('1') ? 'globex' : 'acme');
  const [listed] = (await system.ask<{ session: string; waitingOn: string }[]>('list', {})).filter(
    ({ session }) => session === sessions.get('order-0'),
  );
  expect(listed?.waitingOn).toBe('events ADD, PAID');

  for (let n = 1; n <= 8; n += 1) {
    if (n === 3 || n === 6) {
      system.stack.kill(system.of('runtime')[0]!);
      await system.stack.start('runtime');
    }
    for (const name of names) {
      await tell(tenantOf(name), sessions.get(name)!, `${name}-${n}`, { type: 'ADD', n });
      // The same again, and the same from another tenant: heard once, and by nobody.
      await tell(tenantOf(name), sessions.get(name)!, `${name}-${n}`, { type: 'ADD', n });
    }
  }
  const other = sessions.get('order-0')!;
  await tell('globex', other, 'of-globex', { type: 'PAID' });
  const refused = await letterOf('of-globex');
  expect(refused).toMatchObject({ tenant: 'globex', code: 'EVENT_UNHEARD', agent: 'waits' });
  expect(refused.reason).toContain('no session');
  for (const name of names)
    await tell(tenantOf(name), sessions.get(name)!, `${name}-paid`, { type: 'PAID' });

  for (const name of names) {
    const end = await system.endOf(name);
    expect(JSON.parse(end.data.output!)).toEqual({ heard: [1, 2, 3, 4, 5, 6, 7, 8], total: 36 });
    const emitted = system
      .stepsOf(sessions.get(name)!)
      .flatMap(({ data }) => data.emitted ?? []) as { n: number }[];
    expect(emitted.map(({ n }) => n)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    const shipped = system.world.effects.filter(({ session }) => session === sessions.get(name));
    expect(shipped).toHaveLength(1);
  }
  expect((await letters()).filter(({ code }) => code === 'EVENT_UNHEARD')).toHaveLength(1);
  await system.verifyAll(names);
});

test('what nobody can hear is a dead letter of its publisher, and goes again when it is asked to', async () => {
  await system.publish('again', {}, { agent: 'waits' });
  const session = await system.sessionOf('again');
  await tell('acme', session, 'no-json', '{"type":');
  await tell('acme', session, 'no-type', { kind: 'PAID' });
  await tell('acme', session, 'of-xstate', { type: 'xstate.stop' });
  await tell('acme', session, 'inexact', '{"type":"ADD","n":12345678901234567891}');
  await tell('acme', 'nobody-0123456789abcdef0123', 'to-nobody', { type: 'PAID' });
  for (const [event, code] of [
    ['no-json', 'EVENT_INVALID'],
    ['no-type', 'EVENT_INVALID'],
    ['of-xstate', 'EVENT_INVALID'],
    ['inexact', 'EVENT_INVALID'],
    ['to-nobody', 'EVENT_UNHEARD'],
  ] as const)
    expect(await letterOf(event)).toMatchObject({ code, tenant: 'acme' });
  const { id } = await letterOf('no-json');
  await system.ask('requeue', { id, body: '{"type":"PAID"}' });
  expect((await system.endOf('again')).data.to).toBe('completed');
});

test('files of a machine that change are for new sessions: those that run go on as they began', async () => {
  await system.publish('began', {}, { agent: 'waits' });
  const session = await system.sessionOf('began');
  const revision = (await system.ask<{ record: { revision: string } }>('inspect', { session }))
    .record.revision;
  writeFileSync(specFile('total.ts'), total(10));
  writeFileSync(specFile('more.yaml'), `${agentOf('waits')}# changed\n`);
  const live = async () =>
    (await system.ask<{ agents: { name: string; revision: string }[] }>('doctor')).agents.find(
      ({ name }) => name === 'waits',
    )?.revision;
  await eventually(async () => (await live()) !== revision, 'a new revision');
  await system.publish('later', {}, { agent: 'waits' });
  const later = await system.sessionOf('later');
  // Nothing of the machine is left, and whoever runs it never saw the files.
  rmSync(specFile('waits.machine.ts'));
  for (const runtime of system.of('runtime')) system.stack.kill(runtime);
  await system.stack.start('runtime');
  for (const [name, to] of [
    ['began', session],
    ['later', later],
  ] as const) {
    await tell('acme', to, `${name}-add`, { type: 'ADD', n: 5 });
    await tell('acme', to, `${name}-paid`, { type: 'PAID' });
  }
  expect(JSON.parse((await system.endOf('began')).data.output!).total).toBe(5);
  expect(JSON.parse((await system.endOf('later')).data.output!).total).toBe(50);
  await system.verifyAll(['began', 'later']);
  writeFileSync(specFile('waits.machine.ts'), waits);
});

test('a machine that cannot run is refused when it is loaded, and its tasks wait for a good one', async () => {
  const good = readFileSync(specFile('more.yaml'), 'utf8');
  const bad = `import { createMachine, fromPromise } from 'xstate';
export default createMachine({ id: 'bad', initial: 'a', states: {
  a: { entry: 'sendReceipt', invoke: { src: 'tool', input: { tool: 'ship', arguments: {} }, onDone: 'b' } },
  b: { invoke: { src: fromPromise(async () => 1) }, on: { GO: { guard: 'isOpen', target: 'a' } } },
} });
`;
  writeFileSync(specFile('bad.machine.ts'), bad);
  writeFileSync(specFile('more.yaml'), good + agentOf('bad'));
  const problems = await eventually(async () => {
    const { problems } = await system.ask<{ problems: { message: string }[] }>('doctor');
    const found = problems
      .map(({ message }) => message)
      .filter((message) => /bad\.machine/.test(message));
    return found.length > 0 ? found : undefined;
  }, 'doctor to say so');
  expect(problems.sort()).toEqual([
    'bad.machine.ts: state a has the action sendReceipt, which nothing implements',
    'bad.machine.ts: state b has the guard isOpen, which nothing implements',
    'bad.machine.ts: state b invokes an inline actor; a durable machine starts model, tool, agent, human only',
  ]);
  await system.publish('bad-1', {}, { agent: 'bad' });
  writeFileSync(specFile('bad.machine.ts'), waits);
  writeFileSync(specFile('more.yaml'), `${good}${agentOf('bad')}# mended\n`);
  await tell('acme', await system.sessionOf('bad-1'), 'bad-paid', { type: 'PAID' });
  expect((await system.endOf('bad-1')).data.to).toBe('completed');
});

test('what a machine logs stands in the log of the step', () => {
  const logs = system
    .of('runtime')
    .map(({ instance }) => readFileSync(join(system.stack.logs, `${instance}.log`), 'utf8'));
  expect(logs.join('\n')).toContain('"said":"added 5"');
});
