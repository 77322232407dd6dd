import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Recent } from '../../services/core/recent.ts';

test('the last so many keys are kept, a key that comes again keeps its place and takes its new value', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 6 }),
      fc.array(fc.tuple(fc.integer({ min: 0, max: 9 }), fc.nat())),
      (max, pairs) => {
        const recent = new Recent<number, number>(max);
        let model: [number, number][] = [];
        for (const [key, value] of pairs) {
          recent.set(key, value);
          model = model.some(([known]) => known === key)
            ? model.map((pair) => (pair[0] === key ? [key, value] : pair))
            : [...model, [key, value] as [number, number]].slice(-max);
          for (let one = 0; one < 10; one += 1) {
            const kept = model.find(([known]) => known === one);
            expect(recent.has(one)).toBe(kept !== undefined);
            expect(recent.get(one)).toBe(kept?.[1]);
          }
        }
      },
    ),
  );
});
