/** What a user's machine holds and JSON cannot write stays the trouble of its own session. */
import { describe, expect, test } from 'vitest';
import { type AnyStateMachine, assign, fromPromise, setup } from 'xstate';
import type { SessionCommit } from '../../services/ports/session-store.ts';
import { Actor } from '../../services/runtime/actor.ts';
import { Drafts } from '../../services/runtime/drafts.ts';
import { address, definitionOf, returned, Talk, task } from '../support/sessions.ts';

const circle: Record<string, unknown> = {};
circle.self = circle;
const thrower = {
  get now() {
    throw new Error('no');
  },
};
const values: [string, unknown][] = [
  ['a bigint', 1n],
  ['a circle', circle],
  ['a getter that throws', thrower],
  ['a number that is not finite', Number.NaN],
  [
    'a toJSON that throws',
    {
      toJSON: () => {
        throw new Error('no');
      },
    },
  ],
];
const machineOf = (config: object): AnyStateMachine =>
  setup({
    types: { context: {} as Record<string, unknown> },
    actors: { tool: fromPromise<unknown, { tool: string; arguments: object }>(async () => ({})) },
  }).createMachine({ id: 'odd', ...config } as never) as unknown as AnyStateMachine;
const look = (onDone: unknown) => ({
  id: 'look',
  src: 'tool',
  input: { tool: 'look', arguments: {} },
  onDone,
});
const talkOf = (machine: AnyStateMachine) => new Talk({ ...definitionOf(), machine });

/** Written well the first times, and not the next: in a commit it would fail the work of others. */
function fickle(times: number) {
  let calls = 0;
  return {
    toJSON: () => {
      calls += 1;
      if (calls > times) throw new Error('not again');
      return { n: 1 };
    },
  };
}

test.each([1, 2, 3, 4])('a value that can be written %i times is written once', (times) => {
  const value = fickle(times);
  const input = { tool: 'look', arguments: { value: { ok: true } } };
  const states = { a: { invoke: { ...look('b'), input } }, b: { type: 'final' } };
  // Since behaviour 4 a value with a method of its own is refused.
  const bundle = { ...definitionOf().bundle, behaviour: 3 };
  const machine = machineOf({ context: { value }, initial: 'a', states });
  const talk = new Talk({ bundle, machine });
  const first = talk.say(task('{}'));
  if (first.kind !== 'applied') throw new Error('not applied');
  // What goes on is plain: it may be written as often as one likes.
  for (let again = 0; again < 5; again += 1) JSON.stringify(first.record);
  expect(first.record.context).toEqual({ value: { n: 1 } });
  expect(talk.say(returned(Object.keys(first.record.pending)[0] ?? '')).kind).toBe('applied');
});

test.each([2, 3])(
  'behaviour %i: a machine that holds what is no JSON goes on as it began',
  (behaviour) => {
    const machine = machineOf({
      context: { when: new Date(5) },
      initial: 'a',
      states: { a: { invoke: look('b') }, b: { type: 'final' } },
      output: ({ context }: { context: { when: Date } }) => context.when,
    });
    const { bundle } = definitionOf();
    const talk = new Talk({ bundle: { ...bundle, behaviour }, machine });
    const first = talk.say(task('{}'));
    if (first.kind !== 'applied') throw new Error('not applied');
    const { when } = first.record.context as { when: unknown };
    expect(when instanceof Date).toBe(behaviour < 3);
  },
);

test('what a machine changes behind our back changes nothing that is stored', () => {
  const value: Record<string, unknown> = { n: 1 };
  const states = { a: { invoke: look('b') }, b: {} };
  const talk = talkOf(machineOf({ context: { value }, initial: 'a', states }));
  const first = talk.say(task('{}'));
  if (first.kind !== 'applied') throw new Error('not applied');
  value.self = value;
  expect(() => JSON.stringify(first.record)).not.toThrow();
  expect(first.record.context).toEqual({ value: { n: 1 } });
});

describe.each(values)('%s', (_name, value) => {
  test('in the first context refuses the task', () => {
    const machine = machineOf({ context: { value }, initial: 'a', states: { a: {} } });
    expect(() => talkOf(machine).say(task('{}'))).toThrow(/JSON does not keep|cannot be read/);
  });

  test('in the arguments of a tool refuses the task', () => {
    const input = { tool: 'look', arguments: { value } };
    const invoke = { id: 'x', src: 'tool', input };
    const machine = machineOf({ context: {}, initial: 'a', states: { a: { invoke } } });
    expect(() => talkOf(machine).say(task('{}'))).toThrow(/does not keep|cannot be read|no/);
  });

  test('assigned later fails its session by name', () => {
    const onDone = { target: 'b', actions: assign({ value: () => value }) };
    const states = { a: { invoke: look(onDone) }, b: { invoke: look('b') } };
    const talk = talkOf(machineOf({ context: {}, initial: 'a', states }));
    talk.say(task('{}'));
    talk.say(returned(talk.pendingOf('runTool')));
    expect(talk.record).toMatchObject({
      status: 'failed',
      reason: expect.stringContaining('MACHINE_NOT_JSON'),
      pending: {},
    });
    expect(talk.kinds).toEqual(['reply']);
  });

  test('as output fails its session by name', () => {
    const states = { a: { invoke: look('end') }, end: { type: 'final' } };
    const machine = machineOf({ context: {}, initial: 'a', states, output: () => value });
    const talk = talkOf(machine);
    talk.say(task('{}'));
    talk.say(returned(talk.pendingOf('runTool')));
    expect(talk.record?.status).toBe('failed');
  });
});

test.each([Number.NaN, Number.POSITIVE_INFINITY])('a delay of %d refuses the task', (delay) => {
  const machine = machineOf({
    context: {},
    initial: 'a',
    delays: { odd: delay },
    states: { a: { after: { [String(delay)]: 'b' } }, b: {} },
  }).provide({ delays: { [String(delay)]: () => delay } } as never);
  expect(() => talkOf(machine).say(task('{}'))).toThrow(/no number of milliseconds/);
});

test('a step that cannot be written leaves nothing of itself in the commit of others', () => {
  const talk = new Talk();
  talk.say(task());
  const drafts = new Drafts();
  const good = new Actor(address.tenant, 'good-1' as never, 0);
  const bad = new Actor(address.tenant, 'bad-1' as never, 0);
  const step = talk.last as Extract<typeof talk.last, { kind: 'applied' }>;
  drafts.keep(good, talk.heard[0]!, step);
  const record = { ...step.record, machine: 'xstate:odd', context: { n: 1n } };
  expect(() => drafts.keep(bad, talk.heard[0]!, { ...step, record })).toThrow(/cannot be stored/);
  const { sessions, entry } = drafts.take(() => undefined);
  expect(sessions.map(({ session }: SessionCommit) => session)).toEqual(['good-1']);
  expect(entry.events).toHaveLength(1);
});
