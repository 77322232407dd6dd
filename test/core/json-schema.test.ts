/** Arguments of tools are checked as their schema says, or the Tool is refused; and nobody waits for it. */
import { describe, expect, test } from 'vitest';
import { parseSpecs } from '../../services/adapters/files/spec-parser.ts';
import { threadedChecks } from '../../services/adapters/threads/schema-checks.ts';
import { isCheckedAtOnce, weightOf } from '../../services/core/schema/cost.ts';
import { compiledSchema } from '../../services/core/schema/json-schema.ts';
import { linearPattern } from '../../services/core/schema/pattern.ts';
import { checkCall, checkedBefore } from '../../services/core/session/tool-calls.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import { bundleOf, call, definitionOf, replied, Talk, task } from '../support/sessions.ts';

const problemOf = (schema: object, value: unknown) => {
  const compiled = compiledSchema(schema as never);
  if (!compiled.ok) throw new Error(compiled.problem);
  return compiled.check(value);
};
const refusalOf = (schema: object) => {
  const compiled = compiledSchema(schema as never);
  return compiled.ok ? undefined : compiled.problem;
};

test('a schema that would answer later is refused: no promise is a verdict', () => {
  const late = { $async: true, type: 'object', properties: { cents: { maximum: 5 } } };
  expect(refusalOf(late)).toContain('$async');
  expect(refusalOf({ type: 'object', properties: { a: late } })).toContain('$async');
});

test('hundreds of schemas, each with its own verdict: none is taken for another', () => {
  const schemas = Array.from({ length: 300 }, (_, n) => ({
    type: 'object',
    properties: { a: { const: n }, [`x${n}`]: { type: 'string', pattern: `^${n}$` } },
    required: ['a'],
    additionalProperties: false,
    ...(n % 3 === 0 ? { $id: 'https://same.example/all', 'x-note': n } : {}),
    ...(n % 7 === 0 ? { $defs: { d: { const: n } }, allOf: [{ $ref: '#/$defs/e' }] } : {}),
  }));
  for (const [n, schema] of schemas.entries()) {
    if (n % 7 === 0) (schema as { $defs?: object }).$defs = { e: { required: [`x${n}`] } };
    const value = { a: n, [`x${n}`]: String(n) };
    expect(problemOf(schema, value)).toBeUndefined();
    expect(problemOf(schema, { ...value, a: n + 1 })).toContain('a must be');
    expect(problemOf(schema, { ...value, [`x${n + 1}`]: 'x' })).toContain('must NOT have');
  }
});

describe('a schema is enforced', () => {
  test.each<[string, object, unknown, RegExp]>([
    [
      'a tree, by way of a definition',
      {
        type: 'object',
        properties: { below: { $ref: '#/$defs/list' }, n: { type: 'integer' } },
        $defs: { list: { type: 'array', items: { $ref: '#' } } },
      },
      { below: [{ below: [{ n: 'x' }] }] },
      /below\.0\.below\.0\.n must be integer/,
    ],
    [
      '$ref to a property',
      { type: 'object', properties: { a: { type: 'integer' }, b: { $ref: '#/properties/a' } } },
      { b: 'x' },
      /b must be integer/,
    ],
    [
      '$defs',
      { $defs: { n: { minimum: 3 } }, properties: { n: { $ref: '#/$defs/n' } } },
      { n: 1 },
      /n must be >= 3/,
    ],
    [
      'definitions',
      { definitions: { n: { minimum: 3 } }, properties: { n: { $ref: '#/definitions/n' } } },
      { n: 1 },
      /n must be >= 3/,
    ],
    [
      'a format',
      { properties: { day: { type: 'string', format: 'date' } } },
      { day: '2026-02-30' },
      /day must match format "date"/,
    ],
    [
      'a number of a protocol',
      { properties: { n: { type: 'integer', format: 'int32' } } },
      { n: 2 ** 40 },
      /int32/,
    ],
    ['what is not allowed', { additionalProperties: false }, { extra: 1 }, /extra/],
    ['one of', { properties: { a: { enum: ['x', 'y'] } } }, { a: 'z' }, /"x","y"/],
    [
      'if, then',
      JSON.parse(
        '{"if":{"properties":{"a":{"const":1}},"required":["a"]},"then":{"required":["b"]}}',
      ),
      { a: 1 },
      /required property 'b'/,
    ],
    ['not', { not: { required: ['a'] } }, { a: 1 }, /must NOT be valid/],
    ['dependentRequired', { dependentRequired: { a: ['b'] } }, { a: 1 }, /b/],
    ['names of every object', { required: ['constructor'] }, {}, /constructor/],
    [
      'draft-07',
      {
        $schema: 'http://json-schema.org/draft-07/schema#',
        items: [{ type: 'string' }],
        type: 'array',
      },
      [1],
      /must be string/,
    ],
  ])('%s', (_name, schema, value, why) => {
    expect(problemOf(schema, value)).toMatch(why);
  });

  test('annotations pass, and so do words with x-', () => {
    const schema = {
      title: 't',
      description: 'd',
      default: {},
      examples: [],
      deprecated: true,
      readOnly: true,
      'x-order': 1,
      enumNames: ['a'],
      $comment: 'c',
    };
    expect(problemOf(schema, {})).toBeUndefined();
  });
});

