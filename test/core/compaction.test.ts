/** A conversation that outgrows its model: summarised by what will be sent, and once where it is refused. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  condensed,
  inPromptOrder,
  summaryWith,
  taskIn,
} from '../../services/core/session/condensed.ts';
import type { Entry } from '../../services/core/session/conversation.ts';
import type { Message } from '../../services/core/session/messages.ts';
import { contextLimitOf } from '../../services/core/session/model-call.ts';
import {
  bundleOf,
  call,
  definitionOf,
  replied,
  returned,
  Talk,
  task,
} from '../support/sessions.ts';

const thinking = (spec: object, behaviour?: number) => {
  const { bundle } = definitionOf(spec);
  const talk = new Talk({ bundle: behaviour === undefined ? bundle : { ...bundle, behaviour } });
  talk.say(task('look at all of it'));
  return talk;
};
const turn = (talk: Talk, result: unknown, promptTokens = 100) => {
  const usage = { promptTokens, completionTokens: 10, cachedTokens: 0 };
  talk.say(
    replied(talk.pendingOf('callModel'), {
      calls: [call('look', { n: talk.entries.length })],
      usage,
    }),
  );
  talk.say(returned(talk.pendingOf('runTool'), result));
};
const tooLong = (talk: Talk): Message => ({
  kind: 'modelFailed',
  effect: talk.pendingOf('callModel') as never,
  failure: { class: 'permanent', code: 'MODEL_CONTEXT_TOO_LONG', message: 'too long' },
  attempts: 1,
});

test('a result that makes the next prompt too long is summarised before that is sent', () => {
  const talk = thinking({ contextTokensMax: 3_000 });
  turn(talk, { text: 'short' });
  expect(talk.state).toBe('thinking');
  turn(talk, { text: 'x'.repeat(40_000) });
  expect(talk.state).toBe('compacting');
  const before = thinking({ contextTokensMax: 3_000 }, 3);
  turn(before, { text: 'short' });
  turn(before, { text: 'x'.repeat(40_000) });
  expect(before.state).toBe('thinking');
});

test('the last turns stay as far as they fit, and the rest goes', () => {
  const talk = thinking({ contextTokensMax: 1_000 });
  turn(talk, { text: 'x'.repeat(2_000) });
  turn(talk, { text: 'small' });
  turn(talk, { text: 'smaller' }, 2_000);
  expect(talk.state).toBe('compacting');
  talk.say(replied(talk.pendingOf('callModel'), { content: 'what matters' }));
  const [asked] = talk.wants as unknown as { from: number; to: number }[];
  expect((talk.entries as Entry[]).slice(asked!.from, asked!.to).map(({ role }) => role)).toEqual([
    'assistant',
    'tool',
    'assistant',
    'tool',
    'summary',
  ]);
});

test('a turn that is too large by itself does not stay', () => {
  const talk = thinking({ contextTokensMax: 1_000 });
  turn(talk, { text: 'x'.repeat(20_000) });
  talk.say(replied(talk.pendingOf('callModel'), { content: 'what matters' }));
  expect(talk.wants).toMatchObject([{ purpose: 'turn', from: 3, to: 4 }]);
});

describe('a refusal for length', () => {
  test('is answered by a summary, once; the second one fails by name', () => {
    const talk = thinking({});
    turn(talk, { text: 'a' });
    talk.say(tooLong(talk));
    expect(talk.wants).toMatchObject([{ kind: 'callModel', purpose: 'summary' }]);
    talk.say(replied(talk.pendingOf('callModel'), { content: 'what matters' }));
    expect(talk.wants).toMatchObject([{ purpose: 'turn' }]);
    talk.say(tooLong(talk));
    expect(talk.record).toMatchObject({
      status: 'failed',
      reason: 'MODEL_CONTEXT_TOO_LONG: too long',
    });
  });
  test('is answered again after an answer in between', () => {
    const talk = thinking({});
    turn(talk, { text: 'a' });
    talk.say(tooLong(talk));
    talk.say(replied(talk.pendingOf('callModel'), { content: 'what matters' }));
    turn(talk, { text: 'b' });
    talk.say(tooLong(talk));
    expect(talk.state).toBe('compacting');
  });
  test('of the summary itself fails by name', () => {
    const talk = thinking({});
    talk.say(tooLong(talk));
    talk.say(tooLong(talk));
    expect(talk.record?.reason).toBe('MODEL_CONTEXT_TOO_LONG: too long');
  });
  test('where the agent pauses for its model comes before the pause', () => {
    const talk = thinking({ onModelFailure: 'pause' });
    talk.say(tooLong(talk));
    expect(talk.record?.status).toBe('active');
    talk.say(tooLong(talk));
    expect(talk.record?.status).toBe('paused');
  });
  test('of a session that began before fails it at once', () => {
    const talk = thinking({}, 3);
    talk.say(tooLong(talk));
    expect(talk.record?.status).toBe('failed');
  });
  test('without a budget for a summary fails by its own name', () => {
    const talk = thinking({ limits: { stepsMax: 1 } });
    talk.say(tooLong(talk));
    expect(talk.record?.reason).toBe('MODEL_CONTEXT_TOO_LONG: too long');
  });
});

test('the window of a Model counts, less its answer', () => {
  const bundle = bundleOf({ outputTokensMax: 200, contextTokensMax: 100_000 });
  expect(contextLimitOf(bundle)).toBe(100_000);
  const small = {
    ...bundle,
    models: [...bundle.models, { ...bundle.models[0]!, contextTokens: 2_048 }],
  };
  expect(contextLimitOf(small)).toBe(1_848);
});

const text = fc.string({ maxLength: 60 });
const entry: fc.Arbitrary<Entry> = fc.oneof(
  fc.record({ role: fc.constant('user' as const), content: text }),
  fc.record({
    role: fc.constant('tool' as const),
    call: fc.constant('c'),
    tool: fc.constant('t'),
    content: text,
  }),
  fc.record({
    role: fc.constant('assistant' as const),
    content: text,
    calls: fc.array(fc.record({ id: fc.constant('c'), name: fc.constant('t'), arguments: text }), {
      maxLength: 2,
    }),
  }),
);
test('what is to be summarised is cut to its bound, and nothing that is short is', () => {
  fc.assert(
    fc.property(
      fc.array(entry, { maxLength: 12 }),
      fc.integer({ min: 0, max: 400 }),
      (entries, max) => {
        const shown = condensed(entries, max);
        expect(shown.map(({ role }) => role)).toEqual(entries.map(({ role }) => role));
        const kept = shown.flatMap((one) => [
          one.content,
          ...(one.role === 'assistant' ? (one.calls ?? []).map((made) => made.arguments) : []),
        ]);
        const marks = kept.filter((one) => one.includes('[cut: ')).length;
        const all = entries.flatMap((one) => [
          one.content,
          ...(one.role === 'assistant' ? (one.calls ?? []).map((made) => made.arguments) : []),
        ]);
        const length = all.reduce((sum, one) => sum + one.length, 0);
        if (length <= max) expect(shown).toEqual(entries);
        expect(kept.reduce((sum, one) => sum + one.length, 0)).toBeLessThanOrEqual(
          Math.max(length, max) + marks * 120,
        );
      },
    ),
  );
});

test("the task's own words go along from summary to summary, and notes of ours are none", () => {
  const first: Entry[] = [
    { role: 'user', content: 'Refund case C-1: 12 EUR' },
    { role: 'assistant', content: '' },
    { role: 'user', content: 'Your answer was empty. Call a tool or answer.' },
  ];
  const once = summaryWith(taskIn(first), 'looked at it');
  expect(once).toContain('Refund case C-1: 12 EUR');
  const second: Entry[] = [
    { role: 'tool', call: 'c', tool: 't', content: 'kept' },
    { role: 'summary', content: once },
  ];
  expect(inPromptOrder(second).map(({ role }) => role)).toEqual(['summary', 'tool']);
  const twice = summaryWith(taskIn(inPromptOrder(second)), 'paid it');
  expect(twice).toContain('Refund case C-1: 12 EUR');
  expect(twice).not.toContain('looked at it');
  expect(summaryWith('', 'bare')).toBe('bare');
});
