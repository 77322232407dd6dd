/** Machines by number: nested, parallel, with history, guards, delays, invokes and every action that a session performs. */
import {
  type AnyStateMachine,
  and,
  assign,
  cancel,
  emit,
  enqueueActions,
  fromPromise,
  log,
  not,
  or,
  raise,
  sendTo,
  setup,
  spawnChild,
  stateIn,
  stopChild,
} from 'xstate';

/** Numbers that follow from a seed (mulberry32). */
export function chanceOf(seed: number) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
  const below = (count: number) => Math.floor(next() * count);
  return {
    below,
    is: (share: number) => next() < share,
    one: <Item>(items: readonly Item[]): Item => items[below(items.length)]!,
    some: <Item>(most: number, make: () => Item): Item[] =>
      Array.from({ length: below(most + 1) }, make),
  };
}
export type Chance = ReturnType<typeof chanceOf>;

export const outside = ['A', 'B', 'C', 'D.x', 'D.y'] as const;
const inner = ['R1', 'R2', 'T1', 'T2'] as const;
const heard = [...outside, ...inner, 'D.*', '*'] as const;

type Context = { n: number; trace: string[]; nothing?: undefined; error?: unknown; last?: unknown };
type Args = { context: Context; event: { type: string; output?: unknown; error?: Error } };

const stepsMax = 24; // raises of one session: without a bound a machine may go in a circle for ever

const note = (word: string) =>
  assign({
    trace: ({ context, event }: Args) => [...context.trace, `${word}:${event.type}`].slice(-12),
    n: ({ context }: Args) => context.n + 1,
  });

