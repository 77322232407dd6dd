/** The checker must find what it is there to find: a history that holds, and for each invariant histories that break it. */

import { describe, expect, test } from 'vitest';
import { countedBetween, countsIn } from '../../chaos/checker/counters.ts';
import type { History } from '../../chaos/checker/history.ts';
import { judge, scoreOf } from '../../chaos/checker/invariants.ts';
import type { EventData, UnderstudyEvent } from '../../services/core/wire/cloud-event.ts';

const at = (ms: number) => new Date(1_000_000 + ms).toISOString();
function event(
  session: string,
  version: number,
  kind: string,
  ms: number,
  data: Partial<EventData> = {},
  end = '',
): UnderstudyEvent {
  return {
    specversion: '1.0',
    id: `${session}-${version}${end}`,
    source: 'understudy/acme/desk',
    type: `dev.understudy.${kind}`,
    subject: session,
    time: at(ms),
    data: {
      tenant: 'acme',
      agent: 'desk',
      session,
      task: `t-${session}`,
      version,
      from: 'a',
      to: 'b',
      status: 'active',
      decisions: [],
      effects: [],
      details: {},
      ...data,
    },
  };
}
const spent = { steps: 2, toolCalls: 1, tokens: 100, costMicros: 10 };
const call = { tool: 'keyed', key: 's1-e1', session: 's1', tenant: 'acme', at: 1_000_500 };
const good: History = {
  accepted: [
    { task: 't-s1', tenant: 'acme', at: 1_000_000 },
    { task: 't-s2', tenant: 'acme', at: 1_000_000 },
    { task: 't-bad', tenant: 'acme', at: 1_000_000 },
  ],
  events: [
    event('s1', 1, 'task-received', 0, { effects: [{ id: 's1-m1', kind: 'callModel' }] }),
    event('s1', 2, 'model-replied', 100, {
      effects: [{ id: 's1-e1', kind: 'runTool', what: 'keyed (keyed)' }],
    }),
    event('s1', 3, 'tool-returned', 2_600, { details: { effect: 's1-e1', outcome: 'ok' } }),
    event('s1', 4, 'model-replied', 2_700),
    event('s1', 4, 'completed', 2_700, { spent }, '-end0'),
    event('s2', 1, 'task-received', 0, { effects: [{ id: 's2-h1', kind: 'askHuman' }] }),
  ],
  dead: [{ task: 't-bad', code: 'TASK_NOT_JSON' }],
  live: [
    {
      session: 's2',
      tenant: 'acme',
      task: 't-s2',
      status: 'active',
      waitsFor: ['askHuman'],
      shard: 3,
      shardByHash: 3,
    },
  ],
  classes: { keyed: 'keyed', pure: 'pure', guarded: 'keyed' },
  world: { calls: [call], effects: [call], leaks: [] },
  guarded: ['guarded'],
  limits: { desk: { stepsMax: 10, toolCallsMax: 10, tokensMax: 1_000, costMicrosMax: 1_000 } },
  verified: [{ session: 's1', isEqual: true }],
  store: { outbox: 0, overdue: [], orphans: [] },
  metrics: { stepsCommitted: 5, stepsTold: 5, refusedZombies: 1, isComplete: true },
  faults: [{ name: 'kill', at: 1_000_300, healedAt: 1_000_400, isObserved: true }],
  isZombieExpected: true,
  endedAt: 1_003_000,
  boundMs: 10_000,
};

test('a history in which all holds', () => {
  expect(judge(good).map(({ number, result, broken }) => [number, result, broken])).toEqual(
    Array.from({ length: 11 }, (_, index) => [index + 1, 'holds', []]),
  );
});

test('the score counts what happened, and how long the disturbed sessions stood still', () => {
  expect(scoreOf(good)).toMatchObject({
    started: 3,
    completed: 1,
    waiting: 1,
    deadLettered: 1,
    lost: 0,
    doubled: 0,
    unknown: 0,
    resumeP50Ms: 2_300,
    drainMs: 2_600,
  });
});

