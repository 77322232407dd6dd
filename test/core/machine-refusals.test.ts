/** What no host can do durably is found when a machine is loaded, or before a step's effects leave. */
import { describe, expect, test } from 'vitest';
import {
  type AnyStateMachine,
  and,
  assign,
  createActor,
  createMachine,
  emit,
  enqueueActions,
  fromPromise,
  log,
  not,
  raise,
  sendParent,
  sendTo,
  setup,
  spawnChild,
  stopChild,
} from 'xstate';
import type { TaskId, TenantId } from '../../services/core/ids.ts';
import {
  unfit,
  unimplemented,
  unknownNames,
  unperformable,
} from '../../services/core/session/machine-walk.ts';
import { summaryOf } from '../../services/core/session/summary.ts';
import { bundleOf, definitionOf, returned, Talk, task } from '../support/sessions.ts';

const tool = (id: string, more: object = {}) => ({
  id,
  src: 'tool',
  input: { tool: 'look', arguments: {} },
  ...more,
});
const machineOf = (config: object, more: object = {}): AnyStateMachine =>
  setup({
    actors: { tool: fromPromise(async () => ({})), receipt: fromPromise(async () => ({})) },
    ...more,
  } as never).createMachine({ id: 'odd', context: {}, ...config } as never) as never;
const talkOf = (machine: AnyStateMachine, behaviour?: number) => {
  const { bundle } = definitionOf();
  const own = behaviour === undefined ? bundle : { ...bundle, behaviour };
  return new Talk({ bundle: own, machine });
};
const inState = (state: object) => machineOf({ initial: 'a', states: { a: state, b: {} } });
const run = () => undefined;
const refuseTool = (talk: Talk) =>
  talk.say({
    kind: 'toolFailed',
    effect: talk.pendingOf('runTool') as never,
    failure: { class: 'permanent', code: 'NO_MONEY', message: 'no' },
    latencyMs: 1,
    attempts: 1,
    executor: 'x',
  });

test.each<[string, AnyStateMachine, RegExp]>([
  [
    'an inline actor',
    inState({ invoke: { src: fromPromise(async () => 1) } }),
    /a invokes an inline/,
  ],
  ['a source that is none of ours', inState({ invoke: { src: 'receipt' } }), /a invokes receipt;/],
  [
    'a source deep inside',
    inState({ initial: 'x', states: { x: { invoke: { src: 'receipt' } } } }),
    /state a\.x invokes/,
  ],
  ['one at the root', machineOf({ invoke: { src: 'receipt' } }), /state \(root\) invokes receipt/],
  ['onSnapshot', inState({ invoke: tool('t', { onSnapshot: 'b' }) }), /snapshots of t/],
  ['a function on entry', inState({ entry: run }), /the action run, a function/],
  ['a function on exit', inState({ exit: [() => undefined] }), /an action of its own, a function/],
  ['a function on a transition', inState({ on: { GO: { actions: run } } }), /the action run/],
  ['one after a delay', inState({ after: { 5: { actions: run } } }), /the action run/],
  ['one on a result', inState({ invoke: tool('t', { onDone: { actions: run } }) }), /action run/],
  ['one of always', inState({ always: { guard: () => false, actions: run } }), /the action run/],
  [
    'one of the initial state',
    machineOf({ initial: { target: 'a', actions: run }, states: { a: {} } }),
    /action run/,
  ],
  [
    'a name that nothing implements',
    inState({ entry: 'sendReceipt' }),
    /sendReceipt, which nothing/,
  ],
  ['a name of every object', inState({ entry: 'constructor' }), /constructor, which nothing/],
  [
    'an implementation by name',
    machineOf({ entry: 'save' }, { actions: { save: run } }),
    /save, a function/,
  ],
  [
    'spawnChild of another source',
    inState({ entry: spawnChild('receipt', { id: 'r' }) }),
    /spawns receipt/,
  ],
  ['spawnChild without an id', inState({ entry: spawnChild('tool') }), /without an id/],
  [
    'spawnChild with syncSnapshot',
    inState({ entry: spawnChild('tool', { id: 't', syncSnapshot: true }) }),
    /syncSnapshot/,
  ],
  [
    'spawnChild with a systemId',
    inState({ entry: spawnChild('tool', { id: 't', systemId: 's' }) }),
    /systemId/,
  ],
  [
    'sendParent',
    inState({ entry: sendParent({ type: 'UP' }) }),
    /a parent, and a session has none/,
  ],
  [
    'one id in a state and in one above it',
    inState({ invoke: tool('t'), initial: 'x', states: { x: { invoke: tool('t') } } }),
    /invokes t, and so does state/,
  ],
  [
    'one id in two regions',
    machineOf({
      type: 'parallel',
      states: {
        l: { initial: 'x', states: { x: { invoke: tool('t') } } },
        r: { initial: 'x', states: { x: { invoke: tool('t') } } },
      },
    }),
    /state r\.x invokes t, and so does state l\.x/,
  ],
  ['one id twice in a state', inState({ invoke: [tool('t'), tool('t')] }), /invokes t, and so/],
])('%s is found when the machine is loaded', (_name, machine, why) => {
  expect(unperformable(machine).join('; ')).toMatch(why);
  expect(() => talkOf(machine).say(task('{}'))).toThrow(why);
});

