import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  type AnyMachineSnapshot,
  type AnyStateMachine,
  assign,
  createMachine,
  raise,
  setup,
} from 'xstate';
import type { AgentContext } from '../../services/core/session/agent-context.ts';
import { type AgentEvent, agentMachine } from '../../services/core/session/agent-machine.ts';
import { driverOf, type Transitioned } from '../../services/core/session/machine-host.ts';

const machine = agentMachine as unknown as AnyStateMachine;
const short = driverOf(machine, true);
const long = driverOf(machine);
const states = Object.keys(machine.states);
const events = [...machine.events, 'nothing-it-knows'] as AgentEvent['type'][];

const contextOf = (more: Partial<AgentContext> = {}) =>
  ({
    task: 't',
    queue: [],
    spent: { steps: 1 },
    from: 0,
    length: 1,
    calls: {},
    approvals: {},
    repeats: {},
    succeeded: 0,
    failures: 0,
    malformed: 0,
    ...more,
  }) as unknown as AgentContext;

/** An event that answers every guard as it is told to. */
const eventOf = (type: AgentEvent['type'], says: readonly boolean[]): AgentEvent => {
  const [
    stops,
    loops,
    escalates,
    answers,
    hasCalls,
    hasApprovals,
    isStuck,
    isFull,
    thinks,
    summarises,
    mustShorten,
  ] = says;
  const open = { call: 'c', tool: 't' };
  const context = contextOf({
    length: 2,
    calls: hasCalls ? { a: open } : {},
    approvals: hasApprovals ? ({ b: open } as never) : {},
    failures: isStuck ? 9 : 0,
  });
  return {
    type,
    plan: {
      context,
      entries: [],
      effects: [{ kind: 'runTool', id: 'a' } as never],
      ...(stops ? { stop: { code: 'NO', reason: 'told to' } } : {}),
      ...(loops ? { isLooping: 'the same again' } : {}),
      ...(answers ? { answer: 'done' } : {}),
    },
    think: () =>
      thinks
        ? {
            ok: true,
            context: contextOf({ length: 3 }),
            effect: { kind: 'callModel', id: 'm' } as never,
          }
        : { ok: false, code: 'LIMIT', reason: 'no more' },
    isContextFull: () => isFull ?? false,
    mustShorten: () => mustShorten ?? false,
    summarise: () =>
      summarises
        ? {
            ok: true,
            context: contextOf({ length: 4 }),
            effect: { kind: 'callModel', id: 's' } as never,
          }
        : { ok: false, code: 'LIMIT', reason: 'no more' },
    escalate: (reason) => ({
      context: contextOf({ reason } as never),
      effect: { kind: 'askHuman', id: 'h' } as never,
    }),
    loop: { failuresMax: 3, escalates: escalates ?? false },
  };
};

const seen = ({ snapshot, actions, choices }: Transitioned) => ({
  snapshot: JSON.parse(JSON.stringify(snapshot)) as unknown,
  nodes: (snapshot as unknown as { _nodes: { id: string }[] })._nodes.map(({ id }) => id),
  actions,
  choices,
});

test('the default agent goes the short way where it goes the long way, from every state, whatever its guards say', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...states),
      fc.array(
        fc.tuple(
          fc.constantFrom(...events),
          fc.array(fc.boolean(), { minLength: 10, maxLength: 10 }),
        ),
        { maxLength: 6 },
      ),
      (from, heard) => {
        const start = {
          value: from,
          context: contextOf(),
          status: machine.states[from]!.type === 'final' ? 'done' : 'active',
        };
        let [left, right]: AnyMachineSnapshot[] = [short.restore(start), long.restore(start)];
        for (const [type, says] of heard) {
          const [one, other] = [
            short.transition(left!, eventOf(type, says) as never),
            long.transition(right!, eventOf(type, says) as never),
          ];
          expect(seen(one)).toEqual(seen(other));
          [left, right] = [one.snapshot, other.snapshot];
        }
      },
    ),
    { numRuns: 2_000 },
  );
});

test('a machine that does something by itself, or has more than one level, is not taken for a flat one', () => {
  const base = { id: 'm', initial: 'a' };
  for (const a of [
    { entry: 'hello' },
    { exit: 'bye' },
    { always: 'b' },
    { after: { 10: 'b' } },
    { invoke: { src: 'tool' } },
    { initial: 'c', states: { c: {} } },
    { tags: ['t'] },
  ])
    expect(() =>
      driverOf(createMachine({ ...base, states: { a, b: {} } } as never) as never, true),
    ).toThrow('is not flat');
  for (const action of [assign({}), raise({ type: 'go' } as never), () => undefined])
    expect(() =>
      driverOf(
        createMachine({
          ...base,
          states: { a: { on: { go: { target: 'b', actions: [action] } } }, b: {} },
        } as never) as never,
        true,
      ),
    ).toThrow('is not flat');
  const raises = setup({ actions: { again: raise({ type: 'go' } as never) } }).createMachine({
    ...base,
    states: { a: { on: { go: { target: 'b', actions: ['again'] } } }, b: {} },
  });
  expect(() => driverOf(raises as never, true)).toThrow('is not flat');
});