const cases: readonly (readonly [number, string, History, RegExp])[] = [
  [
    1,
    'a task that nobody knows',
    { ...good, accepted: [...good.accepted, { task: 'gone', tenant: 'acme', at: 0 }] },
    /gone: lost/,
  ],
  [
    1,
    'a task that ended twice',
    { ...good, events: [...good.events, event('s1', 4, 'failed', 2_800, {}, '-end1')] },
    /t-s1: ended 2 times/,
  ],
  [
    1,
    'an end that is stored twice',
    { ...good, events: [...good.events, event('s1', 4, 'completed', 2_700, { spent }, '-end0')] },
    /t-s1: ended 2 times/,
  ],
  [
    1,
    'a dead letter that is stored twice',
    { ...good, dead: [...good.dead, ...good.dead] },
    /t-bad: 2 dead letters/,
  ],
  [
    1,
    'a task that ended and is a dead letter',
    { ...good, dead: [...good.dead, { task: 't-s1', code: 'AGENT_UNKNOWN' }] },
    /t-s1: ended, and is a dead letter/,
  ],
  [
    2,
    'an effect that happened twice',
    { ...good, world: { ...good.world, effects: [call, call] } },
    /s1-e1: took effect 2 times/,
  ],
  [
    2,
    'an effect that nobody asked for',
    { ...good, world: { ...good.world, effects: [call, { ...call, key: 'x' }] } },
    /x: keyed took effect, and no committed step/,
  ],
  [
    2,
    "an effect under another's name",
    { ...good, world: { ...good.world, effects: [{ ...call, session: 's2' }] } },
    /keyed of s2/,
  ],
  [
    2,
    'a result that was made up',
    { ...good, world: { ...good.world, effects: [] } },
    /said to be done/,
  ],
  [
    3,
    'a gap in the versions',
    { ...good, events: good.events.filter(({ id }) => id !== 's1-2') },
    /s1: 3 steps are told of 4/,
  ],
  [
    3,
    'the same version told in two ways',
    { ...good, events: [...good.events, event('s1', 2, 'model-failed', 150)] },
    /s1-2: told as/,
  ],
  [
    3,
    'no zombie was refused where one had to be',
    { ...good, metrics: { ...good.metrics, refusedZombies: 0 } },
    /proved nothing/,
  ],
  [
    4,
    'a fold that differs',
    { ...good, verified: [{ session: 's1', isEqual: false }] },
    /s1: the fold/,
  ],
  [
    4,
    'a fold that nobody answers for',
    { ...good, verified: [{ session: 's1', isEqual: false, refusal: 'no runtime answered' }] },
    /s1: no runtime answered/,
  ],
  [
    5,
    'more spent than allowed',
    { ...good, limits: { desk: { ...good.limits.desk!, tokensMax: 99 } } },
    /s1: spent 100 tokens of 99/,
  ],
  [
    6,
    'an outbox that is not empty',
    { ...good, store: { ...good.store, outbox: 2 } },
    /2 outbox entries/,
  ],
  [
    6,
    'a timer that is overdue',
    { ...good, store: { ...good.store, overdue: ['s2'] } },
    /s2: a timer/,
  ],
  [6, 'a shard without an owner', { ...good, store: { ...good.store, orphans: [7] } }, /shard 7/],
  [
    7,
    "another tenant's words in a prompt",
    { ...good, world: { ...good.world, leaks: ['mark-of-acme mark-of-globex'] } },
    /two tenants/,
  ],
  [
    7,
    'a tool called for another tenant',
    { ...good, world: { ...good.world, calls: [{ ...call, tenant: 'globex' }] } },
    /called for globex/,
  ],
  [
    7,
    "a session in another tenant's place",
    { ...good, live: [{ ...good.live[0]!, shardByHash: 9 }] },
    /lies in shard 3/,
  ],
  [
    8,
    'a guarded effect that nobody approved',
    {
      ...good,
      events: good.events.map((one) =>
        one.id === 's1-2'
          ? {
              ...one,
              data: {
                ...one.data,
                effects: [{ id: 's1-e1', kind: 'runTool', what: 'guarded (keyed)' }],
              },
            }
          : one,
      ),
      world: { ...good.world, effects: [{ ...call, tool: 'guarded' }] },
    },
    /without an approval/,
  ],
  [
    9,
    'work that never ended',
    { ...good, live: [{ ...good.live[0]!, waitsFor: ['callModel'] }] },
    /t-s2: still running/,
  ],
  [9, 'work that ended too late', { ...good, boundMs: 1_000 }, /only 2600 ms after/],
  [
    10,
    'a counter that says something else',
    { ...good, metrics: { ...good.metrics, stepsCommitted: 6 } },
    /6 steps are counted, 5 are told/,
  ],
  [
    11,
    'a fault that nobody saw',
    { ...good, faults: [{ ...good.faults[0]!, isObserved: false }] },
    /kill: planned/,
  ],
  [11, 'no work to disturb', { ...good, accepted: [] }, /no task was accepted/],
];

