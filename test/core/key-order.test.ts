import fc from 'fast-check';
import { expect, test } from 'vitest';
import { KeyOrder } from '../../services/runtime/key-order.ts';

test('whatever is given back and comes again in whatever order, tasks go in by their place', () => {
  fc.assert(
    fc.property(
      fc.infiniteStream(fc.nat({ max: 99 })),
      fc.integer({ min: 1, max: 30 }),
      (dice, count) => {
        const order = new KeyOrder();
        const heard: number[] = [];
        let fresh = 1;
        const out: number[] = [];
        const roll = () => dice.next().value as number;
        for (let turn = 0; heard.length < count && turn < 10_000; turn += 1) {
          // The broker offers what was given back in any order, and new tasks in theirs.
          const isNew = fresh <= count && (out.length === 0 || roll() < 50);
          const place = isNew ? fresh++ : (out.splice(roll() % out.length, 1)[0] as number);
          const hasRoom = roll() < 60;
          if (order.isNext(place, 0, 1_000) && hasRoom) {
            order.comesIn(place, 0);
            heard.push(place);
          } else {
            order.giveBack(place, 0);
            out.push(place);
          }
        }
        expect(heard).toEqual(Array.from({ length: count }, (_, index) => index + 1));
        expect(order.isEmpty).toBe(true);
      },
    ),
  );
});

test('one that was given back and is not stored any more holds its key back for a while only', () => {
  const order = new KeyOrder();
  order.giveBack(1, 0);
  order.giveBack(2, 0);
  expect(order.isNext(2, 999, 1_000)).toBe(false);
  expect(order.isNext(2, 1_000, 1_000)).toBe(true);
});
