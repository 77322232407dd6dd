/** What the page makes of events: the picture of where time went. */
import { expect, test } from 'vitest';
import {
  inOrder,
  sharesOf,
  spansOf,
  type TimedEvent,
} from '../../services/console/page/timeline.ts';

const at = (ms: number) => new Date(1_700_000_000_000 + ms).toISOString();
const event = (
  version: number,
  ms: number,
  data: Partial<TimedEvent['data']>,
  suffix = '',
): TimedEvent => ({
  id: `s-${version}${suffix}`,
  type: 'dev.understudy.x',
  time: at(ms),
  data: {
    version,
    from: 'a',
    to: 'b',
    status: 'active',
    decisions: [],
    effects: [],
    details: {},
    ...data,
  },
});
const times = (events: readonly TimedEvent[]) =>
  spansOf(events).map(({ kind, what, from, to, workMs, outcome }) => [
    kind,
    what,
    from - 1_700_000_000_000,
    to && to - 1_700_000_000_000,
    workMs,
    outcome,
  ]);

const task = event(1, 0, { effects: [{ id: 'e1', kind: 'callModel' }] });
const replied = event(2, 200, {
  details: { effect: 'e1', model: 'gpt', latencyMs: 150, attempts: 1 },
  effects: [{ id: 'e2', kind: 'runTool', what: 'refund (keyed)' }],
});
const returned = event(3, 300, {
  details: { effect: 'e2', tool: 'refund', outcome: 'transient', latencyMs: 90, attempts: 3 },
  effects: [{ id: 'e3', kind: 'askHuman', what: 'refund' }],
});

test('each wait runs from the step that asked to the step that heard, its work at its end', () => {
  expect(times([task, replied, returned])).toEqual([
    ['model', 'gpt', 0, 200, 150, 'ok'],
    ['tool', 'refund', 200, 300, 90, 'transient'],
    ['approval', 'refund', 300, undefined, undefined, ''],
  ]);
  expect(spansOf([task, replied, returned])[1]?.attempts).toBe(3);
});

test('a decision of a person ends its wait', () => {
  expect(
    times([
      task,
      replied,
      returned,
      event(4, 9_000, { details: { approval: 'e3', decision: 'reject', actor: 'ada' } }),
    ]).at(-1),
  ).toEqual(['approval', 'refund', 300, 9_000, undefined, 'reject']);
});

test('what is open when the session ends ends with it', () => {
  const end = event(3, 400, { status: 'halted', to: 'halted' }, '-end0');
  expect(times([task, replied, returned, end]).at(-1)).toEqual([
    'approval',
    'refund',
    300,
    400,
    undefined,
    'given up',
  ]);
});

test('the end of one task of a session that goes on ends no wait of the next', () => {
  const end = event(3, 400, { status: 'active', to: 'completed' }, '-end0');
  expect(times([task, replied, returned, end]).at(-1)?.[3]).toBeUndefined();
});

test('events that come twice or late are put in order, an end after its step', () => {
  const end = event(3, 300, {}, '-end0');
  expect(inOrder([end, returned, task, replied, task]).map(({ id }) => id)).toEqual([
    's-1',
    's-2',
    's-3',
    's-3-end0',
  ]);
});

test('an answer that claims to have taken longer than the wait is cut to it', () => {
  expect(
    spansOf([task, event(2, 100, { details: { effect: 'e1', latencyMs: 5_000 } })])[0]?.workMs,
  ).toBe(100);
});

test('shares add up to the time of all waits, with what is open counted until now', () => {
  const shares = sharesOf(spansOf([task, replied, returned]), 1_700_000_001_300);
  expect(shares).toEqual([
    { kind: 'approval', ms: 1_000 },
    { kind: 'model', ms: 150 },
    { kind: 'tool', ms: 90 },
    { kind: 'queue', ms: 60 },
  ]);
});
