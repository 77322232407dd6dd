import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { EffectId } from '../../services/core/ids.ts';
import { parseRecord } from '../../services/core/session/migrate.ts';
import { step } from '../../services/core/session/step.ts';
import { definitionOf, replied } from '../support/sessions.ts';

const golden = readFileSync(join(import.meta.dirname, '../golden/records/schema-1.json'), 'utf8');

test('a record of schema 1 is lifted, and its session goes on where it stopped', () => {
  const record = parseRecord(golden);
  expect(record).toMatchObject({
    schema: 2,
    position: { incarnation: 0, sequence: 117, index: 0 },
    deferred: [],
    isKeyed: false,
    version: 3,
  });

  const effect = Object.keys(record.pending)[0]!;
  const next = step(
    record,
    {
      message: replied(effect, { content: 'done' }),
      at: 1_793_000_001_000,
      position: { incarnation: 0, sequence: 118, index: 0 },
    },
    definitionOf(),
    record,
  );
  expect(next).toMatchObject({
    kind: 'applied',
    record: { status: 'completed', version: 4, output: 'done' },
  });
  expect(effect satisfies string as EffectId).toContain('_3_0');
});

describe('what is no record is refused with the reason', () => {
  test.each([
    ['not JSON', '{"schema": 2,', 'is not JSON'],
    ['no schema', '{"version": 1}', 'no schema number'],
    ['a newer schema', '{"schema": 99}', 'this release knows 2'],
    ['an unknown old schema', '{"schema": 0}', 'nothing lifts'],
    ['a field of the wrong kind', golden.replace(/"version": ?3/, '"version":"three"'), 'version'],
  ])('%s', (_name, text, reason) => {
    expect(() => parseRecord(text)).toThrow(reason);
  });
});
