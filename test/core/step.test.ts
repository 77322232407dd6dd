import { describe, expect, test } from 'vitest';
import { add } from '../../services/core/budget/budget.ts';
import type { EffectId, SessionId, TaskId } from '../../services/core/ids.ts';
import { isEnded, stateHashOf, wakeAtOf } from '../../services/core/session/record.ts';
import { park, step } from '../../services/core/session/step.ts';
import {
  address,
  call,
  definitionOf,
  replied,
  returned,
  Talk,
  task,
  toolFailed,
} from '../support/sessions.ts';

const thinking = (spec = {}) => {
  const talk = new Talk(definitionOf(spec));
  talk.say(task());
  return talk;
};
const acting = (calls = [call('look')], spec = {}) => {
  const talk = thinking(spec);
  talk.say(replied(talk.pendingOf('callModel'), { calls }));
  return talk;
};

describe('a turn', () => {
  test('a task makes one model call over the conversation so far', () => {
    const talk = thinking();

    expect(talk.state).toBe('thinking');
    expect(talk.wants).toMatchObject([
      { kind: 'callModel', id: 'clerk-1_1_0', from: 0, to: 1, purpose: 'turn' },
    ]);
    expect(talk.entries).toEqual([{ role: 'user', content: 'hello' }]);
  });

  test('two tool calls open two jobs, and the next model call waits for both', () => {
    const talk = acting([call('look', {}, 'a'), call('pay', { amount: 5 }, 'b')]);
    const [first = '', second = ''] = talk.pending;

    expect(talk.kinds).toEqual(['runTool', 'runTool']);
    talk.say(returned(second));
    expect(talk.kinds).toEqual([]);
    talk.say(returned(first));
    expect(talk.kinds).toEqual(['callModel']);
    expect(talk.state).toBe('thinking');
  });

  test('an answer without calls completes the session and replies once', () => {
    const talk = thinking();
    talk.say(replied(talk.pendingOf('callModel'), { content: 'done' }));

    expect(talk.record).toMatchObject({
      status: 'completed',
      value: 'completed',
      output: 'done',
      pending: {},
      timers: {},
    });
    expect(talk.wants).toMatchObject([{ kind: 'reply', outcome: 'completed', output: 'done' }]);
  });

  test('a failed tool is data for the model, with its class', () => {
    const talk = acting();
    talk.say(toolFailed(talk.pendingOf('runTool'), 'unknown'));

    expect(talk.entries.at(-1)).toMatchObject({
      role: 'tool',
      content: expect.stringContaining('"class":"unknown"'),
    });
    expect(talk.state).toBe('thinking');
  });
});

describe('exactly once', () => {
  test('a result that comes twice changes nothing the second time', () => {
    const talk = acting();
    const effect = talk.pendingOf('runTool');
    talk.say(returned(effect));
    const version = talk.record!.version;

    expect(talk.say(returned(effect))).toEqual({
      kind: 'seen',
      code: 'not-pending',
      why: `effect ${effect} is not pending`,
    });
    expect(talk.record!.version).toBe(version);
  });

  test('a message at or before the position is not applied again', () => {
    const talk = acting();
    const again = talk.heard[0]!;

    expect(step(talk.record, again, talk.definition, address)).toEqual({
      kind: 'seen',
      code: 'applied-before',
      why: 'applied before',
    });
  });

  test('the same task on the same session is dropped', () => {
    const talk = acting();

    expect(talk.say(task())).toMatchObject({ kind: 'seen' });
  });

  test('folding what was heard gives the same state hash, whether the snapshot was in memory or not', () => {
    const talk = acting([call('pay', { amount: 3 })]);
    talk.say(returned(talk.pendingOf('runTool')));
    let record = undefined as Talk['record'];
    let live: unknown;
    for (const incoming of talk.heard) {
      const stepped = step(record, incoming, talk.definition, address, live as never);
      if (stepped.kind === 'applied') ({ record, live } = stepped);
    }

    expect(stateHashOf(record!)).toBe(stateHashOf(talk.record!));
  });

  test('versions go up by one, and effect ids name session, version and index', () => {
    const talk = acting([call('look', {}, 'a'), call('look', { x: 1 }, 'b')]);

    expect(talk.record!.version).toBe(2);
    expect(talk.pending).toEqual(['clerk-1_2_0', 'clerk-1_2_1']);
  });
});

