/**
 * Any XState machine behaves under the durable host as it does under a plain actor, with a restore from stored
 * JSON before every event. What a machine invokes is answered by hand in both worlds.
 */

import { describe, expect, test } from 'vitest';
import {
  type AnyStateMachine,
  assign,
  createActor,
  createMachine,
  fromPromise,
  initialTransition,
  raise,
  setup,
  transition,
} from 'xstate';
import type { AgentName, EffectId, Revision, TaskId } from '../../services/core/ids.ts';
import { agentMachine } from '../../services/core/session/agent-machine.ts';
import type { Definition } from '../../services/core/session/draft.ts';
import { driverOf } from '../../services/core/session/machine-host.ts';
import type { Message } from '../../services/core/session/messages.ts';
import { parseRecord } from '../../services/core/session/migrate.ts';
import type { SessionRecord } from '../../services/core/session/record.ts';
import { step } from '../../services/core/session/step.ts';
import { address, bundleOf } from '../support/sessions.ts';

interface Case {
  readonly name: string;
  readonly machine: AnyStateMachine;
  /** Answers to invokes in order: the value, or an error; or a wait in ms that fires timers. */
  readonly script: readonly ({ done: unknown } | { error: string } | { waitMs: number })[];
}

const s = () =>
  setup({
    types: {
      context: {} as Record<string, unknown>,
      events: {} as { type: string; [field: string]: unknown },
    },
    actors: {
      model: fromPromise(async () => '' as unknown),
      tool: fromPromise(async () => ({}) as unknown),
      agent: fromPromise(async () => '' as unknown),
      human: fromPromise(async () => ({}) as unknown),
    },
    guards: { isBig: ({ event }) => Number((event as { output?: unknown }).output) > 10 },
    actions: { count: assign({ n: ({ context }) => Number(context.n ?? 0) + 1 }) },
  });
const tool = (id: string, onDone: unknown, more: object = {}) =>
  ({ id, src: 'tool' as const, input: { tool: 'look', arguments: {} }, onDone, ...more }) as never;