test.each<[string, AnyStateMachine, RegExp]>([
  ['a guard', inState({ on: { GO: { guard: 'isOpen', target: 'b' } } }), /the guard isOpen/],
  [
    'a guard inside others',
    inState({ on: { GO: { guard: and([not('isOpen')]), target: 'b' } } }),
    /isOpen/,
  ],
  [
    'a guard of a guard',
    machineOf({ on: { GO: { guard: 'all' } } }, { guards: { all: and(['isOpen']) } }),
    /isOpen/,
  ],
  ['a guard of always', inState({ always: { guard: 'isOpen', target: 'b' } }), /isOpen/],
  ['a delay', inState({ after: { soon: 'b' } }), /the delay soon/],
  ['a guard that names itself', machineOf({ on: { GO: { guard: 'toString' } } }), /toString/],
])('%s that nothing implements is found when the machine is loaded', (_name, machine, why) => {
  expect(unimplemented(machine).join('; ')).toMatch(why);
});

test('a machine that can run has nothing to say', () => {
  const machine = machineOf({
    initial: 'a',
    states: {
      a: {
        entry: [emit({ type: 'told' }), log('hello'), spawnChild('tool', { id: 't' })],
        invoke: tool('look', { systemId: 'sys', onDone: 'b' }),
        after: { 10: 'b' },
        on: { 'PAID.*': 'b', '*': 'b' },
      },
      b: {},
    },
  });
  expect([...unperformable(machine), ...unimplemented(machine)]).toEqual([]);
});

describe('what only a running function shows fails its session before its effects leave', () => {
  const outsider = createActor(fromPromise(async () => 1));
  test.each<[string, unknown, RegExp]>([
    ['a function of enqueueActions', enqueueActions(({ enqueue }) => enqueue(run)), /never run/],
    [
      'a name of enqueueActions',
      enqueueActions(({ enqueue }) => enqueue('gone' as never)),
      /nothing implements the action gone/,
    ],
    [
      'another source',
      enqueueActions(({ enqueue }) => enqueue.spawnChild('receipt' as never, { id: 'r' } as never)),
      /starts receipt/,
    ],
    [
      'a child without an id',
      enqueueActions(({ enqueue }) => enqueue.spawnChild('tool' as never)),
      /without an id/,
    ],
    [
      'spawn in an assign',
      assign({
        kid: (({ spawn }: never) =>
          (spawn as (source: string, options: object) => { id: string })('tool', { id: 'kid' })
            .id) as never,
      }),
      /spawn\(\) in an assign/,
    ],
    [
      'an actor of somebody else',
      sendTo(outsider as never, { type: 'HI' } as never),
      /none of its own/,
    ],
    [
      'self.send',
      assign({
        x: (({ self }: never) =>
          (self as { send(event: object): void }).send({ type: 'GO' })) as never,
      }),
      /self\.send/,
    ],
    [
      'a name that every session would have',
      assign({ x: (({ self }: never) => (self as { id: string }).id) as never }),
      /self\.id/,
    ],
    [
      'what a child is by now',
      assign({
        x: (({ self }: never) =>
          Object.values(
            (self as { getSnapshot(): { children: object } }).getSnapshot().children,
          ).map((child) => (child as { getSnapshot(): unknown }).getSnapshot())) as never,
      }),
      /a child\.getSnapshot/,
    ],
    [
      'a listener',
      assign({
        x: (({ self }: never) =>
          (self as { subscribe(by: () => void): void }).subscribe(run)) as never,
      }),
      /self\.subscribe/,
    ],
    [
      'the system',
      assign({ x: (({ system }: never) => (system as { getAll(): object }).getAll()) as never }),
      /system\.getAll/,
    ],
    [
      'a refusal that is caught',
      assign({
        x: (({ self }: never) => {
          try {
            (self as { send(event: object): void }).send({ type: 'GO' });
          } catch {
            return 1;
          }
          return 2;
        }) as never,
      }),
      /self\.send/,
    ],
    ['an event that is no JSON', emit({ type: 'told', at: new Date(0) } as never), /at is a Date/],
    [
      'more than fits a message',
      emit({ type: 'told', text: 'x'.repeat(70_000) } as never),
      /65536 are allowed/,
    ],
  ])('%s', (_name, action, why) => {
    const states = {
      a: { invoke: tool('t', { onDone: { target: 'b', actions: action } }) },
      b: { invoke: tool('pay', { input: { tool: 'pay', arguments: { amount: 1 } } }) },
    };
    const talk = talkOf(machineOf({ initial: 'a', states }));
    talk.say(task('{}'));
    talk.say(returned(talk.pendingOf('runTool')));
    expect(talk.record).toMatchObject({ status: 'failed', reason: expect.stringMatching(why) });
    expect(talk.kinds).toEqual(['reply']);
  });
});

