import { expect, test } from 'vitest';
import { approvalShown, escaped, escapedLine, printable } from '../../services/core/format.ts';

test('what would steer a terminal is shown, and lines and columns stay', () => {
  expect(printable('\u001b[31mred\u001b]0;title\u0007\u009b2J\u007f\r')).toBe(
    '·[31mred·]0;title··2J··',
  );
  expect(printable('a,b\r\nc\r')).toBe('a,b\r\nc·');
  expect(printable('a\tb\nç…日')).toBe('a\tb\nç…日');
});

const point = (code: number) => String.fromCodePoint(code);

test.each(
  [
    0x00, 0x1b, 0x7f, 0x9b, 0xa0, 0xad, 0x034f, 0x061c, 0x115f, 0x1680, 0x17b4, 0x180e, 0x2000,
    0x200b, 0x200d, 0x2028, 0x202e, 0x202f, 0x205f, 0x2066, 0x2800, 0x3000, 0x3164, 0xd800, 0xe000,
    0xfdd0, 0xfe0f, 0xfeff, 0xffa0, 0xfff9, 0xfffc, 0xffff, 0x13441, 0x1d159, 0xe0041, 0xf0000,
  ].map((code) => [code.toString(16), code] as const),
)('escaped shows U+%s by its number', (_name, code) => {
  expect(escaped(`a${point(code)}b`)).toBe(`a\\u{${code.toString(16).padStart(4, '0')}}b`);
});

test.each([
  'plain words, with "signs" (and) {braces}: €10,000.00 ≤ 5 % + ½',
  'ç e\u0301 日本語 العربية עברית हिन्दी 한국어 ไทย ё ß ﬁ',
  '😀 ❤️ 👩‍💻 👍🏽 🇩🇪 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿',
  'lines\nand\r\ncolumns\t',
  '\ufffd · … — “quoted”',
])('escaped leaves %j as it is', (text) => {
  expect(escaped(text)).toBe(text);
});

test('escapedLine keeps a text on its line', () => {
  expect(escapedLine('a\nb\r\nc\td')).toBe('a\\u{000a}b\\u{000d}\\u{000a}c\\u{0009}d');
});

test('an approval is shown escaped in every field that others wrote', () => {
  const { tool, line, whole } = approvalShown({
    tool: 'pay\nhash x\u202e',
    arguments: JSON.stringify({ question: 'Pay 10\u2800000?\nhash x' }),
  });
  expect(tool).toBe('pay\\u{000a}hash x\\u{202e}');
  expect(line).toBe('{"question":"Pay 10\\u{2800}000?\\nhash x"}');
  expect(whole).toBe('{\n  "question": "Pay 10\\u{2800}000?\\nhash x"\n}');
});
