import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readStackFile, writeStackFile } from '../../services/local/stack-file.ts';

test('what a local stack wrote is read again, and half of it is none', () => {
  const folder = mkdtempSync(join(tmpdir(), 'stack-'));
  expect(readStackFile(folder)).toBeUndefined();
  const stack = { natsUrl: 'nats://a:1', redisUrl: 'redis://b:2', prefix: 'understudy', pids: [] };
  writeStackFile(folder, stack);
  expect(readStackFile(folder)).toEqual(stack);
  expect(readdirSync(folder)).toEqual(['stack.json']);
  writeFileSync(join(folder, 'stack.json'), '{"natsUrl":"nats://a');
  expect(readStackFile(folder)).toBeUndefined();
  rmSync(folder, { recursive: true });
});