test('a machine that sends itself one event after the other is ended', () => {
  const states = { a: { on: { GO: { actions: sendTo(({ self }) => self, { type: 'GO' }) } } } };
  const talk = talkOf(
    machineOf({ initial: 'a', states, entry: sendTo(({ self }) => self, { type: 'GO' }) }),
  );
  talk.say(task('{}'));
  expect(talk.record?.reason).toMatch(/MACHINE_ERROR: .*1000 events in a row/);
});

test('what throws, and input that does not fit, is told on one line with its place', () => {
  const boom = () => {
    throw new Error('boom');
  };
  const on = { GO: { guard: boom as never, target: 'b' } };
  const talk = talkOf(
    machineOf({
      type: 'parallel',
      states: { l: { initial: 'a', states: { a: { on }, b: {} } }, r: {} },
    }),
  );
  talk.say(task('{}'));
  talk.say({ kind: 'event', id: 'e1', from: 'acme' as TenantId, event: { type: 'GO' } });
  expect(talk.record?.reason).toMatch(/^MACHINE_ERROR: .*boom.* \(in state {"l":"a","r":{}}\)$/s);
  const odd = inState({ invoke: { id: 't', src: 'tool', input: { tool: 7, args: {} } } });
  expect(() => talkOf(odd).say(task('{}'))).toThrow(
    /invoke t of tool: its input does not fit: [^\n]*tool[^\n]*$/,
  );
});

test('a session that began before goes on as it began', () => {
  const machine = inState({ entry: [run, 'gone'], invoke: tool('t', { onDone: 'b' }) });
  const talk = talkOf(machine, 3);
  talk.say(task('{}'));
  talk.say(returned(talk.pendingOf('runTool')));
  expect(talk.record).toMatchObject({ status: 'active', value: 'b' });
});

describe('what a machine holds', () => {
  const held = (value: unknown) => {
    const talk = talkOf(
      machineOf({ context: { deep: [{ value }] }, initial: 'a', states: { a: {} } }),
    );
    talk.say(task('{}'));
    return talk.record;
  };
  class Money {
    readonly cents = 1;
  }
  const loop = () => {
    const one: { self?: object } = {};
    one.self = one;
    return one;
  };
  const doubled = (times: number): unknown =>
    Array.from({ length: times }).reduce((inner) => [inner, inner], {});
  test.each<[string, unknown, RegExp]>([
    ['a Date', new Date(0), /deep\.0\.value is a Date/],
    ['a Map', new Map(), /a Map/],
    ['an instance', new Money(), /a Money/],
    ['a function', () => 1, /a function/],
    ['a symbol', Symbol('x'), /a symbol/],
    ['infinity', Number.POSITIVE_INFINITY, /Infinity/],
    ['an array with holes', new Array(3), /holes/],
    ['a hole and a field', Object.assign(new Array(1), { x: 1 }), /holes/],
    ['a list of its own', new (class List extends Array {})(), /a List/],
    ['an array with a field', Object.assign([1], { more: 2 }), /holes/],
    ['a field __proto__', JSON.parse('{"__proto__":{"x":1}}'), /__proto__/],
    ['an Error of its own', new Error('x'), /a Error/],
    [
      'a getter',
      Object.defineProperty({}, 'now', { get: () => Date.now(), enumerable: true }),
      /value\.now is a getter/,
    ],
    ['a hidden field', Object.defineProperty({}, 'key', { value: 1 }), /value\.key is a hidden/],
    ['itself', loop(), /contains itself/],
    ['a few objects that come to a million', doubled(40), /more than 1048576 characters/],
  ])('%s is refused with its path', (_name, value, why) => {
    expect(() => held(value)).toThrow(why);
  });

  test('is there again after a restore: fields that are undefined, errors of invokes, ~ and /', () => {
    const machine = machineOf({
      context: { 'a/b~c': undefined, list: [1, undefined], error: undefined, seen: [] },
      initial: 'a',
      states: {
        a: {
          invoke: tool('t', {
            onError: {
              target: 'b',
              actions: assign({
                error: (({ event }: never) => (event as { error: unknown }).error) as never,
              }),
            },
          }),
        },
        b: {
          on: {
            LOOK: {
              actions: assign({
                seen: (({ context }: { context: Record<string, unknown> }) => [
                  'a/b~c' in context,
                  (context.list as unknown[])[1] === undefined,
                  context.error instanceof Error,
                  (context.error as { code?: string }).code,
                ]) as never,
              }),
            },
          },
        },
      },
    });
    const talk = talkOf(machine);
    talk.say(task('{}'));
    refuseTool(talk);
    talk.say({ kind: 'event', id: 'e1', from: 'acme' as TenantId, event: { type: 'LOOK' } });
    expect((talk.record!.context as { seen: unknown[] }).seen).toEqual([
      true,
      true,
      true,
      'NO_MONEY',
    ]);
  });
});