describe('bad model output', () => {
  test.each([
    ['arguments that are no JSON', call('pay', '{"amount": 5,,}'), 'ARGUMENTS_NOT_JSON'],
    [
      'arguments nested deeper than a stack',
      call('pay', `{"amount":${'['.repeat(5_000)}${']'.repeat(5_000)}}`),
      'ARGUMENTS_NOT_JSON',
    ],
    ['arguments that break the schema', call('pay', { amount: 'much' }), 'ARGUMENTS_INVALID'],
    ['arguments that are no object', call('pay', '[1]'), 'ARGUMENTS_NOT_OBJECT'],
    ['a tool that does not exist', call('fly'), 'TOOL_UNKNOWN'],
    [
      'an agent that does not exist',
      call('delegate', { agent: 'nobody', input: 'x' }),
      'AGENT_UNKNOWN',
    ],
  ])('%s go back to the model with the error', (_name, bad, code) => {
    const talk = acting([bad]);

    expect(talk.state).toBe('thinking');
    expect(talk.kinds).toEqual(['callModel']);
    expect(talk.entries.at(-1)).toMatchObject({
      role: 'tool',
      content: expect.stringContaining(code),
    });
  });

  test('after five useless answers in a row the session fails and says so', () => {
    const talk = thinking();
    for (let turn = 0; turn < 5; turn += 1)
      talk.say(replied(talk.pendingOf('callModel'), { calls: [call('fly', { turn })] }));

    expect(talk.record).toMatchObject({
      status: 'failed',
      reason: expect.stringContaining('MODEL_MALFORMED'),
    });
  });

  test('an answer that was cut off is asked for again', () => {
    const talk = thinking();
    talk.say(replied(talk.pendingOf('callModel'), { content: 'half of', finish: 'length' }));

    expect(talk.state).toBe('thinking');
  });
});

describe('limits', () => {
  test.each([
    ['steps', { limits: { stepsMax: 1 } }, 'LIMIT_STEPS'],
    ['tokens', { limits: { tokensMax: 1_600 } }, 'LIMIT_TOKENS'],
    ['money', { limits: { costMicrosMax: 2_500 } }, 'LIMIT_COSTMICROS'],
  ])('%s are checked before the call is made', (_name, spec, code) => {
    const talk = acting([call('look')], spec as never);
    talk.say(returned(talk.pendingOf('runTool'), 'x'.repeat(400)));

    expect(talk.record).toMatchObject({ status: 'failed', reason: expect.stringContaining(code) });
    expect(talk.effects.filter(({ kind }) => kind === 'callModel')).toHaveLength(1);
  });

  test('tool calls beyond the limit are not begun', () => {
    const talk = acting([call('look', {}, 'a'), call('look', { b: 1 }, 'b')], {
      limits: { toolCallsMax: 1 } as never,
    });

    expect(talk.record).toMatchObject({
      status: 'failed',
      reason: expect.stringContaining('LIMIT_TOOLCALLS'),
    });
    expect(talk.kinds).toEqual(['reply']);
  });

  test('wall clock ends a session that waits, and tells its performers', () => {
    const talk = acting([call('look')], { limits: { wallClockMs: 1_000 } as never });
    talk.say({ kind: 'wake' }, 2_000);

    expect(talk.record).toMatchObject({
      status: 'failed',
      reason: expect.stringContaining('LIMIT_WALLCLOCK'),
    });
    expect(talk.kinds).toEqual(['cancel', 'reply']);
  });

  test('what was reserved for a call is free again after it, and what it cost is spent', () => {
    const talk = thinking();
    expect(talk.context.reserved.steps).toBe(1);
    talk.say(replied(talk.pendingOf('callModel'), { calls: [call('look')] }));

    expect(talk.context.reserved).toEqual({ steps: 0, toolCalls: 0, tokens: 0, costMicros: 0 });
    expect(talk.context.spent).toEqual({ steps: 1, toolCalls: 1, tokens: 110, costMicros: 120 });
  });

  test('the same call again and again is a loop', () => {
    const talk = thinking({ loop: { sameCallMax: 3, failuresMax: 5, verdict: 'fail' } });
    for (let turn = 0; turn < 2; turn += 1) {
      talk.say(replied(talk.pendingOf('callModel'), { calls: [call('look', { a: 1, b: 2 })] }));
      talk.say(returned(talk.pendingOf('runTool')));
    }
    talk.say(replied(talk.pendingOf('callModel'), { calls: [call('look', { b: 2, a: 1 })] }));

    expect(talk.record).toMatchObject({
      status: 'failed',
      reason: expect.stringContaining('LOOP: look was called 3 times'),
    });
  });

  test('a loop can be escalated to a person, who lets it go on', () => {
    const talk = thinking({ loop: { sameCallMax: 2, failuresMax: 5, verdict: 'escalate' } });
    talk.say(replied(talk.pendingOf('callModel'), { calls: [call('look')] }));
    talk.say(returned(talk.pendingOf('runTool')));
    talk.say(replied(talk.pendingOf('callModel'), { calls: [call('look')] }));
    expect(talk.state).toBe('waiting');
    const approval = talk.pendingOf('askHuman');
    talk.say({
      kind: 'approve',
      approval: approval as EffectId,
      hash: talk.context.approvals[approval]!.hash,
      actor: 'ann',
      reason: 'try the other list',
    });

    expect(talk.state).toBe('thinking');
    expect(talk.entries.at(-1)).toMatchObject({
      role: 'user',
      content: expect.stringContaining('try the other list'),
    });
  });

  test('turns in which everything failed are no progress', () => {
    const talk = thinking({ loop: { sameCallMax: 9, failuresMax: 2, verdict: 'fail' } });
    for (let turn = 0; turn < 2; turn += 1) {
      talk.say(replied(talk.pendingOf('callModel'), { calls: [call('look', { turn })] }));
      talk.say(toolFailed(talk.pendingOf('runTool')));
    }

    expect(talk.record).toMatchObject({
      status: 'failed',
      reason: expect.stringContaining('2 turns in a row'),
    });
  });
});

