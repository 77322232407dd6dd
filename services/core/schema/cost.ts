/** What it may cost to check a value: a schema is read once, and says what its words can come to. */

/**
 * `light`: linear in the value. `dear`: more than that for long lists and texts. `unbounded`: a schema
 * within itself may double the work with each level.
 */
export type Weight = 'light' | 'dear' | 'unbounded';

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
]);
const references: ReadonlySet<string> = new Set(['$ref', '$dynamicRef', '$recursiveRef']);

/** Characters of JSON that are checked at once, where the rest of the world waits for it. */
const atOnceMax: Readonly<Record<Weight, number>> = { light: 65_536, dear: 4_096, unbounded: 0 };

const known = new WeakMap<object, Weight>();

export function weightOf(schema: object): Weight {
  let weight = known.get(schema);
  if (weight === undefined) {
    weight = weigh(schema);
    known.set(schema, weight);
  }
  return weight;
}

/** @param length  characters of the value's JSON */
export const isCheckedAtOnce = (schema: object, length: number): boolean =>
  length <= atOnceMax[weightOf(schema)];

function weigh(schema: object): Weight {
  let isDear = false;
  const left: unknown[] = [schema];
  while (left.length > 0) {
    const one = left.pop();
    if (typeof one !== 'object' || one === null) continue;
    for (const [word, value] of Object.entries(one)) {
      if (references.has(word) && isWithinItself(schema)) return 'unbounded';
      if (references.has(word) || dearWords.has(word)) isDear = true;
      left.push(value);
    }
  }
  return isDear ? 'dear' : 'light';
}

/** May following its references come back to where it began? Whatever is not sure may. */
function isWithinItself(schema: object): boolean {
  const under = new Set<object>();
  const done = new Set<object>();
  const visit = (one: unknown): boolean => {
    if (typeof one !== 'object' || one === null || done.has(one)) return false;
    if (under.has(one)) return true;
    under.add(one);
    for (const [word, value] of Object.entries(one)) {
      if (word === '$dynamicRef' || word === '$recursiveRef') return true;
      if (word === '$ref') {
        const target = targetOf(schema, value);
        if (target === undefined || visit(target)) return true;
      } else if (visit(value)) return true;
    }
    under.delete(one);
    done.add(one);
    return false;
  };
  return visit(schema);
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
