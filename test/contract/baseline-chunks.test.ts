import { deflateRawSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { chunksOf, isChunk, joined } from '../../services/adapters/nats/baseline-chunks.ts';

const packed = (text: string) => deflateRawSync(text);

test('chunks are joined in order, whatever lies between them', () => {
  const one = packed('one more and another ');
  const two = packed('two '.repeat(50));
  const [a, b] = [chunksOf(one, 15), chunksOf(two, 15)];
  const whole = packed('whole');
  expect(a.length).toBeGreaterThan(2);
  const mixed = [a[0]!, b[0]!, whole, a[1]!, a[1]!, ...b.slice(1), ...a.slice(2)];
  expect(joined(mixed).map((bytes) => Buffer.from(bytes))).toEqual([whole, two, one]);
});

test('a set whose writer died in the middle is none, and neither is rubbish', () => {
  const chunks = chunksOf(packed('one more and another '), 15);
  expect(joined(chunks.slice(0, -1))).toEqual([]);
  expect(joined(chunks.slice(1))).toEqual([]);
  expect(joined([Buffer.from([7]), Buffer.from([7, 1, 2])])).toEqual([]);
});

test('no deflated text looks like a chunk', () => {
  for (let length = 0; length < 2_000; length += 1) {
    for (const level of [0, 1, 6, 9])
      expect(isChunk(deflateRawSync('x'.repeat(length), { level }))).toBe(false);
  }
});