describe('people', () => {
  const rule = {
    approvals: [{ tool: 'pay', when: { argument: 'amount', above: 100 }, expiresMs: 60_000 }],
  };
  const asked = (amount: number) => acting([call('pay', { amount })], rule);
  const hashOf = (talk: Talk) => talk.context.approvals[talk.pendingOf('askHuman')]!.hash;

  test('a call within the rule runs at once, one above it waits', () => {
    expect(asked(100).kinds).toEqual(['runTool']);
    expect(asked(101).kinds).toEqual(['askHuman']);
    expect(asked(101).state).toBe('waiting');
  });

  test('approved, exactly what was shown runs', () => {
    const talk = asked(500);
    talk.say({
      kind: 'approve',
      approval: talk.pendingOf('askHuman') as EffectId,
      hash: hashOf(talk),
      actor: 'ann',
      reason: '',
    });

    expect(talk.wants).toMatchObject([
      { kind: 'runTool', tool: 'pay', arguments: { amount: 500 } },
    ]);
    expect(talk.state).toBe('acting');
  });

  test('a decision for another payload changes nothing', () => {
    const talk = asked(500);

    expect(
      talk.say({
        kind: 'approve',
        approval: talk.pendingOf('askHuman') as EffectId,
        hash: 'f'.repeat(64),
        actor: 'ann',
        reason: '',
      }),
    ).toMatchObject({ kind: 'seen' });
    expect(talk.state).toBe('waiting');
  });

  test('edited, the edited arguments run, if the tool accepts them', () => {
    const talk = asked(500);
    talk.say({
      kind: 'approve',
      approval: talk.pendingOf('askHuman') as EffectId,
      hash: hashOf(talk),
      actor: 'ann',
      reason: '',
      arguments: '{"amount": 50}',
    });
    expect(talk.wants).toMatchObject([{ kind: 'runTool', arguments: { amount: 50 } }]);

    const wrong = asked(500);
    wrong.say({
      kind: 'approve',
      approval: wrong.pendingOf('askHuman') as EffectId,
      hash: hashOf(wrong),
      actor: 'ann',
      reason: '',
      arguments: '{"amount": "fifty"}',
    });
    expect(wrong.kinds).toEqual(['callModel']);
  });

  test('rejected, the model is told why', () => {
    const talk = asked(500);
    talk.say({
      kind: 'reject',
      approval: talk.pendingOf('askHuman') as EffectId,
      hash: hashOf(talk),
      actor: 'ann',
      reason: 'too much',
    });

    expect(talk.entries.at(-1)).toMatchObject({
      role: 'tool',
      content: expect.stringContaining('too much'),
    });
    expect(talk.state).toBe('thinking');
  });

  test('an approval that nobody answers is a rejection when it expires', () => {
    const talk = asked(500);
    expect(wakeAtOf(talk.record!)).toBe(talk.at + 60_000);
    talk.say({ kind: 'wake' }, 60_000);

    expect(talk.state).toBe('thinking');
    expect(talk.pending.filter((id) => talk.record!.pending[id]!.kind === 'askHuman')).toEqual([]);
  });

  test('an argument that is no number cannot be shown to be small: it needs a person', () => {
    const talk = acting([call('look', { amount: 'lots' })], {
      approvals: [{ tool: 'look', when: { argument: 'amount', above: 100 }, expiresMs: 1_000 }],
    });

    expect(talk.state).toBe('waiting');
  });
});

