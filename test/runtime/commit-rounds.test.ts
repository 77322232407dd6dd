import { expect, test } from 'vitest';
import { CommitRounds } from '../../services/runtime/commit-rounds.ts';
import { eventually } from '../support/eventually.ts';

const settled = () => new Promise(setImmediate);

/** Shards that commit when their round begins, and are answered when the test says so. */
function shards(rounds: CommitRounds) {
  const begun: string[] = [];
  const answers: (() => void)[] = [];
  const join = (name: string) =>
    rounds.join(() => {
      begun.push(name);
      return new Promise((resolve) => answers.push(resolve));
    });
  return { begun, answers, join };
}

test('while nothing is under way a commit leaves at once, with what joins in the same turn', async () => {
  const { begun, join } = shards(new CommitRounds());
  join('a');
  await Promise.resolve();
  join('b');
  expect(begun).toEqual([]);
  await settled();
  expect(begun).toEqual(['a', 'b']);
});

test('what joins while a round is under way begins with the next, when all of the round were answered', async () => {
  const { begun, answers, join } = shards(new CommitRounds());
  join('a');
  join('b');
  await settled();
  join('c');
  answers[0]!();
  join('d');
  await settled();
  expect(begun).toEqual(['a', 'b']);

  answers[1]!();
  await settled();

  expect(begun).toEqual(['a', 'b', 'c', 'd']);
});

test('a commit that is not answered holds up its own shard only', async () => {
  const { begun, join } = shards(new CommitRounds());
  join('stuck');
  await settled();
  join('other');
  await eventually(() => begun.includes('other'));
});
