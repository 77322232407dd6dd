/**
 * JSON Schema of 2020-12, 2019-09 and draft-7, compiled once: what a schema says is enforced, or the
 * schema is refused by name. Silence is not an answer.
 */
import type { Ajv, ErrorObject, FuncKeywordDefinition, Options, ValidateFunction } from 'ajv';
import { Ajv as Ajv7, str } from 'ajv';
import { Ajv2019 } from 'ajv/dist/2019.js';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormatsModule from 'ajv-formats';
import { linearPattern } from './pattern.ts';

/** What is wrong with a value, in words for whoever wrote it; undefined where it is right. */
export type Check = (value: unknown) => string | undefined;

export type Compiled =
  | { readonly ok: true; readonly check: Check }
  | { readonly ok: false; readonly problem: string };

type Fields = Readonly<Record<string, unknown>>;

const addFormats = addFormatsModule as unknown as (ajv: Ajv) => Ajv;

/** Words that the validator gets wrong in some schemas: whoever writes one must not rely on it. */
const unsureWords = ['$async', '$dynamicRef', '$recursiveRef', '__proto__', 'unevaluatedItems'];

/** Words that say something to people and tools, and nothing about values. */
const annotations = [
  'example',
  'markdownDescription',
  'deprecationMessage',
  'enumNames',
  'enumDescriptions',
  'defaultSnippets',
  'externalDocs',
];

const pattern = Object.assign((source: string) => linearPattern(source), { code: 'linearPattern' });

const options: Options = {
  strictSchema: true,
  strictNumbers: true,
  strictTypes: false,
  strictTuples: false,
  strictRequired: false,
  allowUnionTypes: true,
  validateFormats: true,
  allErrors: false,
  messages: true,
  inlineRefs: false,
  ownProperties: true,
  logger: false,
  code: { regExp: pattern as never },
};

/** 0.3 is a multiple of 0.1, whatever their binary forms come to; what overflows is none. */
const multipleOf: FuncKeywordDefinition = {
  keyword: 'multipleOf',
  type: 'number',
  schemaType: 'number',
  validate: (of: number, value: number) => {
    const times = value / of;
    return Number.isFinite(times) && Math.abs(times - Math.round(times)) <= 1e-9;
  },
  error: { message: ({ schemaCode }) => str`must be multiple of ${schemaCode}` },
};