describe('pause, resume, halt', () => {
  const by = { actor: 'ann', reason: 'lunch' };

  test('a paused session keeps what comes, and goes on with it when it is resumed', () => {
    const talk = acting();
    const effect = talk.pendingOf('runTool');
    talk.say({ kind: 'pause', ...by });
    talk.say(returned(effect));
    expect(talk.kinds).toEqual([]);
    expect(talk.record).toMatchObject({ status: 'paused', deferred: [{}] });
    talk.say({ kind: 'resume', ...by });

    expect(talk.record).toMatchObject({ status: 'active', value: 'thinking', deferred: [] });
    expect(talk.kinds).toEqual(['callModel']);
  });

  test('a wake while paused changes nothing', () => {
    const talk = acting();
    talk.say({ kind: 'pause', ...by });

    expect(talk.say({ kind: 'wake' }, 10_000_000_000)).toMatchObject({ kind: 'seen' });
    expect(wakeAtOf(talk.record!)).toBeUndefined();
  });

  test('halting ends the session, cancels its calls and halts its children', () => {
    const talk = acting([
      call('look', {}, 'a'),
      call('delegate', { agent: 'helper', input: 'x' }, 'b'),
    ]);
    talk.say({ kind: 'halt', ...by });

    expect(talk.record).toMatchObject({
      status: 'halted',
      pending: {},
      reason: 'halted by ann: lunch',
    });
    expect(talk.kinds).toEqual(['cancel', 'haltChild', 'reply']);
  });

  test('a result after the end is seen and forgotten', () => {
    const talk = acting();
    const effect = talk.pendingOf('runTool');
    talk.say({ kind: 'halt', ...by });

    expect(talk.say(returned(effect))).toMatchObject({ kind: 'seen' });
  });

  test('with onModelFailure pause, a failed model call pauses the session with the next try planned', () => {
    const talk = thinking({ onModelFailure: 'pause' });
    talk.say({
      kind: 'modelFailed',
      effect: talk.pendingOf('callModel') as EffectId,
      failure: { class: 'permanent', code: 'MODEL_OVERLOADED', message: 'busy' },
      attempts: 4,
    });

    expect(talk.record).toMatchObject({ status: 'paused', reason: 'MODEL_OVERLOADED: busy' });
  });
});

describe('children', () => {
  test('a child gets a part of what its parent has left, and the parent holds it back', () => {
    const talk = acting([call('delegate', { agent: 'helper', input: 'check it' })], {
      limits: { stepsMax: 5 } as never,
    });

    expect(talk.wants).toMatchObject([
      { kind: 'startAgent', childAgent: 'helper', input: 'check it', limits: { stepsMax: 2 } },
    ]);
    expect(talk.context.reserved.steps).toBe(2);
  });

  test('what a child spent is spent by its parent, and the rest comes back', () => {
    const talk = acting([call('delegate', { agent: 'helper', input: 'check it' })]);
    talk.say({
      kind: 'agentEnded',
      effect: talk.pendingOf('startAgent') as EffectId,
      outcome: 'completed',
      output: 'clear',
      spent: { steps: 2, toolCalls: 1, tokens: 50, costMicros: 7 },
    });

    expect(talk.context.spent).toMatchObject({
      steps: 3,
      toolCalls: 2,
      tokens: 160,
      costMicros: 127,
    });
    expect(talk.context.reserved.steps).toBe(1); // the model call under way
    expect(talk.entries.at(-1)).toMatchObject({
      role: 'tool',
      content: expect.stringContaining('clear'),
    });
  });
});