describe('what would not be enforced refuses its schema', () => {
  test.each<[string, object, RegExp]>([
    ['an unknown word', { properties: { a: { minLen: 3 } } }, /minLen/],
    ['an unknown format', { properties: { a: { format: 'colour' } } }, /colour/],
    ['a schema of elsewhere', { $ref: 'https://example.org/other.json' }, /example\.org/],
    ['a pointer to nothing', { $ref: '#/$defs/gone' }, /gone/],
    ['an older dialect', { $schema: 'http://json-schema.org/draft-04/schema#' }, /dialect/],
    ['a pattern that looks ahead', { properties: { a: { pattern: '(?=x)y' } } }, /parsing regexp/],
    ['a pattern that looks back', { properties: { a: { pattern: '(a)\\1' } } }, /linear time/],
    ['a pattern that is none', { properties: { a: { pattern: '(' } } }, /regular expression/i],
    [
      'a word beside $ref in draft-07',
      {
        $schema: 'http://json-schema.org/draft-07/schema#',
        properties: { a: { $ref: '#/definitions/n', maximum: 3 } },
        definitions: { n: {} },
      },
      /beside \$ref/,
    ],
    ['a type that is none', { type: 'strin' }, /type/],
  ])('%s', (_name, schema, why) => {
    expect(refusalOf(schema)).toMatch(why);
  });

  test('the Tool is told with file, line and field', () => {
    const yaml = `apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: pay }
spec:
  description: pays
  class: keyed
  input: { type: object, properties: { to: { type: string, format: iban } } }
  run: { kind: builtin, name: echo }
`;
    const [parsed] = parseSpecs(yaml, 'tools.yaml');
    expect(parsed!.problems).toEqual([
      { file: 'tools.yaml:7', field: 'spec.input', message: expect.stringContaining('iban') },
    ]);
  });
});

describe('patterns', () => {
  test.each<[string, string, boolean]>([
    ['^\\s+$', '\u00a0\u2003\ufeff', true],
    ['^[\\s]+$', '\u2028', true],
    ['^\\S+$', '\u00a0', false],
    ['^.$', '\r', false],
    ['^.$', '🎉', true],
    ['^[[]$', '[', true],
    ['^\\u00e9$', 'é', true],
    ['^a$', 'a\n', false],
    ['^\\p{L}+$', 'Größe', true],
  ])('%s for %j as ECMA-262 reads it', (pattern, text, isMatch) => {
    expect(linearPattern(pattern).test(text)).toBe(isMatch);
    expect(new RegExp(pattern, 'u').test(text)).toBe(isMatch);
  });
  test('take linear time, whoever wrote the text', () => {
    expect(linearPattern('^(a+)+$').test(`${'a'.repeat(20_000)}!`)).toBe(false);
  });
});

