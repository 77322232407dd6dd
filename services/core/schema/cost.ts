/** What it may cost to check a value: a schema is read once, and says what its words can come to. */

/** What one schema can ask of each value that it is laid against. */
export interface Weight {
  /**
   * Schemas that one value may be laid against, references followed, with the instructions of their
   * patterns. Infinity for a schema within itself: each level of the value may double the work.
   */
  readonly size: number;
  /** It has words that ask more of long lists and texts than to be read once. */
  readonly isDear: boolean;
}

const dearWords: ReadonlySet<string> = new Set([
  'uniqueItems',
  'pattern',
  'patternProperties',
  'propertyNames',
  'contains',
  'unevaluatedItems',
  'unevaluatedProperties',
  'enum',
  'const',
  'format',
]);

/** Words whose value has a schema for each name: no name of theirs is a word. */
const maps: ReadonlySet<string> = new Set(['properties', 'patternProperties', 'dependentSchemas']);
/** The same, kept for references: they are counted where references lead. */
const stores: ReadonlySet<string> = new Set(['$defs', 'definitions']);
/** Words whose value is data. */
const data: ReadonlySet<string> = new Set(['enum', 'const', 'default', 'examples']);
const references: ReadonlySet<string> = new Set(['$ref', '$dynamicRef', '$recursiveRef']);

/** Characters of JSON that are checked at once, where the rest of the world waits for it. */
const lengthMax = { light: 65_536, dear: 4_096 };

/** Size times characters, beside it: some 50 ms. */
const workMax = { light: 6_000_000, dear: 1_000_000 };

const known = new WeakMap<object, Weight>();

export function weightOf(schema: object): Weight {
  let weight = known.get(schema);
  if (weight === undefined) {
    weight = { size: sizeOf(schema), isDear: isDear(schema) };
    known.set(schema, weight);
  }
  return weight;
}

/** @param length  characters of the value's JSON */
export function isCheckedAtOnce(schema: object, length: number): boolean {
  const { size, isDear } = weightOf(schema);
  const kind = isDear ? 'dear' : 'light';
  return length <= lengthMax[kind] && size * length <= workMax[kind];
}

function isDear(schema: object): boolean {
  const left: unknown[] = [schema];
  while (left.length > 0) {
    const one = left.pop();
    if (typeof one !== 'object' || one === null) continue;
    for (const [word, value] of Object.entries(one)) {
      if (references.has(word) || dearWords.has(word)) return true;
      left.push(value);
    }
  }
  return false;
}

/** With what its references lead to, each time that they lead there. */
function sizeOf(schema: object): number {
  const under = new Set<object>();
  const done = new Map<object, number>();
  const visit = (one: unknown): number => {
    if (typeof one !== 'object' || one === null) return 0;
    const before = done.get(one);
    if (before !== undefined) return before;
    if (under.has(one)) return Number.POSITIVE_INFINITY;
    under.add(one);
    let size = Array.isArray(one) ? 0 : 1;
    for (const [word, value] of Object.entries(one)) {
      if (Array.isArray(one)) size += visit(value);
      else if (maps.has(word)) {
        for (const [name, inner] of Object.entries((value ?? {}) as object))
          size += visit(inner) + (word === 'patternProperties' ? patternSize(name) : 0);
      } else if (word === 'dependencies') {
        for (const inner of Object.values((value ?? {}) as object)) size += visit(inner);
      } else if (stores.has(word)) continue;
      else if (data.has(word)) size += countOf(value);
      else if (word === '$dynamicRef' || word === '$recursiveRef') size = Number.POSITIVE_INFINITY;
      else if (word === '$ref') size += visit(targetOf(schema, value) ?? schema);
      else if (word === 'pattern' && typeof value === 'string') size += patternSize(value);
      else size += visit(value);
    }
    under.delete(one);
    done.set(one, size);
    return size;
  };
  try {
    return visit(schema);
  } catch {
    return Number.POSITIVE_INFINITY; // references that go too deep to be followed
  }
}

/** Values within a value. */
function countOf(value: unknown): number {
  const left = [value];
  let count = 0;
  while (left.length > 0) {
    const one = left.pop();
    count += 1;
    if (typeof one === 'object' && one !== null) left.push(...Object.values(one));
  }
  return count;
}

/** Instructions of its program: repeats that are counted stand in it so often. */
function patternSize(pattern: string): number {
  const repeats = [...pattern.matchAll(/\{(\d+)(?:,(\d*))?\}/g)];
  const factor = (from: string | undefined, to: string | undefined) =>
    Math.max(1, Number(from), Number(to ?? 0));
  return repeats.reduce((size, [, from, to]) => size * factor(from, to), pattern.length);
}

/** Of a pointer into the same document; undefined for anything else. */
function targetOf(schema: object, reference: unknown): unknown {
  if (typeof reference !== 'string' || !/^#(\/|$)/.test(reference)) return undefined;
  let found: unknown = schema;
  for (const part of reference.split('/').slice(1)) {
    const key = decodedPart(part);
    if (typeof found !== 'object' || found === null || !Object.hasOwn(found, key)) return undefined;
    found = (found as Record<string, unknown>)[key];
  }
  return found;
}

function decodedPart(part: string): string {
  try {
    return decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~');
  } catch {
    return part;
  }
}
