import { assign, fromPromise, raise, sendTo, setup, stopChild } from 'xstate';

const tool = fromPromise<unknown, { tool: string; arguments: object }>(async () => ({}));
const look = { tool: 'look', arguments: {} };

/** It stops its own invoke, begins it anew, and leaves another within the step that began it. */
export default setup({
  types: { context: {} as { children: readonly string[] } },
  actors: { tool },
}).createMachine({
  id: 'stops',
  context: { children: [] },
  initial: 'open',
  states: {
    open: {
      invoke: { id: 'look', src: 'tool', input: look },
      on: {
        STOP: { actions: stopChild('look') },
        SEE: {
          actions: assign({ children: ({ self }) => Object.keys(self.getSnapshot().children) }),
        },
        NAME: {
          actions: [
            raise({ type: 'LATE' }, { id: 'name', delay: 1_000 }),
            sendTo('look', { type: 'HINT' }, { id: 'name', delay: 2_000 }),
          ],
        },
        AGAIN: { target: 'open', reenter: true },
        GO: 'between',
      },
    },
    between: {
      invoke: { id: 'pass', src: 'tool', systemId: 'passing', input: look },
      always: 'ready',
    },
    ready: { on: { END: 'ended' } },
    ended: { type: 'final' },
  },
});