const cases: readonly Case[] = [
  {
    name: 'sequence of invokes with output kept in context',
    machine: s().createMachine({
      id: 'sequence',
      context: {},
      initial: 'a',
      output: ({ context }) => context,
      states: {
        a: {
          invoke: tool('a', {
            target: 'b',
            actions: assign({ a: ({ event }: { event: { output?: unknown } }) => event.output }),
          }),
        },
        b: {
          invoke: tool('b', {
            target: 'end',
            actions: assign({ b: ({ event }: { event: { output?: unknown } }) => event.output }),
          }),
        },
        end: { type: 'final' },
      },
    }),
    script: [{ done: 1 }, { done: { two: 2 } }],
  },
  {
    name: 'onError takes the other way',
    machine: s().createMachine({
      id: 'error',
      context: {},
      initial: 'a',
      states: {
        a: {
          invoke: tool('a', 'good', {
            onError: { target: 'bad', actions: assign({ why: 'failed' }) },
          }),
        },
        good: { type: 'final' },
        bad: { type: 'final' },
      },
    }),
    script: [{ error: 'no' }],
  },
  {
    name: 'an error that nobody handles fails the machine',
    machine: s().createMachine({
      id: 'unhandled',
      context: {},
      initial: 'a',
      states: { a: { invoke: tool('a', 'b') }, b: { type: 'final' } },
    }),
    script: [{ error: 'no' }],
  },
  {
    name: 'guards choose by the answer',
    machine: s().createMachine({
      id: 'guards',
      context: {},
      initial: 'a',
      states: {
        a: { invoke: tool('a', [{ guard: 'isBig', target: 'big' }, { target: 'small' }]) },
        big: { type: 'final' },
        small: { type: 'final' },
      },
    }),
    script: [{ done: 11 }],
  },
  {
    name: 'parallel regions, done when both are',
    machine: s().createMachine({
      id: 'parallel',
      context: {},
      initial: 'both',
      states: {
        both: {
          type: 'parallel',
          onDone: 'end',
          states: {
            left: {
              initial: 'l',
              states: { l: { invoke: tool('l', 'ok') }, ok: { type: 'final' } },
            },
            right: {
              initial: 'r',
              states: { r: { invoke: tool('r', 'ok') }, ok: { type: 'final' } },
            },
          },
        },
        end: { type: 'final' },
      },
    }),
    script: [{ done: 1 }, { done: 2 }],
  },
  {
    name: 'nested states with entry and exit counted',
    machine: s().createMachine({
      id: 'nested',
      context: { n: 0 },
      initial: 'outer',
      states: {
        outer: {
          entry: 'count',
          exit: 'count',
          initial: 'x',
          onDone: 'end',
          states: {
            x: { entry: 'count', exit: 'count', invoke: tool('x', 'y') },
            y: { entry: 'count', invoke: tool('y', 'z') },
            z: { type: 'final' },
          },
        },
        end: { type: 'final' },
      },
    }),
    script: [{ done: 1 }, { done: 2 }],
  },
  {
    name: 'shallow history comes back where it left',
    machine: s().createMachine({
      id: 'history',
      context: { n: 0 },
      initial: 'work',
      states: {
        work: {
          initial: 'one',
          states: {
            one: { invoke: tool('one', 'two') },
            two: { invoke: tool('two', '#history.break') },
            back: { type: 'history' },
          },
        },
        break: {
          entry: 'count',
          invoke: tool('rest', [
            {
              guard: ({ context }: { context: Record<string, unknown> }) => Number(context.n) < 2,
              target: 'work.back',
            },
            { target: 'end' },
          ]),
        },
        end: { type: 'final' },
      },
    }),
    script: [{ done: 1 }, { done: 2 }, { done: 3 }, { done: 4 }, { done: 5 }],
  },
  {
    name: 'deep history over two levels',
    machine: s().createMachine({
      id: 'deep',
      context: { n: 0 },
      initial: 'work',
      states: {
        work: {
          initial: 'p',
          states: {
            p: {
              initial: 'q',
              states: { q: { invoke: tool('q', 'r') }, r: { invoke: tool('r', '#deep.break') } },
            },
            back: { type: 'history', history: 'deep' },
          },
        },
        break: {
          entry: 'count',
          invoke: tool('rest', [
            {
              guard: ({ context }: { context: Record<string, unknown> }) => Number(context.n) < 2,
              target: 'work.back',
            },
            { target: 'end' },
          ]),
        },
        end: { type: 'final' },
      },
    }),
    script: [{ done: 1 }, { done: 2 }, { done: 3 }, { done: 4 }, { done: 5 }],
  },
  {
    name: 'always transitions run through',
    machine: s().createMachine({
      id: 'always',
      context: { n: 0 },
      initial: 'a',
      states: {
        a: { invoke: tool('a', { target: 'loop', actions: 'count' }) },
        loop: {
          always: [
            {
              guard: ({ context }) => Number(context.n) < 5,
              target: 'loop',
              reenter: true,
              actions: 'count',
            },
            { target: 'end' },
          ],
        },
        end: { type: 'final' },
      },
    }),
    script: [{ done: 1 }],
  },
  {
    name: 'a delayed transition fires when its time has come',
    machine: s().createMachine({
      id: 'delayed',
      context: {},
      initial: 'a',
      states: {
        a: { after: { 5000: 'b' } },
        b: { after: { 1000: 'end' } },
        end: { type: 'final' },
      },
    }),
    script: [{ waitMs: 5_000 }, { waitMs: 1_000 }],
  },
  {
    name: 'an answer in time cancels the time-out of its state',
    machine: s().createMachine({
      id: 'timeout',
      context: {},
      initial: 'a',
      states: {
        a: { invoke: tool('a', 'b'), after: { 60000: 'late' } },
        b: { invoke: tool('b', 'end'), after: { 60000: 'late' } },
        late: { type: 'final' },
        end: { type: 'final' },
      },
    }),
    script: [{ done: 1 }, { waitMs: 59_000 }, { done: 2 }],
  },
  {
    name: 'a time-out cancels the invoke it interrupts',
    machine: s().createMachine({
      id: 'interrupt',
      context: {},
      initial: 'a',
      states: {
        a: { invoke: tool('a', 'end'), after: { 1000: 'fallback' } },
        fallback: { invoke: tool('f', 'end') },
        end: { type: 'final' },
      },
    }),
    script: [{ waitMs: 1_000 }, { done: 'instead' }],
  },
  {
    name: 're-entering a state invokes again',
    machine: s().createMachine({
      id: 'again',
      context: { n: 0 },
      initial: 'a',
      states: {
        a: {
          entry: 'count',
          invoke: tool('a', [
            {
              guard: ({ context }: { context: Record<string, unknown> }) => Number(context.n) < 3,
              target: 'a',
              reenter: true,
            },
            { target: 'end' },
          ]),
        },
        end: { type: 'final' },
      },
    }),
    script: [{ done: 1 }, { done: 2 }, { done: 3 }],
  },
  {
    name: 'raised events are handled in the same step',
    machine: s().createMachine({
      id: 'raised',
      context: {},
      initial: 'a',
      states: {
        a: { invoke: tool('a', { actions: raise({ type: 'GO' }) }), on: { GO: 'end' } },
        end: { type: 'final' },
      },
    }),
    script: [{ done: 1 }],
  },
  {
    name: 'final output is mapped',
    machine: s().createMachine({
      id: 'output',
      context: { kept: 7 },
      initial: 'a',
      output: ({ event }) => ({ got: (event as { output?: unknown }).output }),
      states: {
        a: { invoke: tool('a', 'end') },
        end: { type: 'final', output: ({ context }) => context.kept },
      },
    }),
    script: [{ done: 1 }],
  },
];

