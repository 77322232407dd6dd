import { expect, test } from 'vitest';
import { printable } from '../../services/core/format.ts';

test('what would steer a terminal is shown, and lines and columns stay', () => {
  expect(printable('\u001b[31mred\u001b]0;title\u0007\u009b2J\u007f\r')).toBe(
    '·[31mred·]0;title··2J··',
  );
  expect(printable('a,b\r\nc\r')).toBe('a,b\r\nc·');
  expect(printable('a\tb\nç…日')).toBe('a\tb\nç…日');
});
