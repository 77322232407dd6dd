import { expect, test } from 'vitest';
import type { Health } from '../../services/core/wire/control-answers.ts';
import { checksOf, isHealthy } from '../../services/core/wire/health-checks.ts';

const well: Health = {
  shards: 2,
  owned: 2,
  orphans: [],
  hosts: ['a'],
  owners: { 0: 'a', 1: 'a' },
  mail: { first: 1, last: 0 },
  oldestMailNeeded: 1,
  deadLetters: 0,
  tasks: { waiting: 0, stuck: false, isTaken: true },
  parked: 0,
  failed: 0,
  pools: [{ pool: 'models', asking: 1, queued: 0, inHand: 0 }],
  agents: [{ name: 'desk', revision: '0123456789', tools: 1, isLastGood: false }],
  problems: [],
};

test('all is well when each check is', () => {
  expect([isHealthy(well), checksOf(well).map(({ verdict }) => verdict)]).toEqual([
    true,
    ['good', 'good', 'good', 'good', 'good', 'good'],
  ]);
});

test.each<[string, Partial<Health>, string]>([
  ['a shard without owner', { orphans: [1], owned: 1 }, 'shards'],
  ['no agent', { agents: [] }, 'agents'],
  ['nobody who takes tasks in', { tasks: { waiting: 0, stuck: false, isTaken: false } }, 'tasks'],
  [
    'a task behind what was acknowledged',
    { tasks: { waiting: 1, stuck: true, isTaken: true } },
    'tasks',
  ],
  [
    'a pool that nobody asks for work',
    { pools: [{ pool: 'models', asking: 0, queued: 3, inHand: 0 }] },
    'pool',
  ],
  [
    'a document that was refused',
    { problems: [{ file: 'a.yaml', field: 'spec', message: 'is missing' }] },
    'document',
  ],
])('%s is bad, for all who ask', (_what, change, what) => {
  const found = checksOf({ ...well, ...change });
  expect(found.filter(({ verdict }) => verdict === 'bad').map((check) => check.what)).toEqual([
    what,
  ]);
  expect(isHealthy({ ...well, ...change })).toBe(false);
});

test.each([
  ['before the first message', 0, 0],
  ['after the last was needed', 8, 7],
])('mail is empty %s', (_when, first, last) => {
  expect(
    checksOf({ ...well, mail: { first, last } }).find(({ what }) => what === 'mail')?.text,
  ).toBe('mail: empty');
});

test('dead letters are worth a look, and a pool at work without a request is well', () => {
  const health = {
    ...well,
    deadLetters: 3,
    pools: [{ pool: 'models', asking: 0, queued: 0, inHand: 2 }],
  };
  expect(checksOf(health).find(({ what }) => what === 'dead letters')?.verdict).toBe('look');
  expect(isHealthy(health)).toBe(true);
});

test('parked and failed sessions are worth a look', () => {
  const health = { ...well, parked: 2, failed: 1 };
  const look = checksOf(health).filter(({ verdict }) => verdict === 'look');
  expect(look.map(({ text }) => text)).toEqual(['parked sessions: 2', 'failed within an hour: 1']);
});
