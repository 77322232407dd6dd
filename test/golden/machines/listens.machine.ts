/** Events from outside, timers due together, a child of its own, errors and fields that are undefined. */
import { assign, emit, fromPromise, log, raise, sendTo, setup, spawnChild, stopChild } from 'xstate';

type Context = {
  heard: string[];
  error: unknown;
  nothing: undefined;
};

export default setup({
  types: { context: {} as Context, events: {} as { type: string; error?: unknown } },
  actors: { tool: fromPromise<unknown, { tool: string; arguments: object }>(async () => ({})) },
  actions: {
    hear: assign({
      heard: ({ context, event }: { context: Context; event: { type: string } }) => [
        ...context.heard,
        event.type,
      ],
    }),
  },
}).createMachine({
  id: 'listens',
  version: '1',
  context: { heard: [], error: undefined, nothing: undefined },
  type: 'parallel',
  output: ({ context }) => ({ heard: context.heard, failed: context.error instanceof Error }),
  states: {
    zebra: {
      initial: 'on',
      states: { on: { after: { 500: { target: 'off', actions: 'hear' } } }, off: {} },
    },
    ant: {
      initial: 'on',
      states: { on: { after: { 500: { target: 'off', actions: 'hear' } } }, off: {} },
    },
    desk: {
      initial: 'waits',
      states: {
        waits: {
          entry: [
            raise({ type: 'REMIND' }, { delay: 100 }),
            raise({ type: 'REMIND' }, { delay: 200 }),
            spawnChild('tool', { id: 'aside', input: { tool: 'look', arguments: { n: 1 } } }),
          ],
          on: {
            REMIND: { actions: ['hear', emit({ type: 'reminded' }), log('reminded')] },
            NOTE: { actions: ['hear', sendTo(({ self }) => self, { type: 'NOTED' })] },
            NOTED: { actions: 'hear' },
            STOP: { actions: stopChild('aside') },
            'xstate.done.actor.aside': { actions: 'hear' },
            PAID: 'pays',
          },
        },
        pays: {
          invoke: {
            id: 'pay',
            src: 'tool',
            input: { tool: 'pay', arguments: { amount: 5 } },
            onDone: 'done',
            onError: {
              target: 'done',
              actions: assign({ error: ({ event }) => event.error }),
            },
          },
        },
        done: { type: 'final' },
      },
      onDone: { target: '#listens.desk', guard: () => false },
    },
  },
});