const dialects: readonly (readonly [RegExp, () => Ajv])[] = [
  [/^https?:\/\/json-schema\.org\/draft\/2020-12\/schema#?$/, () => new Ajv2020(options)],
  [/^https?:\/\/json-schema\.org\/draft\/2019-09\/schema#?$/, () => new Ajv2019(options)],
  [/^https?:\/\/json-schema\.org\/draft-0[67]\/schema#?$/, () => new Ajv7(options)],
];

/** The format means the form; which versions and variants there are is not its business. */
const anyUuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

/** The validator's own takes time that is quadratic in the text. */
const isUrl = (text: string): boolean => /^(https?|ftp):\/\//i.test(text) && URL.canParse(text);

function isPattern(text: string): boolean {
  try {
    new RegExp(text, 'u');
    return true;
  } catch {
    return false;
  }
}

/** What names a schema or a part of one, or means it: two that share a validator would be taken for each other. */
const namingWords = ['$id', '$anchor', '$dynamicAnchor', '$recursiveAnchor', '$ref'];

function validatorOf(made: () => Ajv): Ajv {
  const ajv = made();
  addFormats(ajv);
  ajv.removeKeyword('multipleOf').addKeyword(multipleOf);
  ajv.addFormat('uuid', anyUuid);
  ajv.addFormat('regex', isPattern);
  ajv.addFormat('url', isUrl);
  for (const word of annotations) ajv.addKeyword(word);
  return ajv;
}

const sharedMax = 64; // schemas by one validator, which keeps something of each
const shared = new Map<() => Ajv, { readonly ajv: Ajv; uses: number }>();

/** To make one takes longer than to compile a schema by it, and a server may have hundreds. */
function sharedOf(made: () => Ajv): Ajv {
  let found = shared.get(made);
  if (!found || found.uses >= sharedMax) {
    found = { ajv: validatorOf(made), uses: 0 };
    shared.set(made, found);
  }
  found.uses += 1;
  return found.ajv;
}

const known = new WeakMap<object, Compiled>();

export function compiledSchema(schema: Fields): Compiled {
  let compiled = known.get(schema);
  if (!compiled) {
    compiled = compile(schema);
    known.set(schema, compiled);
  }
  return compiled;
}

function compile(schema: Fields): Compiled {
  const { $schema = 'https://json-schema.org/draft/2020-12/schema' } = schema;
  const made = dialects.find(([name]) => typeof $schema === 'string' && name.test($schema))?.[1];
  if (!made)
    return {
      ok: false,
      problem: `$schema names a dialect that is not known: 2020-12, 2019-09 and draft-07 are`,
    };
  try {
    const words = wordsOf(schema);
    const unsure = unsureWords.find((word) => words.has(word));
    const isBoth = words.has('unevaluatedProperties') && words.has('if');
    if (unsure !== undefined || isBoth)
      return {
        ok: false,
        problem: `${unsure ?? 'unevaluatedProperties beside if'} is not enforced as its specification says`,
      };
    const unmeant = unmeantIn(schema, String($schema));
    if (unmeant) return { ok: false, problem: unmeant };
    const ownWords = [...words].filter((word) => /^x-[\w$-]+$/.test(word));
    const isNamed = namingWords.some((word) => words.has(word));
    const ajv = ownWords.length > 0 || isNamed ? validatorOf(made) : sharedOf(made);
    for (const word of ownWords) ajv.addKeyword(word);
    const whole = { ...schema, $schema: undefined };
    try {
      const validate = ajv.compile(whole);
      return { ok: true, check: (value) => checked(validate, value) };
    } finally {
      ajv.removeSchema(whole);
    }
  } catch (error) {
    const why = (error as Error).message.replace(/^strict mode: /, '');
    return { ok: false, problem: why.slice(0, 300) };
  }
}

function checked(validate: ValidateFunction, value: unknown): string | undefined {
  try {
    // A promise, say, is no verdict.
    if ((validate(value) as unknown) === true) return undefined;
  } catch (error) {
    return `it cannot be checked: ${(error as Error).message.slice(0, 200)}`;
  }
  return (validate.errors ?? []).map(spelled).join('; ').slice(0, 500) || 'it does not fit';
}

/** With the field, and what was wanted where the words of the validator leave it out. */
function spelled({ instancePath, message = '', params, keyword }: ErrorObject): string {
  const field = instancePath.split('/').slice(1).map(decoded).join('.');
  const { additionalProperty, unevaluatedProperty, allowedValues, allowedValue } = params as Fields;
  const which = additionalProperty ?? unevaluatedProperty;
  const wanted = keyword === 'const' ? [allowedValue] : allowedValues;
  const more =
    which === undefined
      ? Array.isArray(wanted)
        ? `: ${JSON.stringify(wanted).slice(0, 200)}`
        : ''
      : ` (${String(which).slice(0, 100)})`;
  return `${field === '' ? 'it' : field} ${message}${more}`;
}

const decoded = (part: string): string => part.replaceAll('~1', '/').replaceAll('~0', '~');

/** All names that stand anywhere: more than are words, which does no harm. */
function wordsOf(schema: unknown): Set<string> {
  const words = new Set<string>();
  const left = [schema];
  while (left.length > 0) {
    const one = left.pop();
    if (typeof one !== 'object' || one === null) continue;
    for (const [word, value] of Object.entries(one)) {
      if (!Array.isArray(one)) words.add(word);
      left.push(value);
    }
  }
  return words;
}

/**
 * In draft-07 what stands beside a `$ref` means nothing: whoever wrote it means something. The
 * schemas of schemas are none of a tool's.
 */
function unmeantIn(schema: unknown, dialect: string): string | undefined {
  const isOld = /draft-0[67]/.test(dialect);
  const silent = new Set(['$ref', '$comment', 'title', 'description', 'default', 'examples']);
  const left = [{ one: schema, path: '' }];
  while (left.length > 0) {
    const { one, path } = left.pop()!;
    if (typeof one !== 'object' || one === null) continue;
    const words = Object.keys(one);
    const { $ref } = one as Fields;
    const isReference = typeof $ref === 'string' && isOld;
    if (typeof $ref === 'string' && /^https?:\/\/json-schema\.org\//.test($ref))
      return `${path || '(root)'}: $ref names a schema of elsewhere`;
    const beside = words.find((word) => !silent.has(word) && !/^(x-|definitions$)/.test(word));
    if (isReference && beside !== undefined)
      return `${path || '(root)'}: ${beside} beside $ref means nothing in draft-07; put both into allOf`;
    for (const [word, value] of Object.entries(one))
      left.push({ one: value, path: `${path}/${word}` });
  }
  return undefined;
}

/** Words whose values are data, whatever stands in them. */
const dataWords = new Set(['const', 'enum', 'default', 'example', 'examples']);
/** Words whose fields are names, each with a schema. */
const nameWords = new Set([
  'properties',
  'patternProperties',
  '$defs',
  'definitions',
  'dependentSchemas',
]);

/**
 * A schema of somebody else, without formats that nobody here knows: by the specification they say
 * nothing of a value.
 */
export function withoutUnknownFormats(schema: Fields): Fields {
  const { formats } = sharedOf(dialects[0]![1]);
  const cleaned = (value: unknown, isNames: boolean): unknown => {
    if (Array.isArray(value)) return value.map((one) => cleaned(one, false));
    if (typeof value !== 'object' || value === null) return value;
    const kept = Object.entries(value).filter(
      ([word, one]) =>
        isNames || word !== 'format' || typeof one !== 'string' || Object.hasOwn(formats, one),
    );
    return Object.fromEntries(
      kept.map(([word, one]) => [
        word,
        !isNames && dataWords.has(word) ? one : cleaned(one, !isNames && nameWords.has(word)),
      ]),
    );
  };
  return cleaned(schema, false) as Fields;
}