describe('keyed sessions', () => {
  const keyed = () => {
    const talk = new Talk();
    talk.say(task('first', { isKeyed: true, task: 't1' as TaskId }));
    return talk;
  };

  test('after a task the session is idle and takes the next one', () => {
    const talk = keyed();
    talk.say(replied(talk.pendingOf('callModel'), { content: 'one' }));
    expect(talk.record).toMatchObject({ status: 'active', value: 'idle' });
    talk.say(task('second', { isKeyed: true, task: 't2' as TaskId }));

    expect(talk.record).toMatchObject({ status: 'active', value: 'thinking', task: 't2' });
    expect(talk.wants).toMatchObject([{ kind: 'callModel', from: 0, to: 3 }]);
  });

  test('a task that comes while another is at work waits for its turn', () => {
    const talk = keyed();
    talk.say(task('second', { isKeyed: true, task: 't2' as TaskId }));
    expect(talk.kinds).toEqual([]);
    talk.say(replied(talk.pendingOf('callModel'), { content: 'one' }));

    expect(talk.wants).toMatchObject([
      { kind: 'reply', task: 't1', output: 'one' },
      { kind: 'callModel' },
    ]);
    expect(talk.record).toMatchObject({ task: 't2', value: 'thinking' });
  });

  test('halting ends it for good, with the tasks that wait', () => {
    const talk = keyed();
    talk.say(task('second', { isKeyed: true, task: 't2' as TaskId }));
    talk.say({ kind: 'halt', actor: 'ann', reason: '' });

    expect(isEnded(talk.record!)).toBe(true);
    expect(talk.wants.filter(({ kind }) => kind === 'reply')).toMatchObject([
      { task: 't1' },
      { task: 't2' },
    ]);
  });
});

test('a long conversation is summarised before it outgrows the context, and the prompt then begins with the summary', () => {
  const talk = thinking({ contextTokensMax: 1_000 });
  for (let turn = 0; turn < 2; turn += 1) {
    talk.say(
      replied(talk.pendingOf('callModel'), {
        calls: [call('look', { turn })],
        usage: { promptTokens: 600 + turn * 500, completionTokens: 10, cachedTokens: 0 },
      }),
    );
    talk.say(returned(talk.pendingOf('runTool')));
  }
  expect(talk.state).toBe('compacting');
  expect(talk.wants).toMatchObject([{ kind: 'callModel', purpose: 'summary' }]);
  talk.say(replied(talk.pendingOf('callModel'), { content: 'what matters' }));

  expect(talk.state).toBe('thinking');
  expect(talk.entries.at(-1)).toEqual({ role: 'summary', content: 'what matters' });
  // The last turns are short: they stay, word for word.
  expect(talk.wants).toMatchObject([{ kind: 'callModel', purpose: 'turn', from: 1, to: 6 }]);
});

test('every effect that stays pending has a deadline, and a wake after it answers it', () => {
  const talk = thinking();
  talk.say({ kind: 'wake' }, 100_000_000);

  expect(talk.record).toMatchObject({ status: 'failed', pending: {} });
});

test('the event of a step carries the choice and what stood beside it', () => {
  const talk = acting();

  expect(talk.last).toMatchObject({
    happened: {
      kind: 'model-replied',
      from: 'thinking',
      to: 'acting',
      choices: [
        {
          chosen: 'hasOpenCalls -> acting',
          options: expect.arrayContaining(['mustStop -> failed', 'hasAnswer -> completed']),
        },
      ],
    },
  });
});

