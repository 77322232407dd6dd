/**
 * A fixed pipeline as an XState machine: reserve, wait, ask a person, ship; and undo when the person says no.
 *
 * It runs unchanged under a plain `createActor` (give it actors for `tool` and `human`). Here each invoke is a durable
 * effect and each `after` a durable timer: kill any process at any moment, and it goes on where it stopped.
 */
import { assign, fromPromise, setup } from 'xstate';

interface Context {
  readonly order: string;
  readonly steps: readonly string[];
}

export default setup({
  types: { context: {} as Context, input: {} as { order: string } },
  actors: {
    tool: fromPromise<unknown, { tool: string; arguments: object }>(async () => ({})),
    human: fromPromise<{ approved: boolean }, { question: string; expiresMs?: number }>(
      async () => ({ approved: true }),
    ),
  },
  actions: {
    note: assign({ steps: ({ context }, { step }: { step: string }) => [...context.steps, step] }),
  },
}).createMachine({
  id: 'order',
  version: '1',
  context: ({ input }) => ({ order: input.order, steps: [] }),
  initial: 'reserve',
  output: ({ context }) => context,
  states: {
    reserve: {
      invoke: {
        id: 'reserve',
        src: 'tool',
        input: ({ context }) => ({ tool: 'reserve', arguments: { order: context.order } }),
        onDone: { target: 'cool', actions: { type: 'note', params: { step: 'reserved' } } },
        onError: 'failed',
      },
    },
    cool: {
      after: { 2000: { target: 'ask', actions: { type: 'note', params: { step: 'cooled' } } } },
    },
    ask: {
      invoke: {
        id: 'ask',
        src: 'human',
        input: ({ context }) => ({ question: `ship ${context.order}?`, expiresMs: 86_400_000 }),
        onDone: [
          { guard: ({ event }) => event.output.approved, target: 'ship' },
          { target: 'undo' },
        ],
        onError: 'undo',
      },
    },
    ship: {
      invoke: {
        id: 'ship',
        src: 'tool',
        input: ({ context }) => ({ tool: 'ship', arguments: { order: context.order } }),
        onDone: { target: 'done', actions: { type: 'note', params: { step: 'shipped' } } },
        onError: 'undo',
      },
    },
    undo: {
      invoke: {
        id: 'undo',
        src: 'tool',
        input: ({ context }) => ({ tool: 'cancel', arguments: { order: context.order } }),
        onDone: { target: 'failed', actions: { type: 'note', params: { step: 'undone' } } },
        onError: 'failed',
      },
    },
    done: { type: 'final' },
    failed: { type: 'final' },
  },
});