test('one object in two places is one after a restore, and has no more of a prototype', () => {
  const item = { note: undefined, price: 1 };
  const groups = Object.assign(Object.create(null) as object, { cheap: [item] });
  const is = ({ context }: { context: { items: unknown[]; chosen: object; groups: object } }) => [
    context.items[0] === context.chosen,
    (context.groups as { cheap: unknown[] }).cheap[0] === context.chosen,
    Object.keys(context.chosen).join(),
    Object.getPrototypeOf(context.groups),
  ];
  const look = { actions: assign({ seen: is as never }) };
  const context = { items: [item], chosen: item, groups, seen: [] };
  const talk = talkOf(machineOf({ context, initial: 'a', states: { a: { on: { LOOK: look } } } }));
  talk.say(task('{}'));
  expect(talk.record!.context).toMatchObject({ items: [{ price: 1 }], chosen: { price: 1 } });
  for (const id of ['e1', 'e2'])
    talk.say({ kind: 'event', id, from: 'acme' as TenantId, event: { type: 'LOOK' } });
  expect((talk.record!.context as { seen: unknown[] }).seen).toEqual([
    true,
    true,
    'note,price',
    null,
  ]);
});

test('a timer brings its event as it was sent: fields that are undefined, errors of invokes', () => {
  const later = raise(({ event }) => ({ ...event, type: 'LATER', none: undefined }) as never, {
    delay: 1_000,
  });
  const seen = ({ event }: { event: { error?: unknown } }) => [
    event.error instanceof Error,
    'none' in event,
  ];
  const states = {
    a: { invoke: tool('t', { onError: { target: 'b', actions: later } }) },
    b: { on: { LATER: { actions: assign({ seen: seen as never }) } } },
  };
  const talk = talkOf(machineOf({ context: { seen: [] }, initial: 'a', states }));
  talk.say(task('{}'));
  refuseTool(talk);
  talk.say({ kind: 'wake' }, 2_000);
  expect((talk.record!.context as { seen: unknown[] }).seen).toEqual([true, true]);
});

