/** What a step decides since behaviour 3, and what sessions that began before it go on deciding. */
import { describe, expect, test } from 'vitest';
import type { Effect } from '../../services/core/session/effects.ts';
import type { Message } from '../../services/core/session/messages.ts';
import { tasksOf } from '../../services/core/session/record.ts';
import { haltWithout } from '../../services/core/session/step.ts';
import { address, call, definitionOf, replied, Talk, task } from '../support/sessions.ts';

const by = { actor: 'ann', reason: 'because' };
const keyed = (id: string) => task(id, { task: id as never, isKeyed: true });
const talkOf = (behaviour: number, spec: object = {}) => {
  const { bundle } = definitionOf(spec);
  return new Talk({ bundle: { ...bundle, behaviour } });
};
const wanted = (talk: Talk, kind: Effect['kind']) =>
  Object.entries(talk.record?.pending ?? {}).flatMap(([id, note]) =>
    note.kind === kind ? [id] : [],
  );
const replies = (talk: Talk) =>
  talk.effects.flatMap((effect) =>
    effect.kind === 'reply' ? [`${effect.task} ${effect.outcome}`] : [],
  );

describe('a task that was answered without having begun', () => {
  test.each([
    ['waited in the queue', [keyed('one'), keyed('two'), { kind: 'halt', ...by }]],
    [
      'came to a paused session',
      [keyed('one'), { kind: 'pause', ...by }, keyed('two'), { kind: 'halt', ...by }],
    ],
  ] as [string, Message[]][])(
    '%s: a repeat is known, and gets no second answer',
    (_how, messages) => {
      const talk = talkOf(3);
      for (const message of messages) talk.say(message);
      expect(replies(talk).filter((reply) => reply.startsWith('two'))).toHaveLength(1);
      expect(tasksOf(talk.record!)).toContain('two');
      expect((talk.record!.context as { queue: unknown[] }).queue).toEqual([]);
      talk.say(keyed('two'));
      expect(replies(talk).filter((reply) => reply.startsWith('two'))).toHaveLength(1);
    },
  );

  test('was refused for want of room: published again it does not run', () => {
    const talk = talkOf(3);
    talk.say(keyed('t0'));
    talk.say({ kind: 'pause', ...by });
    for (let one = 1; one <= 34; one += 1) talk.say(keyed(`t${one}`));
    talk.say({ kind: 'resume', ...by });
    const refused = replies(talk).map((reply) => reply.split(' ')[0]);
    expect(refused.length).toBeGreaterThan(0);
    const last = refused.at(-1) as string;
    talk.say(keyed(last));
    expect(replies(talk).filter((reply) => reply.startsWith(`${last} `))).toHaveLength(1);
    expect(talk.context.queue.map(({ task: queued }) => queued)).not.toContain(last);
  });

  test('a session of behaviour 2 goes on as it was', () => {
    const talk = talkOf(2);
    for (const message of [keyed('one'), keyed('two'), { kind: 'halt', ...by } as Message])
      talk.say(message);
    expect(tasksOf(talk.record!)).not.toContain('two');
  });
});

describe('what a gateway tells of a call that failed', () => {
  const failed = (effect: string, attempts: number, spent?: object) =>
    ({
      kind: 'modelFailed',
      effect,
      failure: { class: 'permanent', code: 'MODEL_REFUSED', message: 'no' },
      attempts,
      ...(spent ? { spent } : {}),
    }) as unknown as Message;
  const spentAfter = (behaviour: number, attempts: number, spent?: object) => {
    const talk = talkOf(behaviour, { onModelFailure: 'pause' });
    talk.say(task());
    talk.say(failed(wanted(talk, 'callModel')[0] as string, attempts, spent));
    expect(talk.record!.status).toBe('paused');
    return talk.context.spent.tokens;
  };

  test('counts, also where the session pauses for it', () => {
    expect(spentAfter(3, 1, { tokens: 0, costMicros: 0 })).toBe(0);
    expect(spentAfter(3, 2, { tokens: 70, costMicros: 7 })).toBe(70);
    expect(spentAfter(3, 0)).toBe(0);
  });
  test('told nothing, all that was held counts', () => {
    expect(spentAfter(3, 1)).toBeGreaterThan(1_000);
    expect(spentAfter(2, 1, { tokens: 0, costMicros: 0 })).toBeGreaterThan(1_000);
  });
});

