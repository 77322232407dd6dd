/** Many who look at the same page cost a runtime no more than one. */
import { expect, test } from 'vitest';
import { questionsOf } from '../../services/console/questions.ts';
import { Refused, Unavailable } from '../../services/core/errors.ts';
import type { ControlAnswer } from '../../services/ports/control.ts';

function asking(answer: () => Promise<ControlAnswer>) {
  const asked: string[] = [];
  let now = 0;
  const ask = (verb: string) => {
    asked.push(verb);
    return answer();
  };
  const pass = (ms: number) => {
    now += ms;
  };
  return { questions: questionsOf({ ask }, () => now), asked, pass };
}
const fine = async (): Promise<ControlAnswer> => ({ ok: true, value: [] });

test('the same question is asked once a second, another one by itself', async () => {
  const { questions, asked, pass } = asking(fine);
  await Promise.all([
    questions.look('list', { max: 1 }),
    questions.look('list', { max: 1 }),
    questions.look('list', { max: 2 }),
  ]);
  expect(asked).toHaveLength(2);
  pass(1_001);
  await questions.look('list', { max: 1 });
  expect(asked).toHaveLength(3);
});

test('who asks what is still being asked waits along, however long it takes', async () => {
  const slow = Promise.withResolvers<ControlAnswer>();
  const { questions, asked, pass } = asking(() => slow.promise);
  const first = questions.look('list', {});
  pass(5_000);
  const second = questions.look('list', {});
  slow.resolve({ ok: true, value: 'it' });
  expect(await Promise.all([first, second])).toEqual(['it', 'it']);
  expect(asked).toHaveLength(1);
});

test('a deed is never shared, and who did it sees what came of it', async () => {
  const { questions, asked } = asking(fine);
  await questions.look('list', {});
  await Promise.all([
    questions.act('halt', { session: 's' }),
    questions.act('halt', { session: 's' }),
  ]);
  await questions.look('list', {});
  expect(asked).toEqual(['list', 'halt', 'halt', 'list']);
});

test('a refusal keeps its code, and a question that failed is asked again at once', async () => {
  const refusing = asking(async () => ({
    ok: false,
    code: 'SESSION_UNKNOWN',
    message: 'there is no session x',
  }));
  await expect(refusing.questions.look('inspect', {})).rejects.toEqual(
    new Refused('SESSION_UNKNOWN', 'there is no session x'),
  );
  const silent = asking(async () => Promise.reject(new Unavailable('NO_RUNTIME', 'nobody')));
  for (let count = 0; count < 2; count += 1)
    await expect(silent.questions.look('list', {})).rejects.toBeInstanceOf(Unavailable);
  expect(silent.asked).toHaveLength(2);
});
