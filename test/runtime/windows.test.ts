import { expect, test } from 'vitest';
import { firstWindow } from '../../services/core/cluster/window.ts';
import type { EffectId } from '../../services/core/ids.ts';
import type { PooledEffect } from '../../services/core/session/effects.ts';
import type { Message } from '../../services/core/session/messages.ts';
import { Windows } from '../../services/runtime/windows.ts';

const effect = (tenant: string, id: number, pool = 'tools') => ({ kind: 'runTool', id: `${tenant}_${id}` as EffectId, tenant, pool }) as unknown as PooledEffect;
const many = (tenant: string, count: number) => Array.from({ length: count }, (_, index) => effect(tenant, index));
const answer = (performedMs = 0) => ({ kind: 'toolReturned', attempts: 1, latencyMs: performedMs }) as unknown as Message;

function open(queued = 0) {
  const left: string[] = [];
  let now = 1_000;
  let isAway = false;
  const windows = new Windows(
    {
      offer: async ({ id }) => {
        if (isAway) throw new Error('away');
        left.push(id);
      },
      pools: async () => [{ pool: 'tools', asking: 1, queued, inHand: 1 }],
    },
    { now: () => now },
  );
  return {
    windows,
    left,
    pass: (ms: number) => {
      now += ms;
    },
    away: (is: boolean) => {
      isAway = is;
    },
  };
}

test('a crowd of one tenant waits outside, and another tenant goes past it', () => {
  const { windows, left } = open();
  const shard = windows.open();

  for (const one of many('crowd', 500)) void shard.offer(one);
  void shard.offer(effect('calm', 0));

  expect(left).toEqual([...many('crowd', firstWindow.size).map(({ id }) => id as string), 'calm_0']);
  expect(windows.waiting).toBe(500 - firstWindow.size);
});

test('answers let the next ones in, in order, and each says that it has left', async () => {
  const { windows, left } = open();
  const shard = windows.open();
  const all = many('crowd', firstWindow.size + 3);
  const gone: string[] = [];
  for (const one of all) void shard.offer(one).then(() => gone.push(one.id));

  shard.answered(all[0]!.id, answer());
  await Promise.resolve();

  // One place was given back, and one was won: nobody had waited.
  expect(left).toEqual(all.slice(0, firstWindow.size + 2).map(({ id }) => id as string));
  await new Promise(setImmediate);
  expect(gone).toEqual(left);
});

test('what nobody wants any more does not leave, and holds nobody up', async () => {
  const { windows, left } = open();
  const shard = windows.open();
  const all = many('crowd', firstWindow.size + 2);
  const offers = all.map((one) => shard.offer(one));
  const [halted, last] = all.slice(-2);

  shard.answered(halted!.id, undefined);
  await offers.at(-2);
  shard.answered(all[0]!.id, undefined);

  expect(left).not.toContain(halted!.id);
  expect(left.at(-1)).toBe(last!.id);
  expect(windows.waiting).toBe(0);
});

test('of a shard that was lost nothing leaves, and its places are free for the others', () => {
  const { windows, left } = open();
  const [lost, kept] = [windows.open(), windows.open()];
  for (const one of many('crowd', firstWindow.size + 10)) void lost.offer(one);
  const mine = effect('crowd', 9_999);
  void kept.offer(mine);
  expect(left).not.toContain(mine.id);

  lost.close();

  expect(left.slice(firstWindow.size)).toEqual([mine.id]);
  expect(windows.waiting).toBe(0);
});

test('what is offered once more, because the queue was lost or away, needs no second place', async () => {
  const { windows, left, away } = open();
  const shard = windows.open();
  const all = many('crowd', firstWindow.size);
  away(true);
  for (const one of all) await expect(shard.offer(one)).rejects.toThrow('away');
  away(false);

  for (const one of all) await shard.offer(one);
  expect(left).toHaveLength(firstWindow.size);

  const waiting = effect('crowd', 9_999);
  void shard.offer(waiting);
  void shard.offer(waiting);
  shard.answered(all[0]!.id, undefined);
  shard.answered(all[1]!.id, undefined);
  expect(left.filter((id) => id === waiting.id)).toHaveLength(1);
});

test('effects that waited long in the queue make the window smaller; where the queue is empty it grows by itself', async () => {
  const { windows, left, pass } = open();
  const shard = windows.open();
  const all = many('crowd', 500);
  for (const one of all) void shard.offer(one);
  pass(60_000);

  shard.answered(all[0]!.id, answer(10));
  // Half of the window: until it is empty enough, nothing leaves.
  for (let count = 1; count < firstWindow.size / 2; count += 1) shard.answered(all[count]!.id, answer(10));
  expect(left).toHaveLength(firstWindow.size);

  await windows.widen();
  expect(left).toHaveLength(firstWindow.size + firstWindow.size / 2);
});

test('a full queue does not widen a window', async () => {
  const { windows, left } = open(7);
  const shard = windows.open();
  for (const one of many('crowd', 500)) void shard.offer(one);

  await windows.widen();

  expect(left).toHaveLength(firstWindow.size);
});