describe('finds', () => {
  test.each(cases)('invariant %i: %s', (number, _what, history, reason) => {
    const verdict = judge(history)[number - 1]!;
    expect(verdict.result).toBe('broken');
    expect(verdict.broken.join('\n')).toMatch(reason);
  });

  test('each invariant has a history that breaks it', () => {
    expect(new Set(cases.map(([number]) => number)).size).toBe(11);
  });

  test('what cannot be judged is not said to hold', () => {
    expect(
      judge({ ...good, verified: [], metrics: { ...good.metrics, isComplete: false } })
        .filter(({ result }) => result === 'not judged')
        .map(({ number }) => number),
    ).toEqual([4, 10]);
  });
});

describe('what runtimes count', () => {
  const metrics = (startedAt: number, steps: number, fenced: number) =>
    `# HELP x\nprocess_start_time_seconds ${startedAt}\nunderstudy_steps_committed_total{instance="a"} ${steps}\nunderstudy_fenced_total{shard="1"} ${fenced}\nunderstudy_fenced_total{shard="2"} 1\n`;

  test('is read from their metrics', () => {
    expect(countsIn(metrics(1_700_000_000.5, 12, 3))).toEqual({
      startedAt: 1_700_000_000.5,
      steps: 12,
      fenced: 4,
    });
    expect(countsIn('')).toEqual({ startedAt: 0, steps: 0, fenced: 0 });
  });

  test('counts from where it stood before, of one that was started again from nought', () => {
    const before = {
      a: { startedAt: 1, steps: 100, fenced: 5 },
      b: { startedAt: 1, steps: 50, fenced: 0 },
    };
    expect(
      countedBetween(before, {
        a: { startedAt: 1, steps: 130, fenced: 6 },
        b: { startedAt: 1, steps: 50, fenced: 0 },
      }),
    ).toEqual({
      stepsCommitted: 30,
      refusedZombies: 1,
      isWhole: true,
    });
    expect(
      countedBetween(before, {
        a: { startedAt: 2, steps: 7, fenced: 1 },
        b: { startedAt: 1, steps: 51, fenced: 0 },
      }),
    ).toEqual({
      stepsCommitted: 8,
      refusedZombies: 1,
      isWhole: false,
    });
    expect(
      countedBetween(before, {
        a: { startedAt: 1, steps: 100, fenced: 5 },
        c: { startedAt: 3, steps: 4, fenced: 0 },
      }),
    ).toMatchObject({ stepsCommitted: 4, isWhole: false });
    expect(countedBetween({}, { a: { startedAt: 1, steps: 4, fenced: 0 } })).toMatchObject({
      isWhole: false,
    });
  });
});
