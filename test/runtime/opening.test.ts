import { describe, expect, test } from 'vitest';
import type { ShardPosition } from '../../services/ports/session-store.ts';
import { openingOf } from '../../services/runtime/opening.ts';

const at = (change: Partial<ShardPosition> = {}): ShardPosition => ({
  position: { incarnation: 2, sequence: 10, index: 0 },
  commits: 5,
  log: 100,
  queue: 7,
  at: 1_000_000_000,
  ...change,
});
const log = (change: Partial<{ created: number; first: number; last: number }> = {}) => ({
  created: 100,
  first: 5,
  last: 20,
  ...change,
});

describe('who opens a shard', () => {
  test('goes on where the last owner stopped', () => {
    expect(openingOf({ at: at() }, log(), 7)).toEqual({
      position: at().position,
      incarnation: 2,
      isReborn: false,
      readAfter: 10,
      offersAll: false,
      archive: undefined,
    });
  });

  test('takes all for new where another message stands at its position', () => {
    const stored = { at: at() };
    expect(openingOf(stored, log(), 7, 1_000_000_000).isReborn).toBe(false);
    expect(openingOf(stored, log(), 7, undefined).isReborn).toBe(false);
    expect(openingOf(stored, log(), 7, 1_000_000_001)).toMatchObject({
      isReborn: true,
      incarnation: 3,
      readAfter: 4,
    });
  });

  test.each([
    ['the log is another one', log({ created: 101 })],
    ['the log went back', log({ last: 9 })],
  ])('takes all that it holds for new where %s', (_what, bounds) => {
    expect(openingOf({ at: at() }, bounds, 7)).toEqual({
      position: at().position,
      incarnation: 3,
      isReborn: true,
      readAfter: 4,
      offersAll: true,
      archive: undefined,
    });
  });

  test('offers all that is pending to another life of the queue', () => {
    expect(openingOf({ at: at() }, log(), 8)).toMatchObject({ isReborn: false, offersAll: true });
  });

  test('asks baselines since its last mail where mail after it was trimmed, and none where the next is there', () => {
    expect(openingOf({ at: at() }, log({ first: 12 }), 7).archive).toEqual({
      since: 1_000_000_000 - 600_000,
    });
    expect(openingOf({ at: at({ at: undefined }) }, log({ first: 12 }), 7).archive).toEqual({
      since: undefined,
    });
    expect(openingOf({ at: at() }, log({ first: 11 }), 7).archive).toBeUndefined();
  });

  test('asks all of them where the store knows nothing, and reads the log from its beginning', () => {
    expect(openingOf({ at: undefined }, log(), 7)).toEqual({
      position: { incarnation: 0, sequence: 0, index: 0 },
      incarnation: 0,
      isReborn: false,
      readAfter: 0,
      offersAll: false,
      archive: { since: undefined },
    });
  });
});
