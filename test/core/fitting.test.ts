/** What one answer carries. */
import { expect, test } from 'vitest';
import { fitting } from '../../services/core/fitting.ts';

test('as many of the first as fit, by the bytes of their JSON, and the very first in any case', () => {
  expect(fitting(['aa', 'bb', 'cc'], 8)).toEqual(['aa', 'bb']);
  expect(fitting(['aa', 'bb', 'cc'], 12)).toEqual(['aa', 'bb', 'cc']);
  expect(fitting(['a'.repeat(100), 'b'], 8)).toEqual(['a'.repeat(100)]);
  expect(fitting(['"""', 'b'], 8)).toEqual(['"""']); // eight bytes with their escapes
  expect(fitting([], 8)).toEqual([]);
});