/** @returns a machine; the same one for the same number */
export function machineOf(seed: number): AnyStateMachine {
  const chance = chanceOf(seed);
  const ids: string[] = [];
  let count = 0;
  const guards = {
    isEven: ({ context }: Args) => context.n % 2 === 0,
    isLong: ({ context }: Args) => context.trace.length > 4,
    isBoth: and(['isEven', not('isLong')]),
    throws: () => {
      throw new Error('a guard that throws');
    },
  };
  const guardOf = (): unknown =>
    chance.one([
      () => 'isEven',
      () => 'isLong',
      () => 'isBoth',
      () => ({ type: 'isEven', params: { any: 1 } }),
      () => or(['isLong', ({ context }: Args) => context.n < 6]),
      () => not('isEven'),
      () => stateIn(`#${chance.one(ids)}`),
      () =>
        ({ event }: Args) =>
          event.type.length < 12,
      () => (chance.is(0.04) ? 'throws' : 'isEven'),
    ])();
  const delayOf = (): unknown =>
    chance.one([
      () => chance.one([0, 5, 10, 10, 20]),
      () => 'brief',
      () =>
        ({ context }: Args) =>
          5 + (context.n % 3) * 5,
    ])();
  /** Done only so often: in a circle a plain actor would never come back. */
  const bounded = (act: (enqueue: never) => void) =>
    enqueueActions((({
      context,
      enqueue,
    }: {
      context: Context;
      enqueue: { assign(by: unknown): void };
    }) => {
      if (context.n > stepsMax) return;
      enqueue.assign({ n: context.n + 1 });
      act(enqueue as never);
    }) as never);
  const eventOf = () => ({ type: chance.one(inner), with: chance.below(3) });
  const actionOf = (): unknown =>
    chance.one<() => unknown>([
      () => 'note',
      () => ({ type: 'noteWord', params: { word: `w${chance.below(9)}` } }),
      () => note('inline'),
      () => {
        const event = eventOf();
        return bounded((enqueue: { raise(event: unknown): void }) => enqueue.raise(event));
      },
      () => {
        const event = eventOf();
        const id = chance.is(0.5) ? { id: chance.one(['i', 'j', 'wall']) } : {};
        const delayed = raise(event as never, { delay: delayOf(), ...id } as never);
        return bounded((enqueue: (action: unknown) => void) => enqueue(delayed));
      },
      () => cancel(chance.one(['i', 'j', 'wall'])),
      () => {
        const event = eventOf();
        return bounded((enqueue: { sendTo(to: unknown, event: unknown): void }) =>
          enqueue.sendTo(({ self }: { self: unknown }) => self, event),
        );
      },
      () => {
        const event = eventOf();
        const id = chance.is(0.5) ? { id: chance.one(['i', 'j']) } : {};
        const sent = sendTo(
          ({ self }) => self,
          event as never,
          { delay: delayOf(), ...id } as never,
        );
        return bounded((enqueue: (action: unknown) => void) => enqueue(sent));
      },
      () => emit({ type: 'told', word: `e${chance.below(5)}` } as never),
      () => emit((({ context }: Args) => ({ type: 'told', n: context.n })) as never),
      () => log(`line ${chance.below(5)}`),
      () => log((({ context }: Args) => `n is ${context.n}`) as never, 'label'),
      () => {
        count += 1;
        const own = count;
        return spawnChild('tool', {
          id: chance.is(0.1) ? `s${count}` : ({ context }: Args) => `s${own}-${context.n}`,
          input: { tool: 'look', arguments: { n: count } },
        } as never);
      },
      () => stopChild(`s${Math.max(1, count - chance.below(2))}`),
      () => assign({ nothing: undefined, last: ({ event }: Args) => event.output } as never),
      () => assign({ error: ({ event }: Args) => event.error } as never),
      () =>
        enqueueActions((({
          check,
          enqueue,
        }: {
          check(guard: unknown): boolean;
          enqueue: { assign(by: unknown): void };
        }) => {
          if (check('isEven')) enqueue.assign({ last: 'even' });
        }) as never),
      () =>
        assign({
          last: ({ self }: { self: { getSnapshot(): { context?: Context } | undefined } }) =>
            self.getSnapshot()?.context?.n ?? -1,
        } as never),
      () =>
        chance.is(0.03)
          ? assign(() => {
              throw new Error('an assign that throws');
            })
          : 'note',
    ])();
  const transitionOf = (): unknown => ({
    ...(chance.is(0.75) ? { target: `#${chance.one(ids)}` } : {}),
    ...(chance.is(0.35) ? { guard: guardOf() } : {}),
    ...(chance.is(0.6) ? { actions: chance.some(2, actionOf) } : {}),
    ...(chance.is(0.2) ? { reenter: true } : {}),
  });
  /** Of what the machine causes itself: in a circle it would never come to rest. */
  const boundedOf = (): unknown => ({
    ...(transitionOf() as object),
    guard: ({ context }: Args) => context.n < stepsMax,
    actions: [note('again'), ...chance.some(1, actionOf)],
  });
  const onOf = () =>
    Object.fromEntries(
      chance.some(3, () => {
        const type = chance.one(heard);
        return [type, chance.some(2, type === '*' ? boundedOf : transitionOf)];
      }),
    );
  const invokeOf = (path: string, index: number): unknown => ({
    ...(chance.is(0.8) ? { id: `v-${path}-${index}` } : {}),
    ...(chance.is(0.15) ? { systemId: `sys-${path}-${index}` } : {}),
    src: 'tool',
    input: ({ context }: Args) => ({ tool: 'look', arguments: { n: context.n } }),
    ...(chance.is(0.8) ? { onDone: transitionOf() } : {}),
    ...(chance.is(0.7) ? { onError: transitionOf() } : {}),
  });

  interface Shape {
    readonly id: string;
    readonly type: 'atomic' | 'compound' | 'parallel' | 'final' | 'history';
    readonly states: Record<string, Shape>;
  }
  const shapeOf = (path: string, depth: number): Shape => {
    ids.push(path);
    const type =
      depth === 0
        ? 'compound'
        : depth > 2
          ? 'atomic'
          : chance.one(['atomic', 'atomic', 'compound', 'parallel'] as const);
    const states: Record<string, Shape> = {};
    if (type === 'compound' || type === 'parallel') {
      const most = 2 + chance.below(3);
      for (let index = 0; index < most; index += 1) {
        const key = `k${index}`;
        states[key] = shapeOf(`${path}-${key}`, depth + 1);
      }
      if (type === 'compound' && chance.is(0.5)) {
        const id = `${path}-end`;
        ids.push(id);
        states.end = { id, type: 'final', states: {} };
      }
      if (depth > 0 && type === 'compound' && chance.is(0.4)) {
        const id = `${path}-back`;
        ids.push(id);
        states.back = { id, type: 'history', states: {} };
      }
    }
    return { id: path, type, states };
  };
  const configOf = ({ id, type, states }: Shape): object => {
    if (type === 'final') return { id, type, output: ({ context }: Args) => context.n };
    if (type === 'history') return { id, type, history: chance.one(['shallow', 'deep']) };
    const keys = Object.keys(states).filter((key) => states[key]!.type !== 'history');
    const isBelow = Object.keys(states).length > 0;
    return {
      id,
      ...(type === 'parallel' ? { type } : {}),
      ...(type === 'compound' ? { initial: keys[0] } : {}),
      ...(isBelow
        ? {
            states: Object.fromEntries(
              Object.entries(states).map(([key, one]) => [key, configOf(one)]),
            ),
          }
        : {}),
      on: onOf(),
      entry: chance.some(2, actionOf),
      exit: chance.some(1, actionOf),
      tags: chance.some(1, () => 'tag'),
      ...(chance.is(0.4)
        ? {
            after: Object.fromEntries(
              chance.some(2, () => [
                chance.one(['5', '10', '20', 'brief', 'varied']),
                transitionOf(),
              ]),
            ),
          }
        : {}),
      ...(chance.is(0.4)
        ? { invoke: [0, 1].slice(chance.below(3)).map((index) => invokeOf(id, index)) }
        : {}),
      ...(chance.is(0.15)
        ? {
            always: {
              guard: ({ context }: Args) =>
                context.n > 3 && context.n < stepsMax && context.n % 3 === 0,
              target: `#${chance.one(ids)}`,
              actions: note('always'),
            },
          }
        : {}),
      ...(isBelow && chance.is(0.6) ? { onDone: boundedOf() } : {}),
    };
  };
  const shape = shapeOf('m', 0);
  const withInvokes = configOf(shape) as { invoke?: { id?: string }[] };
  return setup({
    types: { context: {} as Context },
    actors: { tool: fromPromise(async () => ({})) },
    guards: guards as never,
    delays: { brief: 7, varied: ({ context }: Args) => (context.n % 2 === 0 ? 5 : 10) } as never,
    actions: {
      note: note('note') as never,
      noteWord: assign({
        trace: ({ context }: Args, { word }: { word: string }) =>
          [...context.trace, word].slice(-12),
      } as never) as never,
    },
  }).createMachine({
    context: { n: 0, trace: [], ...(chance.is(0.5) ? { nothing: undefined } : {}) },
    output: ({ context, event }: Args) => ({ n: context.n, by: event.output }),
    ...withInvokes,
  } as never) as unknown as AnyStateMachine;
}