describe('events from outside', () => {
  const waiting = () => {
    const talk = talkOf(
      createMachine({
        id: 'order',
        initial: 'waits',
        states: {
          waits: { on: { PAID: 'paid', 'x.*': {} }, after: { 60000: 'late' } },
          paid: { type: 'final' },
          late: {},
        },
      }) as never,
    );
    talk.say(task('{}', { task: 't' as TaskId }));
    return talk;
  };
  const event = (type: string, id = 'e1', from = 'acme') => ({
    kind: 'event' as const,
    id,
    from: from as TenantId,
    event: { type },
  });

  test('are heard once, and stand in ps as what is waited on', () => {
    const talk = waiting();
    expect(summaryOf(talk.record!).waitingOn).toMatch(/^a timer, due .*, events PAID, x\.\*$/);
    talk.say(event('OTHER'));
    expect(talk.record?.value).toBe('waits');
    expect(talk.say(event('PAID')).kind).toBe('seen');
    talk.say(event('PAID', 'e2'));
    expect(talk.record?.status).toBe('completed');
    expect(talk.say(event('PAID', 'e2')).kind).toBe('seen');
    expect(() => talk.say(event('PAID', 'e3'))).toThrow(/listens to events/);
  });

  test('of another tenant are told what they would be told of no session', () => {
    const talk = waiting();
    expect(() => talk.say(event('PAID', 'e1', 'globex'))).toThrow(/no session clerk-1 of globex/);
    expect(talk.record?.value).toBe('waits');
  });

  test('wait while their session is paused', () => {
    const talk = waiting();
    talk.say({ kind: 'pause', actor: 'ann', reason: '' });
    talk.say(event('PAID'));
    talk.say(event('PAID'));
    expect(talk.record?.status).toBe('paused');
    talk.say({ kind: 'resume', actor: 'ann', reason: '' });
    expect(talk.record?.status).toBe('completed');
  });

  test.each([
    ['completed', (talk: Talk) => talk.say({ kind: 'resume', actor: 'ann', reason: '' })],
    ['halted', (talk: Talk) => talk.say({ kind: 'halt', actor: 'ann', reason: '' })],
  ])('that waited when their session was %s go where nobody loses them', (status, end) => {
    const talk = waiting();
    talk.say({ kind: 'pause', actor: 'ann', reason: '' });
    for (const [type, id] of [
      ['PAID', 'e1'],
      ['x.late', 'e2'],
    ] as const)
      talk.say(event(type, id));
    end(talk);
    expect(talk.record?.status).toBe(status);
    const lost = talk.wants.filter(({ kind }) => kind === 'unheard');
    const expected = [
      { kind: 'unheard', id: 'e1', from: 'acme', event: { type: 'PAID' } },
      { kind: 'unheard', id: 'e2', from: 'acme', event: { type: 'x.late' } },
    ];
    expect(lost).toEqual(status === 'completed' ? expected.slice(1) : expected);
  });

  test('are refused by an agent without a machine, and by sessions that began before', () => {
    const agent = new Talk({ bundle: bundleOf() });
    agent.say(task('x'));
    expect(() => agent.say(event('PAID'))).toThrow(/listens to events/);
    const before = talkOf(
      createMachine({ initial: 'a', states: { a: { on: { PAID: 'a' } } } }) as never,
      3,
    );
    before.say(task('{}'));
    expect(() => before.say(event('PAID'))).toThrow(/listens to events/);
  });
});

describe('found when the machine is loaded, and not after its payment', () => {
  test.each<[string, AnyStateMachine, RegExp]>([
    [
      'a tool without an input',
      inState({ invoke: { id: 't', src: 'tool' } }),
      /a invokes tool, and its input does not fit/,
    ],
    [
      'a model whose input is none',
      machineOf(
        { initial: 'a', states: { a: { invoke: { src: 'model', input: { promt: 'x' } } } } },
        { actors: { model: fromPromise(async () => ({})) } },
      ),
      /invokes model, and its input does not fit/,
    ],
    [
      'a delay without end',
      inState({ entry: raise({ type: 'X' }, { delay: Number.POSITIVE_INFINITY }) }),
      /waits for Infinity ms/,
    ],
    [
      'a child with the name of what every object has',
      inState({
        entry: spawnChild('tool', { id: 'constructor', input: tool('x').input } as never),
      }),
      /a name that every object has/,
    ],
  ])('%s', (_what, machine, why) => {
    expect(unfit(machine).join()).toMatch(why);
  });

  test('an input that is computed is seen when it is', () => {
    expect(unfit(inState({ invoke: tool('t', { input: () => ({}) }) }))).toEqual([]);
  });
});

test.each([
  'xstate.log',
  'xstate.raise',
  'xstate.sendTo',
  'xstate.spawnChild',
  'xstate.emit',
  'xstate.cancel',
  'xstate.assign',
])('a function under the name %s is refused by name, and is no defect', (type) => {
  const machine = machineOf(
    {
      initial: 'a',
      states: {
        a: {
          invoke: tool('t', {
            onDone: {
              actions: enqueueActions(({ enqueue }) => enqueue(type as never)),
              target: 'b',
            },
          }),
        },
        b: {},
      },
    },
    { actions: { [type]: run } },
  );
  const talk = talkOf(machine);
  talk.say(task('{}'));
  talk.say(returned(talk.pendingOf('runTool') as never));
  expect(talk.record?.status).toBe('failed');
  expect(talk.record?.reason).toMatch(/MACHINE_UNSUPPORTED/);
});

