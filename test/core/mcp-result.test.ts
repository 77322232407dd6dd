/** How much of an answer is compared: each of many parts with a large structure would hold the loop. */
import { expect, test } from 'vitest';
import { outcomeOfMcp } from '../../services/core/tools/mcp-result.ts';

const structuredContent = { total: 3, note: 'three of them' };
const same = { type: 'text', text: JSON.stringify(structuredContent) };

test.each([
  [8, structuredContent],
  [9, { structuredContent, content: Array(9).fill(same.text) }],
])('the same in %d parts', (count, value) => {
  const content = Array.from({ length: count }, () => same);
  expect(outcomeOfMcp('t', { content, structuredContent })).toEqual({ ok: true, value });
});

test('a structure that is too large is not looked through', () => {
  const large = { text: 'x'.repeat(300_000) };
  const content = [{ type: 'text', text: 'xxx' }];
  expect(outcomeOfMcp('t', { content, structuredContent: large })).toMatchObject({
    value: { content: 'xxx' },
  });
});

test('a part of the structure in words says nothing more', () => {
  const list = [{ name: 'A', n: 1 }];
  const content = [{ type: 'text', text: JSON.stringify(list, undefined, 2) }];
  const whole = { entities: list };
  expect(outcomeOfMcp('t', { content, structuredContent: whole })).toEqual({
    ok: true,
    value: whole,
  });
});
