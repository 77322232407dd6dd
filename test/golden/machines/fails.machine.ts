/** An error that nobody handles fails the machine. */
import { fromPromise, setup } from 'xstate';

export default setup({
  actors: { tool: fromPromise<unknown, { tool: string; arguments: object }>(async () => ({})) },
}).createMachine({
  id: 'fails',
  context: {},
  initial: 'go',
  states: {
    go: { invoke: { src: 'tool', input: { tool: 'look', arguments: {} }, onDone: 'end' } },
    end: { type: 'final' },
  },
});