test.each([
  [0.3, 0.1, true],
  [19.99, 0.01, true],
  [0.35, 0.1, false],
  [1e308, 0.123456789, false],
  [-9, 3, true],
  [10, 3, false],
])('%d is a multiple of %d: %s', (value, multipleOf, is) => {
  const compiled = compiledSchema({ type: 'number', multipleOf });
  expect(compiled.ok && compiled.check(value)).toBe(
    is ? undefined : `it must be multiple of ${multipleOf}`,
  );
});

test.each([
  ['https://shop.example/a?b', true],
  ['ftp://x', true],
  ['mailto:a@b', false],
  ['http://', false],
  [`http://${':'.repeat(65_000)}`, false],
])('the format url, in time that is linear', (text, is) => {
  const compiled = compiledSchema({ type: 'string', format: 'url' });
  expect(compiled.ok && compiled.check(text) === undefined).toBe(is);
});

test('a property of any name is no word', () => {
  const properties = { 'x-a b': { type: 'string' }, 'x-': {}, multipleOf: { type: 'number' } };
  expect(compiledSchema({ type: 'object', properties })).toMatchObject({ ok: true });
});

describe('the cost', () => {
  const list = { type: 'object', properties: { all: { type: 'array', uniqueItems: true } } };
  const within = { $defs: { n: { properties: { n: { $ref: '#/$defs/n' } } } }, $ref: '#/$defs/n' };
  test('is known from the words of a schema', () => {
    expect(weightOf({ type: 'object', properties: { a: { type: 'string' } } })).toEqual({
      size: 2,
      isDear: false,
    });
    expect(weightOf(list).isDear).toBe(true);
    const twice = { a: { $ref: '#/$defs/n' }, b: { $ref: '#/$defs/n' } };
    expect(weightOf({ $defs: { n: {} }, properties: twice })).toEqual({ size: 5, isDear: true });
    expect(weightOf(within).size).toBe(Number.POSITIVE_INFINITY);
    expect(weightOf({ $ref: '#' }).size).toBe(Number.POSITIVE_INFINITY);
    expect(weightOf({ pattern: '^a{1000}$' }).size).toBeGreaterThan(1_000);
    expect(isCheckedAtOnce(list, 5_000)).toBe(false);
    expect(isCheckedAtOnce(within, 1)).toBe(false);
    expect(isCheckedAtOnce({ type: 'object' }, 60_000)).toBe(true);
  });

  test('is that of every branch, however few characters write it down', () => {
    const branches = Array.from({ length: 2_000 }, (_, at) => ({ required: [`f${at}`] }));
    expect(isCheckedAtOnce({ items: { anyOf: branches } }, 60_000)).toBe(false);
    const doubled = Array.from({ length: 30 }, (_, at) => [
      `d${at}`,
      { allOf: [{ $ref: `#/$defs/d${at + 1}` }, { $ref: `#/$defs/d${at + 1}` }] },
    ]);
    const $defs = { ...Object.fromEntries(doubled), d30: { type: 'string' } };
    expect(isCheckedAtOnce({ $defs, $ref: '#/$defs/d0' }, 20)).toBe(false);
    // A property may be called as a word is.
    const named = { $defs, properties: { definitions: { $ref: '#/$defs/d0' }, $ref: {} } };
    expect(isCheckedAtOnce(named, 20)).toBe(false);
    expect(weightOf({ properties: { $ref: {}, $defs: {}, pattern: {} } }).size).toBe(4);
    const many = Array.from({ length: 60_000 }, (_, at) => [
      `d${at}`,
      { $ref: `#/$defs/d${at + 1}` },
    ]);
    expect(isCheckedAtOnce({ $defs: Object.fromEntries(many), $ref: '#/$defs/d0' }, 1)).toBe(false);
  });

  const bundle = () => {
    const made = bundleOf();
    const tool = toolSpecSchema.parse({
      description: 'd',
      class: 'pure',
      input: list,
      run: { kind: 'builtin', name: 'echo' },
    });
    return { ...made, tools: { ...made.tools, look: tool } };
  };
  const large = call('look', { all: Array.from({ length: 3_000 }, (_, index) => index) });

  test('what is too costly for a step counts as its gateway found it, and is refused where none did', () => {
    expect(checkCall(large, bundle())).toMatchObject({ ok: false, code: 'ARGUMENTS_TOO_COSTLY' });
    expect(checkCall(large, bundle(), { problem: '' })).toMatchObject({ ok: true });
    expect(checkCall(large, bundle(), { problem: 'all must be unique' })).toMatchObject({
      ok: false,
      code: 'ARGUMENTS_INVALID',
      message: expect.stringContaining('all must be unique'),
    });
    expect(checkCall(large, bundle(), checkedBefore)).toMatchObject({ ok: true });
    // What a step can check itself it does, whatever anybody found.
    expect(checkCall(call('look', { all: [1, 1] }), bundle(), { problem: '' })).toMatchObject({
      ok: false,
    });
  });

  test('the verdict reaches the call that it is about', () => {
    const talk = new Talk({ ...definitionOf(), bundle: bundle() });
    talk.say(task('x'));
    const calls = [call('look', { all: [] }, 'c0'), { ...large, id: 'c1' }];
    talk.say(
      replied(talk.pendingOf('callModel'), { calls, checks: [{ call: 1, problem: '' }] } as never),
    );
    expect(talk.kinds.filter((kind) => kind === 'runTool')).toHaveLength(2);
  });
});

