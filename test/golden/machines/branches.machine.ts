/** Parallel regions, history, a sub-agent, a model, a person, a time-out and a raised event. */
import { assign, fromPromise, raise, setup } from 'xstate';

type Context = { words: string[]; rounds: number };

export default setup({
  types: { context: {} as Context, events: {} as { type: string; output?: unknown } },
  actors: {
    model: fromPromise<unknown, { prompt: string }>(async () => ''),
    tool: fromPromise<unknown, { tool: string; arguments: object }>(async () => ({})),
    agent: fromPromise<unknown, { agent: string; input: string }>(async () => ''),
    human: fromPromise<unknown, string>(async () => ({})),
  },
  actions: {
    keep: assign({
      words: ({ context, event }) => [...context.words, JSON.stringify(event.output ?? event.type)],
    }),
    count: assign({ rounds: ({ context }) => context.rounds + 1 }),
  },
}).createMachine({
  id: 'branches',
  version: '3',
  context: { words: [], rounds: 0 },
  initial: 'both',
  output: ({ context }) => context,
  states: {
    both: {
      type: 'parallel',
      onDone: 'think',
      states: {
        left: {
          initial: 'look',
          states: {
            look: {
              invoke: {
                id: 'look',
                src: 'tool',
                input: { tool: 'look', arguments: { side: 'left' } },
                onDone: { target: 'ok', actions: 'keep' },
                onError: { target: 'ok', actions: 'keep' },
              },
            },
            ok: { type: 'final' },
          },
        },
        right: {
          initial: 'help',
          states: {
            help: {
              invoke: {
                id: 'help',
                src: 'agent',
                input: { agent: 'helper', input: 'please' },
                onDone: { target: 'ok', actions: 'keep' },
                onError: { target: 'ok', actions: 'keep' },
              },
              after: { 60000: { target: 'ok', actions: 'keep' } },
            },
            ok: { type: 'final' },
          },
        },
      },
    },
    think: {
      entry: 'count',
      initial: 'first',
      onDone: 'done',
      states: {
        first: {
          invoke: {
            id: 'think',
            src: 'model',
            input: ({ context }) => ({ prompt: `round ${context.rounds}` }),
            onDone: { target: 'second', actions: 'keep' },
            onError: { target: 'end', actions: 'keep' },
          },
        },
        second: {
          invoke: {
            id: 'ask',
            src: 'human',
            input: 'go on?',
            onDone: [
              { guard: ({ context }) => context.rounds < 2, target: '#branches.rest' },
              { target: 'end', actions: 'keep' },
            ],
            onError: 'end',
          },
        },
        end: { type: 'final' },
        back: { type: 'history' },
      },
    },
    rest: {
      entry: raise({ type: 'remind' }, { id: 'remind', delay: 5_000 }),
      on: { remind: { target: 'think.back', actions: 'keep' } },
    },
    done: { type: 'final' },
  },
});