/** A plain actor whose invokes are answered by hand and whose clock is turned by hand. */
class Plain {
  readonly actor;
  readonly #open: {
    resolve: (value: unknown) => void;
    reject: (error: unknown) => void;
    isOpen: boolean;
  }[] = [];
  readonly #timers: { at: number; fire: () => void; id: number }[] = [];
  #now = 0;

  constructor(machine: AnyStateMachine) {
    const answered = fromPromise(
      ({ signal }) =>
        new Promise((resolve, reject) => {
          const open = { resolve, reject, isOpen: true };
          this.#open.push(open);
          signal.addEventListener('abort', () => {
            open.isOpen = false;
          });
        }),
    );
    const clock = {
      setTimeout: (fire: () => void, ms: number) => {
        const id = this.#timers.length + 1;
        this.#timers.push({ at: this.#now + ms, fire, id });
        return id;
      },
      clearTimeout: (id: number) => {
        const at = this.#timers.findIndex((timer) => timer.id === id);
        if (at >= 0) this.#timers[at]!.at = Number.POSITIVE_INFINITY;
      },
    };
    this.actor = createActor(
      machine.provide({
        actors: { model: answered, tool: answered, agent: answered, human: answered },
      } as never),
      {
        clock: clock as never,
        input: {} as never,
      },
    );
    this.actor.subscribe({ error: () => undefined });
    this.actor.start();
  }
  async answer(entry: { done: unknown } | { error: string } | { waitMs: number }): Promise<void> {
    if ('waitMs' in entry) {
      this.#now += entry.waitMs;
      for (const timer of this.#timers.filter(({ at }) => at <= this.#now)) {
        timer.at = Number.POSITIVE_INFINITY;
        timer.fire();
      }
    } else {
      const open = this.#open.find(({ isOpen }) => isOpen)!;
      open.isOpen = false;
      if ('done' in entry) open.resolve(entry.done);
      else open.reject(entry.error);
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The durable session: every message goes through stored JSON. */
class Durable {
  text: string | undefined;
  at = 0;
  #sequence = 0;
  readonly #definition: Definition;
  constructor(machine: AnyStateMachine) {
    this.#definition = { bundle: bundleOf(), machine };
    this.say({
      kind: 'task',
      task: 't' as TaskId,
      agent: 'clerk' as AgentName,
      revision: 'r' as Revision,
      input: '{}',
      isKeyed: false,
    });
  }
  get record(): SessionRecord {
    return parseRecord(this.text!);
  }
  say(message: Message): void {
    this.#sequence += 1;
    const stepped = step(
      this.text ? this.record : undefined,
      { message, at: this.at, position: { incarnation: 0, sequence: this.#sequence, index: 0 } },
      this.#definition,
      address,
    );
    if (stepped.kind === 'applied') this.text = JSON.stringify(stepped.record);
  }
  answer(entry: { done: unknown } | { error: string } | { waitMs: number }): void {
    if ('waitMs' in entry) {
      this.at += entry.waitMs;
      this.say({ kind: 'wake' });
      return;
    }
    const effect = Object.keys(this.record.pending)[0] as EffectId;
    if ('done' in entry)
      this.say({
        kind: 'toolReturned',
        effect,
        value: entry.done,
        bytes: 1,
        truncated: false,
        latencyMs: 1,
        attempts: 1,
        executor: 'x',
      });
    else
      this.say({
        kind: 'toolFailed',
        effect,
        failure: { class: 'permanent', code: 'NO', message: entry.error },
        latencyMs: 1,
        attempts: 1,
        executor: 'x',
      });
  }
}

const viewOfPlain = ({ actor }: Plain) => {
  const snapshot = actor.getSnapshot() as {
    value: unknown;
    context: unknown;
    status: string;
    output: unknown;
  };
  return JSON.parse(
    JSON.stringify({
      value: snapshot.value,
      context: snapshot.context,
      status:
        snapshot.status === 'done'
          ? 'completed'
          : snapshot.status === 'error'
            ? 'failed'
            : 'active',
      output: snapshot.output ?? null,
    }),
  ) as object;
};
const viewOfDurable = ({ record }: Durable, plain: object) => ({
  // A failed session shows its end as its state; where the machine stood is in the plain world's value.
  value: record.status === 'failed' ? (plain as { value: unknown }).value : record.value,
  context: record.context,
  status: record.status,
  output:
    record.output === undefined
      ? null
      : typeof record.output === 'string'
        ? tryJson(record.output)
        : record.output,
});
const tryJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
};

describe('the durable host and a plain actor agree', () => {
  test.each(cases.map((one) => [one.name, one] as const))(
    '%s',
    async (_name, { machine, script }) => {
      const plain = new Plain(machine);
      const durable = new Durable(machine);
      expect(viewOfDurable(durable, viewOfPlain(plain))).toEqual(viewOfPlain(plain));

      for (const entry of script) {
        await plain.answer(entry);
        durable.answer(entry);
        expect(viewOfDurable(durable, viewOfPlain(plain))).toEqual(viewOfPlain(plain));
      }
      expect(durable.record.status).not.toBe('active');
      expect(durable.record.pending).toEqual({});
    },
  );

  test('at least twelve different machines are compared', () => {
    expect(cases.length).toBeGreaterThanOrEqual(12);
  });
});

test('the reused scope gives the same snapshots and actions as the public transition()', () => {
  for (const { machine } of cases) {
    const driver = driverOf(machine);
    const bare = driver.machine;
    const [plainStart, plainActions] = initialTransition(bare, {} as never);
    const ours = driver.initial({});
    expect(JSON.stringify(ours.snapshot)).toBe(JSON.stringify(plainStart));
    expect(ours.actions.map(({ type }) => type)).toEqual(plainActions.map(({ type }) => type));
    const event = { type: 'xstate.done.actor.a', output: 11, actorId: 'a' };
    const [plainNext] = transition(bare, plainStart as never, event as never);
    const next = driver.transition(ours.snapshot, event);
    expect(JSON.stringify(next.snapshot)).toBe(JSON.stringify(plainNext));
  }
});

test('the agent machine driven by the reused scope is the agent machine', () => {
  expect(driverOf(agentMachine).initial({}).snapshot.value).toBe(
    initialTransition(agentMachine, {} as never)[0].value,
  );
});

test('a machine that invokes an inline actor is refused by name', () => {
  const machine = createMachine({
    id: 'inline',
    initial: 'a',
    states: { a: { invoke: { id: 'x', src: fromPromise(async () => 1) } } },
  });

  expect(() => new Durable(machine)).toThrow(
    /state a invokes an inline actor; a durable machine starts model, tool, agent, human only/,
  );
});
