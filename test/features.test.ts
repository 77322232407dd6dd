/** docs/features.md promises by number; the tests it names must exist. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';

const root = join(import.meta.dirname, '..');
const page = readFileSync(join(root, 'docs/features.md'), 'utf8');
const rows = page
  .split('\n')
  .filter((line) => /^\| [RXU]\d+ /.test(line))
  .map((line) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );
const sources = readdirSync(join(root, 'test'), { recursive: true, withFileTypes: true })
  .filter((entry) => entry.name.endsWith('.test.ts'))
  .map((entry) => readFileSync(join(entry.parentPath, entry.name), 'utf8'))
  .join('\n');

describe('docs/features.md', () => {
  test('has one row for every number', () => {
    const wanted = [
      ...Array.from({ length: 99 }, (_, index) => `R${index + 1}`),
      ...Array.from({ length: 16 }, (_, index) => `X${index + 1}`),
      ...Array.from({ length: 21 }, (_, index) => `U${index + 1}`),
    ];
    expect(rows.map(([number]) => number)).toEqual(wanted);
  });

  test('every test that it names exists, and what has none says "not yet"', () => {
    const named = rows.flatMap(([number, , state = '', tests = '']) =>
      [...tests.matchAll(/`([^`]+)`/g)].map((match) => ({ number, state, name: match[1]! })),
    );
    expect(
      named
        .filter(({ name }) => !sources.includes(name))
        .map(({ number, name }) => `${number}: ${name}`),
    ).toEqual([]);
    expect(
      rows
        .filter(([, , state, tests]) => !tests?.includes('`') && !/not yet/.test(state ?? ''))
        .map(([number]) => number),
    ).toEqual([]);
  });

  test('every file that it names exists', () => {
    for (const match of page.matchAll(/\]\(\.\.\/([^)]+)\)/g))
      expect(() => readFileSync(join(root, match[1]!))).not.toThrow();
  });
});
