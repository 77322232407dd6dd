/** The official JSON-Schema-Test-Suite: right, or the schema is refused when it is loaded. Never silence. */
import { describe, expect, test } from 'vitest';
import { compiledSchema } from '../../services/core/schema/json-schema.ts';
import { fetchSuite, suiteOf } from '../support/json-schema-suite.ts';
import { isUnit } from '../support/unit.ts';

const why = isUnit ? 'is fetched from a registry' : fetchSuite();
const drafts: readonly (readonly [string, string])[] = [
  ['draft2020-12', 'https://json-schema.org/draft/2020-12/schema'],
  ['draft2019-09', 'https://json-schema.org/draft/2019-09/schema'],
  ['draft7', 'http://json-schema.org/draft-07/schema#'],
];
/** Optional in the suite, and decided otherwise here. */
const otherwise: readonly (readonly [RegExp, string])[] = [
  [/^format\.json$/, 'formats are assertions here: what a Tool writes is meant'],
  [
    /^optional\/format\/email\.json$/,
    'quoted and literal addresses are refused: nobody means them',
  ],
  [/^optional\/content\.json$/, 'what a text contains is an annotation, as since 2019-09'],
  [/^optional\/float-overflow\.json$/, 'no number beyond 2^53 is exact'],
];

describe.skipIf(why !== undefined)(
  `JSON-Schema-Test-Suite${why ? ` (skipped: ${why})` : ''}`,
  () => {
    test.each(drafts)('%s', (draft, $schema) => {
      let right = 0;
      let refused = 0;
      const wrong: string[] = [];
      for (const { file, description, schema, tests } of suiteOf(draft)) {
        if (typeof schema === 'boolean' || otherwise.some(([name]) => name.test(file))) continue;
        const compiled = compiledSchema({ $schema, ...(schema as object) });
        if (!compiled.ok) {
          expect(compiled.problem).not.toBe('');
          refused += tests.length;
          continue;
        }
        for (const one of tests) {
          if ((compiled.check(one.data) === undefined) === one.valid) right += 1;
          else wrong.push(`${file}: ${description}: ${one.description}`);
        }
      }
      expect(wrong).toEqual([]);
      expect(right).toBeGreaterThan(1_100);
      expect(refused / (right + refused)).toBeLessThan(0.25);
    });
  },
);
