import fc from 'fast-check';
import { expect, test } from 'vitest';
import { letterText } from '../../services/core/wire/letter-text.ts';

test('a letter that fits is kept as it is', () => {
  const letter = { code: 'X', body: '{"a":1}', headers: { b: 'c' } };
  expect(JSON.parse(letterText(letter, 1_000))).toEqual(letter);
});

test('one that does not fit is cut to the last character that does, however much longer its JSON is', () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom('a', '"', '\\', '\u0000', 'é', '日', '\n'), { maxLength: 400 }),
      fc.integer({ min: 200, max: 1_500 }),
      (characters, bytesMax) => {
        const letter = { code: 'X', body: characters.join(''), headers: {} };
        const text = letterText(letter, bytesMax);
        const kept = JSON.parse(text) as typeof letter & { isCut?: boolean };

        expect(Buffer.byteLength(text)).toBeLessThanOrEqual(bytesMax);
        expect(letter.body.startsWith(kept.body)).toBe(true);
        expect(kept.isCut ?? false).toBe(kept.body !== letter.body);
        if (kept.isCut) expect(Buffer.byteLength(text)).toBeGreaterThan(bytesMax - 8);
      },
    ),
  );
});

test('headers that are most of it are left out before the body is cut', () => {
  const kept = JSON.parse(
    letterText({ body: 'x'.repeat(100), headers: { padding: 'y'.repeat(900) } }, 1_000),
  ) as object;
  expect(kept).toEqual({ body: 'x'.repeat(100), headers: {}, isCut: true });
});
