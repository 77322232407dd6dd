import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { bytesBelow } from '../../services/sandbox/watch.ts';

test('folders, links and empty files take room as well, and what is looked at is bounded', () => {
  const folder = mkdtempSync(join(tmpdir(), 'watch-'));
  for (let count = 0; count < 100; count += 1) mkdirSync(join(folder, `d${count}`));
  for (let count = 0; count < 100; count += 1)
    writeFileSync(join(folder, `d${count}`, 'empty'), '');
  symlinkSync('/', join(folder, 'link'));
  expect(bytesBelow(folder, 10_000_000)).toBe(201 * 4_096);
  const found = bytesBelow(folder, 10_000);
  expect(found).toBeGreaterThan(10_000);
  expect(found).toBeLessThan(20_000);
  rmSync(folder, { recursive: true });
});
