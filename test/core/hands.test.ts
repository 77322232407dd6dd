/** Sharing hands among tenants: nobody is starved, nothing is lost, and no more is begun than there are hands. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Hands, mayBegin } from '../../services/core/cluster/hands.ts';

const begun = (hands: Hands, tenant: string, times: number) => {
  let count = 0;
  for (let index = 0; index < times; index += 1)
    hands.take(tenant, {
      begin: () => {
        count += 1;
      },
      giveBack: () => undefined,
    });
  return count;
};

test('one tenant alone has eight ninths of the hands, two that flood have the same, and some are left for a third', () => {
  const hands = new Hands(512);
  expect(begun(hands, 'a', 1_000)).toBe(456);
  expect(begun(hands, 'b', 1_000)).toBeGreaterThan(40);
  expect(begun(hands, 'c', 1)).toBe(1);
  expect(hands.waitingOf('a')).toBe(544);
});

test('few hands are all used', () => {
  for (let size = 1; size <= 8; size += 1) expect(begun(new Hands(size), 'a', 20)).toBe(size);
});

test('a hand that comes free goes to the tenant that holds the fewest', () => {
  const hands = new Hands(2);
  const order: string[] = [];
  for (const name of ['a1', 'a2', 'a3', 'a4', 'b1', 'c1']) hands.take(name[0]!, { begin: () => void order.push(name), giveBack: () => undefined });
  expect(order).toEqual(['a1', 'a2']);
  hands.release('a');
  hands.release('a');
  hands.release('b');
  expect(order).toEqual(['a1', 'a2', 'b1', 'a3', 'c1']);
});

test('with a single hand tenants take turns', () => {
  const hands = new Hands(1);
  const order: string[] = [];
  for (const name of ['a1', 'a2', 'a3', 'a4', 'b1', 'b2']) hands.take(name[0]!, { begin: () => void order.push(name), giveBack: () => undefined });
  while (hands.busy > 0) hands.release(order.at(-1)![0]!);
  expect(order).toEqual(['a1', 'a2', 'b1', 'a3', 'b2', 'a4']);
});

test('what waits is given back once, and not begun after that', () => {
  const hands = new Hands(1);
  const log: string[] = [];
  for (const name of ['x', 'y', 'z']) hands.take('a', { begin: () => void log.push(`begin ${name}`), giveBack: () => void log.push(`back ${name}`) });
  hands.giveBackAll();
  hands.release('a');
  hands.giveBackAll();
  expect(log).toEqual(['begin x', 'back y', 'back z']);
});

test('whatever comes in whatever order: never more than there are hands, everything is begun, nobody waits while he may begin', () => {
  const act = fc.oneof(fc.record({ take: fc.constantFrom('a', 'b', 'c') }), fc.record({ release: fc.nat() }));
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 20 }), fc.array(act, { maxLength: 200 }), (size, acts) => {
      const hands = new Hands(size);
      const running: string[] = [];
      let taken = 0;
      let count = 0;
      for (const one of acts) {
        if ('take' in one) {
          taken += 1;
          hands.take(one.take, {
            begin: () => {
              count += 1;
              running.push(one.take);
            },
            giveBack: () => undefined,
          });
        } else if (running.length > 0) hands.release(running.splice(one.release % running.length, 1)[0]!);
        expect(hands.busy).toBe(running.length);
        expect(running.length).toBeLessThanOrEqual(size);
        for (const tenant of ['a', 'b', 'c']) if (hands.waitingOf(tenant) > 0 && hands.heldBy(tenant) === 0) expect(mayBegin(0, hands.free)).toBe(false);
      }
      while (running.length > 0) hands.release(running.pop()!);
      expect(count).toBe(taken);
    }),
  );
});
