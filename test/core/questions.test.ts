/** What a user's own machine asks a person, as the person sees it. */
import { expect, test } from 'vitest';
import { fromPromise, setup } from 'xstate';
import { approvalText } from '../../services/cli/views.ts';
import { limits } from '../../services/core/limits.ts';
import { summaryOf } from '../../services/core/session/summary.ts';
import { approvalsOf } from '../../services/runtime/approvals.ts';
import { definitionOf, Talk, task } from '../support/sessions.ts';

const machineAsking = (question: string) =>
  setup({
    actors: { human: fromPromise<object, { question: string }>(async () => ({})) },
  }).createMachine({
    id: 'asking',
    version: '1',
    initial: 'ask',
    states: {
      ask: { invoke: { id: 'ask', src: 'human', input: { question }, onDone: 'done' } },
      done: { type: 'final' },
    },
  });

function asked(question: string, behaviour: number) {
  const { bundle } = definitionOf();
  const machine = machineAsking(question);
  const talk = new Talk({ bundle: { ...bundle, behaviour }, machine } as never);
  talk.say(task());
  return talk;
}

const long = `${'Customer 4711 asks for a refund. '.repeat(6)}Pay back EUR 10000 to account X?`;

test.each([2, 3])('a question of behaviour %i is shown as arguments', (behaviour) => {
  const [approval] = approvalsOf(asked('ship\nhash x?', behaviour).record!);
  expect(approval).toMatchObject({ kind: 'question', tool: 'question' });
  expect(approvalText(approval!, 0)).toContain('"question": "ship\\nhash x?"');
});

test('since behaviour 3 a long question is shown whole, and only its beginning in lists', () => {
  const talk = asked(long, 3);
  const [approval] = approvalsOf(talk.record!);
  expect(approvalText(approval!, talk.at)).toContain(long);
  expect(approval!.arguments).toBe(JSON.stringify({ question: long }));
  expect(summaryOf(talk.record!).waitingOn).toBe(`approval ${long.slice(0, 200)}`);
});

test('the hash of a question covers all of it since behaviour 3', () => {
  const hashes = ['1', '2'].map((end) => approvalsOf(asked(long + end, 3).record!)[0]!.hash);
  expect(hashes[0]).not.toBe(hashes[1]);
});

test('before behaviour 3 a question that may be cut says so', () => {
  const talk = asked(long, 2);
  const [approval] = approvalsOf(talk.record!);
  expect(JSON.parse(approval!.arguments)).toEqual({
    question: long.slice(0, 200),
    note: expect.stringContaining('may be cut'),
  });
});

test('since behaviour 3 a decision keeps the beginning of a long question', () => {
  const talk = asked(long, 3);
  const { id, hash } = approvalsOf(talk.record!)[0]!;
  talk.say({ kind: 'approve', approval: id as never, hash, actor: 'ann', reason: '' });
  expect(talk.record).toMatchObject({
    status: 'completed',
    decisions: [{ what: long.slice(0, 200), decision: 'approve' }],
  });
});

test('since behaviour 3 a question too large to be shown is refused by name', () => {
  const most = 'x'.repeat(limits.answerBytesMax - 2);
  expect(approvalsOf(asked(most, 3).record!)).toHaveLength(1);
  expect(() => asked(`${most}x`, 3)).toThrow(
    expect.objectContaining({ code: 'INVOKE_INPUT', message: expect.stringContaining('ask') }),
  );
  expect(approvalsOf(asked(`${most}x`, 2).record!)).toHaveLength(1);
});
