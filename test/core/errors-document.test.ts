/** docs/errors.md knows every code that the services refuse with. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '../..');

test('every code that somebody may be told stands in docs/errors.md', () => {
  const text = readFileSync(join(root, 'docs/errors.md'), 'utf8');
  const known = new Set([...text.matchAll(/`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`/g)].map(([, c]) => c));
  const files = readdirSync(join(root, 'services'), { recursive: true, encoding: 'utf8' });
  const missing = new Set<string>();
  for (const file of files.filter(
    (name) => name.endsWith('.ts') && !name.startsWith('adapters/memory'),
  )) {
    const source = readFileSync(join(root, 'services', file), 'utf8');
    // Of errors, failures and refusals of a call.
    const codes = source.matchAll(
      /(?:new (?:Refused|Unavailable|Later)\(|code: |failed\(\s*'\w+',|(?:notBegun|neverSent)\(\s*'\w+',)\s*'([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)'/g,
    );
    for (const [, code] of codes) if (!known.has(code)) missing.add(`${code} (${file})`);
  }
  expect([...missing]).toEqual([]);
});