describe('two children of one id', () => {
  const spawns = spawnChild('tool', { id: 't', input: tool('t').input } as never);
  test.each<[string, AnyStateMachine]>([
    [
      'a child with the id of an invoke that lives',
      inState({ invoke: tool('t'), on: { X: { actions: spawns } } }),
    ],
    [
      'an invoke with the id of a child that lives',
      machineOf({
        initial: 'a',
        states: { a: { entry: spawns, on: { X: 'b' } }, b: { invoke: tool('t') } },
      }),
    ],
    [
      'a root that is entered anew without being left',
      machineOf({ id: 'm', invoke: tool('t'), initial: 'a', states: { a: { on: { X: '#m' } } } }),
    ],
  ])('%s is refused by name from behaviour 5 on', (_what, machine) => {
    const ends = (behaviour?: number) => {
      const talk = talkOf(machine, behaviour);
      talk.say(task('{}'));
      talk.say({ kind: 'event', id: 'x1', from: 'acme' as TenantId, event: { type: 'X' } });
      return talk.record;
    };
    const now = ends();
    expect([now?.status, now?.reason]).toEqual([
      'failed',
      expect.stringMatching(/MACHINE_UNSUPPORTED: it starts t, and a child of that id lives/),
    ]);
    expect(ends(4)?.status).toBe('active');
  });
});

test('an invoke with a systemId may be left within the step that began it', () => {
  const machine = machineOf({
    initial: 'a',
    states: {
      a: { on: { X: 'b' } },
      b: { invoke: tool('t', { systemId: 's' }), always: 'c' },
      c: { on: { Y: 'd' } },
      d: { type: 'final' },
    },
  });
  const at = (behaviour?: number) => {
    const talk = talkOf(machine, behaviour);
    talk.say(task('{}'));
    talk.say({ kind: 'event', id: 'x1', from: 'acme' as TenantId, event: { type: 'X' } });
    return talk.record?.status === 'active' ? talk.record?.value : talk.record?.reason;
  };
  expect(at()).toBe('c');
  expect(at(4)).toContain('only invokes have one');
});

test('an invoke that a machine stops stays stopped, also after a restore, until its state is entered anew', () => {
  const seen = assign({
    children: ({ self }: { self: { getSnapshot(): { children: object } } }) =>
      Object.keys(self.getSnapshot().children),
  } as never);
  const machine = machineOf({
    context: { children: [] },
    initial: 'a',
    states: {
      a: {
        invoke: tool('t'),
        on: { STOP: { actions: stopChild('t') }, LOOK: { actions: seen }, AGAIN: 'b' },
      },
      b: { on: { BACK: 'a' } },
    },
  });
  const talk = talkOf(machine);
  talk.say(task('{}'));
  const tell = (type: string) => {
    talk.say({
      kind: 'event',
      id: `${type}${talk.record?.version}`,
      from: 'acme' as TenantId,
      event: { type },
    });
    return (talk.record!.context as unknown as { children: unknown }).children;
  };
  expect(tell('LOOK')).toEqual(['t']);
  tell('STOP');
  expect(Object.values(talk.record?.pending ?? {})).toEqual([]);
  expect(tell('LOOK')).toEqual([]);
  tell('AGAIN');
  tell('BACK');
  expect(tell('LOOK')).toEqual(['t']);
});

test('tools and agents that stand there by name, and that its agent has not, are found when it is loaded', () => {
  const asks = machineOf(
    {
      initial: 'a',
      states: {
        a: { invoke: { src: 'tool', input: { tool: 'recipt' } } },
        b: { invoke: { src: 'agent', input: { agent: 'clerc', input: 'x' } } },
        c: { invoke: { src: 'tool', input: () => ({ tool: 'computed' }) } },
        d: { invoke: { src: 'human', input: { question: 'tool?' } } },
      },
    },
    {
      actors: Object.fromEntries(
        ['tool', 'agent', 'human'].map((name) => [name, fromPromise(async () => ({}))]),
      ),
    },
  );
  const has = { tool: (name: string) => name === 'receipt', agent: () => false };
  expect(unknownNames(asks, has)).toEqual([
    'state a asks for the tool recipt, which its agent does not name',
    'state b asks for the agent clerc, which its agent does not name',
  ]);
  expect(unknownNames(asks, { tool: () => true, agent: () => true })).toEqual([]);
});