test.each([
  [3, 'look', 'permanent'],
  [2, 'look', 'unknown'],
  [3, 'pay', 'unknown'],
] as const)(
  'behaviour %i: nobody made the call of %s in time: %s',
  (behaviour, name, failureClass) => {
    const talk = talkOf(behaviour);
    talk.say(task());
    const [model] = wanted(talk, 'callModel');
    talk.say(
      replied(model as string, { calls: [call(name, name === 'pay' ? { amount: 1 } : {})] }),
    );
    const said = talk.say({ kind: 'wake' }, 40_000_000);
    if (said.kind !== 'applied') throw new Error('not applied');
    expect(JSON.stringify(talk.entries.at(-1))).toContain(failureClass);
  },
);

test.each([2, 3])(
  'behaviour %i: delegations that wait for a person share what is left',
  (behaviour) => {
    const limits = {
      stepsMax: 40,
      toolCallsMax: 40,
      tokensMax: 100_000,
      costMicrosMax: 900_000,
      wallClockMs: 9e9,
    };
    const helper = {
      description: 'helps',
      limits: { ...limits, tokensMax: 1_000_000 },
      revision: 'h1',
    };
    const { bundle } = definitionOf({
      limits,
      agents: ['helper'],
      approvals: [{ tool: 'delegate' }],
    } as never);
    const talk = new Talk({ bundle: { ...bundle, agents: { helper } as never, behaviour } });
    talk.say(task());
    const calls = ['c1', 'c2'].map((id) => call('delegate', { agent: 'helper', input: 'x' }, id));
    talk.say(replied(wanted(talk, 'callModel')[0] as string, { calls }));
    for (const approval of wanted(talk, 'askHuman')) {
      const { hash } = talk.context.approvals[approval]!;
      talk.say({ kind: 'approve', approval, hash, ...by } as Message);
    }
    const begun = talk.effects.flatMap((effect) =>
      effect.kind === 'startAgent' ? [effect.limits.tokensMax] : [],
    );
    const left = 100_000 - talk.context.spent.tokens;
    if (behaviour === 2) return expect(begun[0]).toBeGreaterThan(left / 2);
    expect(begun).toHaveLength(2);
    expect(begun.reduce((sum, one) => sum + one, 0)).toBeLessThanOrEqual(left * 0.7);
    expect(Math.min(...begun)).toBeGreaterThan(left / 5);
  },
);

describe('a session whose definition cannot be loaded', () => {
  const halt = (at: number) => ({
    message: { kind: 'halt', ...by } as Message,
    at,
    position: { incarnation: 0, sequence: 99, index: 0 },
  });

  test('can be halted: what was open is cancelled, and its tasks are answered', () => {
    const talk = talkOf(3);
    for (const message of [keyed('one'), keyed('two')]) talk.say(message);
    talk.say(
      replied(wanted(talk, 'callModel')[0] as string, { calls: [call('pay', { amount: 1 })] }),
    );
    const [pay] = wanted(talk, 'runTool');
    const halted = haltWithout(talk.record!, halt(talk.at + 1), undefined, address);
    if (halted.kind !== 'applied') throw new Error('not applied');
    expect(halted.record).toMatchObject({ status: 'halted', pending: {}, timers: {} });
    expect(halted.effects).toContainEqual({
      kind: 'cancel',
      effects: [expect.objectContaining({ id: pay, tool: 'pay' })],
    });
    expect(halted.effects.filter(({ kind }) => kind === 'reply')).toHaveLength(2);
  });

  test.each([2, 3])(
    'comes to the state that its definition would have come to (%i)',
    (behaviour) => {
      const talk = talkOf(behaviour);
      for (const message of [
        keyed('one'),
        keyed('two'),
        { kind: 'pause', ...by } as Message,
        keyed('three'),
      ])
        talk.say(message);
      const at = talk.at + 1;
      const halted = haltWithout(talk.record!, halt(at), behaviour, address);
      const whole = new Talk(talk.definition);
      for (const { message } of talk.heard) whole.say(message);
      whole.at = at - 1;
      whole.say({ kind: 'halt', ...by });
      if (halted.kind !== 'applied') throw new Error('not applied');
      const { position: _, ...record } = halted.record;
      const { position: _p, ...expected } = whole.record!;
      expect(record).toEqual(expected);
    },
  );
});
