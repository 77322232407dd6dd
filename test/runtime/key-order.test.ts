import fc from 'fast-check';
import { expect, test } from 'vitest';
import { KeyOrder } from '../../services/runtime/key-order.ts';

test('whatever is handed back and comes again in whatever order, tasks go in by their sequence', () => {
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
          // The broker offers what was handed back in any order, and new tasks in theirs.
          const isNew = fresh <= count && (out.length === 0 || roll() < 50);
          const sequence = isNew ? fresh++ : (out.splice(roll() % out.length, 1)[0] as number);
          const hasRoom = roll() < 60;
          if (order.isNext(sequence) && hasRoom) {
            order.readmit(sequence);
            heard.push(sequence);
          } else {
            order.handBack(sequence, 0);
            out.push(sequence);
          }
        }
        expect(heard).toEqual(Array.from({ length: count }, (_, index) => index + 1));
        expect(order.isEmpty).toBe(true);
      },
    ),
  );
});

test('one that was handed back and is not stored any more holds its key back for a while only', () => {
  const order = new KeyOrder();
  order.handBack(1, 0);
  order.handBack(2, 0);
  order.handBack(2, 900);
  order.forgetGone(999, 1_000);
  expect(order.isNext(2)).toBe(false);
  order.forgetGone(1_000, 1_000);
  // The other still comes.
  expect([order.isNext(2), order.isNext(3)]).toEqual([true, false]);
});