describe('what went wrong once', () => {
  const by = { actor: 'ann', reason: '' };
  const keyedTask = (id: string) => task(id, { isKeyed: true, task: id as TaskId });

  test('a task that a keyed session has answered comes again and is not run again', () => {
    const talk = new Talk();
    talk.say(keyedTask('a'));
    talk.say(replied(talk.pendingOf('callModel'), { content: 'one' }));
    talk.say(keyedTask('b'));

    expect(talk.say(keyedTask('a'))).toMatchObject({ kind: 'seen' });
    talk.say(replied(talk.pendingOf('callModel'), { content: 'two' }));
    expect(talk.say(keyedTask('a'))).toMatchObject({ kind: 'seen' });
    expect(talk.record).toMatchObject({ value: 'idle' });
  });

  test('an answer that no message could carry is cut, and says so', () => {
    const talk = thinking();
    talk.say(replied(talk.pendingOf('callModel'), { content: 'é'.repeat(600_000) }));
    const [reply] = talk.wants as unknown as { output: string }[];
    expect(Buffer.byteLength(reply!.output)).toBeLessThan(257_000);
    expect(reply!.output).toMatch(/é \[cut: 1200000 bytes\]$/);
  });

  test('a task for a keyed session that has ended is refused by name, not forgotten', () => {
    const talk = new Talk();
    talk.say(keyedTask('a'));
    talk.say({ kind: 'halt', ...by });

    expect(() => talk.say(keyedTask('b'))).toThrow(
      expect.objectContaining({ code: 'SESSION_ENDED' }),
    );
    expect(talk.say(keyedTask('a'))).toMatchObject({ kind: 'seen' });
  });

  test('tasks kept by a paused session are answered when it is halted', () => {
    const talk = new Talk();
    talk.say(keyedTask('a'));
    talk.say({ kind: 'pause', ...by });
    for (const id of ['b', 'c']) talk.say(keyedTask(id));
    talk.say({ kind: 'halt', ...by });

    expect(
      talk.wants
        .filter(({ kind }) => kind === 'reply')
        .map((effect) => (effect as { task: string }).task),
    ).toEqual(['a', 'b', 'c']);
  });

  const answersOf = (talk: Talk) =>
    talk.effects.flatMap((effect) =>
      effect.kind === 'reply' ? [[effect.task, effect.outcome]] : [],
    );

  test('tasks that wait are refused one after the other when none can begin, and none is left behind', () => {
    const talk = new Talk(definitionOf({ limits: { tokensMax: 4_000 } as never }));
    for (const id of ['a', 'b', 'c', 'd']) talk.say(keyedTask(id));
    talk.say(
      replied(talk.pendingOf('callModel'), {
        content: 'done',
        usage: { promptTokens: 3_500, completionTokens: 10, cachedTokens: 0 },
      }),
    );

    expect(answersOf(talk)).toEqual([
      ['a', 'completed'],
      ['b', 'failed'],
      ['c', 'failed'],
      ['d', 'failed'],
    ]);
    expect(talk.context.queue).toEqual([]);
  });

  test('a resume that finds no budget left ends its task, and goes on with those that wait and those that were kept', () => {
    const talk = new Talk(
      definitionOf({ onModelFailure: 'pause', limits: { stepsMax: 1 } as never }),
    );
    talk.say(keyedTask('a'));
    talk.say(keyedTask('b'));
    talk.say({
      kind: 'modelFailed',
      effect: talk.pendingOf('callModel') as EffectId,
      failure: { class: 'transient', code: 'PROVIDER', message: 'away' },
      attempts: 3,
    });
    talk.say(keyedTask('c'));
    talk.say({ kind: 'resume', ...by });
    expect(talk.record).toMatchObject({ status: 'active', value: 'thinking', task: 'b' });
    expect(talk.context).not.toHaveProperty('retry');
    for (const _ of ['b', 'c']) talk.say(replied(talk.pendingOf('callModel'), { content: 'done' }));

    expect(answersOf(talk)).toEqual([
      ['a', 'failed'],
      ['b', 'completed'],
      ['c', 'completed'],
    ]);
  });

  test('each task of a keyed session has the limits that it asks for, also after it waited, and else those of its agent', () => {
    const talk = new Talk(
      definitionOf({ limits: { stepsMax: 9, costMicrosMax: 900_000 } as never }),
    );
    talk.say(task('a', { isKeyed: true, task: 'a' as TaskId, limits: { stepsMax: 2 } }));
    talk.say(
      task('b', {
        isKeyed: true,
        task: 'b' as TaskId,
        limits: { costMicrosMax: 700_000, wallClockMs: 5_000, stepsMax: 99 },
      }),
    );
    talk.say(keyedTask('c'));
    expect(talk.context.limits).toMatchObject({ stepsMax: 2, costMicrosMax: 900_000 });
    talk.say(replied(talk.pendingOf('callModel'), { content: 'one' }));
    expect(talk.context.limits).toMatchObject({ stepsMax: 9, costMicrosMax: 700_000 });
    expect(talk.record!.timers).toEqual({ wall: { dueAt: talk.at + 5_000 } });
    talk.say(replied(talk.pendingOf('callModel'), { content: 'two' }));
    expect(talk.context.limits).toMatchObject({ stepsMax: 9, costMicrosMax: 900_000 });
    talk.say(replied(talk.pendingOf('callModel'), { content: 'three' }));
    talk.say(task('d', { isKeyed: true, task: 'd' as TaskId, limits: { stepsMax: 3 } }));
    expect(talk.context.limits).toMatchObject({ stepsMax: 3, costMicrosMax: 900_000 });
  });

  test('a parent that ends while a child works tells what the child may have spent', () => {
    const parent = {
      tenant: address.tenant,
      session: 'boss-1' as SessionId,
      effect: 'boss-1_1_0' as EffectId,
    };
    const talk = new Talk();
    talk.say(task('hello', { parent }));
    talk.say(
      replied(talk.pendingOf('callModel'), {
        calls: [call('delegate', { agent: 'helper', input: 'x' })],
      }),
    );
    const { reserved, spent } = talk.context;
    expect(reserved.tokens).toBeGreaterThan(0);
    talk.say({ kind: 'wake' }, 2 * 86_400_000);

    expect(talk.wants.find(({ kind }) => kind === 'reply')).toMatchObject({
      outcome: 'failed',
      spent: add(spent, reserved),
    });
  });

  test('a child that meets its deadline counts as having spent what it was given', () => {
    const talk = acting([call('delegate', { agent: 'helper', input: 'x' })], {
      limits: { wallClockMs: 10 * 86_400_000 } as never,
    });
    const { reserved, spent } = talk.context;
    talk.say({ kind: 'wake' }, 2 * 86_400_000);

    expect(talk.entries.at(-1)).toMatchObject({
      role: 'tool',
      content: expect.stringContaining('DEADLINE'),
    });
    expect(talk.context.spent).toEqual(add(spent, reserved));
  });

  test('a paused session that kept more tasks than its queue holds can be resumed: the rest get their answer', () => {
    const talk = new Talk();
    talk.say(keyedTask('t0'));
    talk.say({ kind: 'pause', ...by });
    for (let index = 1; index <= 40; index += 1) talk.say(keyedTask(`t${index}`));
    talk.say({ kind: 'resume', ...by });

    expect(talk.record!.status).toBe('active');
    expect(talk.context.queue).toHaveLength(32);
    expect(talk.wants.filter(({ kind }) => kind === 'reply')).toHaveLength(8);
  });

  test('every call of the model is answered in the conversation, also when it may not run', () => {
    const looped = thinking({ loop: { sameCallMax: 2, failuresMax: 5, verdict: 'escalate' } });
    looped.say(replied(looped.pendingOf('callModel'), { calls: [call('look', {}, 'one')] }));
    looped.say(returned(looped.pendingOf('runTool')));
    looped.say(
      replied(looped.pendingOf('callModel'), {
        calls: [call('look', {}, 'two'), call('pay', { amount: 1 }, 'three')],
      }),
    );
    const keyed = new Talk(definitionOf({ limits: { wallClockMs: 1_000 } as never }));
    keyed.say(keyedTask('a'));
    keyed.say(replied(keyed.pendingOf('callModel'), { calls: [call('look', {}, 'four')] }));
    keyed.say({ kind: 'wake' }, 5_000);

    for (const talk of [looped, keyed]) {
      const entries = talk.entries as { role: string; call?: string; calls?: { id: string }[] }[];
      const asked = entries.flatMap(({ calls }) => calls?.map(({ id }) => id) ?? []);
      const answered = entries.flatMap((entry) => (entry.role === 'tool' ? [entry.call] : []));
      expect(answered.sort()).toEqual(asked.sort());
      expect(talk.record!.length).toBe(entries.length);
      expect(talk.context.length).toBe(entries.length);
    }
  });

  test('deadlines stand still while a session is paused', () => {
    const talk = acting([call('look')], { limits: { wallClockMs: 10_000 } as never });
    const wall = talk.record!.timers.wall!.dueAt;
    talk.say({ kind: 'pause', ...by });
    talk.say({ kind: 'resume', ...by }, 1_000_000);

    expect(talk.record!.timers.wall!.dueAt).toBe(wall + 1_000_000);
    expect(talk.say({ kind: 'wake' })).toMatchObject({ kind: 'seen' });
  });

  test('the wall clock of a task that ended does not end the next one', () => {
    const talk = new Talk(definitionOf({ limits: { wallClockMs: 100_000_000 } as never }));
    talk.say(keyedTask('a'));
    talk.say(keyedTask('b'));
    talk.say({ kind: 'wake' }, 200_000_000); // the model call's deadline and the wall clock are both due

    expect(talk.record).toMatchObject({ status: 'active', value: 'thinking', task: 'b' });
    expect(talk.context).not.toHaveProperty('retry');
  });

  test('an approval after its deadline is no approval, even before the wake', () => {
    const talk = acting([call('pay', { amount: 5 })], {
      approvals: [{ tool: 'pay', expiresMs: 1_000 }],
    });
    const approval = talk.pendingOf('askHuman');

    expect(
      talk.say(
        {
          kind: 'approve',
          approval: approval as EffectId,
          hash: talk.context.approvals[approval]!.hash,
          ...by,
        },
        2_000,
      ),
    ).toMatchObject({ kind: 'seen' });
  });

  test('a session that paused for its model asks again when it is resumed, and not before', () => {
    const talk = thinking({ onModelFailure: 'pause' });
    talk.say({
      kind: 'modelFailed',
      effect: talk.pendingOf('callModel') as EffectId,
      failure: { class: 'permanent', code: 'BUSY', message: 'busy' },
      attempts: 4,
    });
    expect(talk.kinds).toEqual([]);
    talk.say({ kind: 'resume', ...by });

    expect(talk.wants).toMatchObject([{ kind: 'callModel', purpose: 'turn' }]);
    expect(talk.record).toMatchObject({ status: 'active', value: 'thinking' });
  });

  test('a parked session keeps what comes until it is resumed', () => {
    const talk = acting();
    const effect = talk.pendingOf('runTool');
    const parked = park(
      talk.record!,
      {
        message: { kind: 'wake' },
        at: talk.at + 1,
        position: { incarnation: 0, sequence: 50, index: 0 },
      },
      new Error('boom'),
      address,
    );
    if (parked.kind !== 'applied') throw new Error('not parked');
    expect(parked.record).toMatchObject({ status: 'parked', reason: 'STEP_CRASHED: boom' });
    const kept = step(
      parked.record,
      {
        message: returned(effect),
        at: talk.at + 2,
        position: { incarnation: 0, sequence: 51, index: 0 },
      },
      talk.definition,
      address,
    );
    expect(kept).toMatchObject({
      kind: 'applied',
      record: { status: 'parked', deferred: [{}] },
      effects: [],
    });
    const resumed = step(
      (kept as unknown as { record: never }).record,
      {
        message: { kind: 'resume', ...by },
        at: talk.at + 3,
        position: { incarnation: 0, sequence: 52, index: 0 },
      },
      talk.definition,
      address,
    );

    expect(resumed).toMatchObject({
      kind: 'applied',
      record: { status: 'active', value: 'thinking' },
      effects: [{ kind: 'callModel' }],
    });
  });

  test('a result of another kind settles nothing: a tool cannot answer for a model', () => {
    const talk = thinking();

    expect(talk.say(returned(talk.pendingOf('callModel')))).toMatchObject({ kind: 'seen' });
    expect(talk.pending).toHaveLength(1);
  });
});