describe('the thread beside the event loop', () => {
  const schema = {
    type: 'object',
    properties: { all: { type: 'array', uniqueItems: true, items: { type: 'object' } } },
  };
  const json = (count: number) =>
    JSON.stringify({ all: Array.from({ length: count }, (_, n) => ({ n })) });
  test('answers, ends what takes too long, and answers again', async () => {
    const checks = threadedChecks(1_500);
    expect(await checks.check('acme', schema, json(10))).toEqual({
      isTooCostly: false,
      problem: undefined,
    });
    expect(await checks.check('acme', schema, '{"all":[{"n":1},{"n":1}]}')).toMatchObject({
      problem: expect.stringContaining('duplicate'),
    });
    const both = await Promise.all([
      checks.check('acme', schema, json(60_000)),
      checks.check('acme', schema, json(2)),
    ]);
    expect(both).toEqual([{ isTooCostly: true }, { isTooCostly: false, problem: undefined }]);
    const bomb = {
      $defs: { n: { allOf: [{ items: { $ref: '#/$defs/n' } }, { items: { $ref: '#/$defs/n' } }] } },
      $ref: '#/$defs/n',
    };
    expect(await checks.check('acme', bomb, `${'['.repeat(60)}${']'.repeat(60)}`)).toEqual({
      isTooCostly: true,
    });
    await checks.stop();
  }, 20_000);
  test('does not take in more than it can do', async () => {
    const checks = threadedChecks(200);
    const all = await Promise.all(
      Array.from({ length: 80 }, () => checks.check('acme', schema, json(1))),
    );
    expect(all.filter(({ isTooCostly }) => isTooCostly).length).toBeGreaterThan(0);
    expect(all.filter(({ isTooCostly }) => !isTooCostly).length).toBeGreaterThan(0);
    await checks.stop();
  });
  test('gives every tenant its turn, whatever another asks', async () => {
    const checks = threadedChecks(1_000);
    const settled: string[] = [];
    const ask = async (tenant: string, size: number) => {
      const { isTooCostly } = await checks.check(tenant, schema, json(size));
      settled.push(`${tenant} ${isTooCostly}`);
    };
    for (let count = 0; count < 20; count += 1) void ask('mallory', 60_000);
    await ask('acme', 2);
    // Eleven are refused at once, one was under way.
    expect(settled.filter((one) => one === 'mallory true').length).toBeLessThan(15);
    expect(settled.at(-1)).toBe('acme false');
    await checks.stop();
  }, 20_000);
});
