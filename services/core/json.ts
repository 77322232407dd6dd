/**
 * JSON as it comes through a door.
 *
 * What walks a value calls itself for each level, and a stack ends somewhere: what is nested deeper than `limits.nestingMax` would be read
 * here and thrown elsewhere, where nobody asked for it.
 */
import canonicalize from 'canonicalize';
import { Refused } from './errors.ts';
import { limits } from './limits.ts';

/** @throws SyntaxError when it is no JSON, RangeError when it is nested too deep */
export function parseJson(text: string): unknown {
  const value: unknown = JSON.parse(text);
  if (isTooDeep(text)) throw tooDeep();
  return value;
}

/** The value, or undefined for what is none. Of what we stored ourselves, around what came through a door: however deep it is. */
export function jsonStored(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The value, or undefined for what is none, or is nested too deep. */
export function jsonOf(text: string): unknown {
  try {
    return parseJson(text);
  } catch {
    return undefined;
  }
}

/** @throws RangeError when it is nested too deep, TypeError when it is no JSON: it contains itself, or a big integer */
export function jsonText(value: unknown): string {
  const text = JSON.stringify(value) ?? 'null';
  if (isTooDeep(text)) throw tooDeep();
  return text;
}

const tooDeep = () => new RangeError(`it is nested deeper than ${limits.nestingMax} levels`);

const [quote, backslash, openList, closeList, openObject, closeObject] = [...'"\\[]{}'].map(
  (character) => character.charCodeAt(0),
) as [number, number, number, number, number, number];

/** @param text  JSON */
function isTooDeep(text: string): boolean {
  if (text.length <= 2 * limits.nestingMax) return false; // each level is opened and closed
  let level = 0;
  for (let at = 0; at < text.length; at += 1) {
    const character = text.charCodeAt(at);
    if (character === quote) {
      for (at += 1; at < text.length && text.charCodeAt(at) !== quote; at += 1)
        if (text.charCodeAt(at) === backslash) at += 1;
    } else if (character === openList || character === openObject) {
      level += 1;
      if (level > limits.nestingMax) return true;
    } else if (character === closeList || character === closeObject) level -= 1;
  }
  return false;
}

/** The longest beginning of a text whose JSON, without its quotes, has no more bytes than that. */
export function beginningWithin(body: string, bytesMax: number): string {
  const bytesOf = (length: number) => Buffer.byteLength(JSON.stringify(body.slice(0, length))) - 2;
  let [fits, tooLong] = [0, body.length + 1];
  while (tooLong - fits > 1) {
    const length = (fits + tooLong) >> 1;
    if (bytesOf(length) <= bytesMax) fits = length;
    else tooLong = length;
  }
  return body.slice(0, fits);
}

/**
 * JSON of what a session wants stored, exactly as it is: what JSON would leave out, change or not
 * write at all is refused by name.
 *
 * @param isExact  numbers that are not finite are refused too; JSON makes null of them
 * @throws Refused (STATE_UNWRITABLE) for a bigint, a circle, a getter that throws
 */
export function storable(value: unknown, what: string, isExact: boolean): string {
  const finite = (key: string, inner: unknown): unknown => {
    if (typeof inner === 'number' && !Number.isFinite(inner)) {
      throw new TypeError(`${key || 'the value'} is ${inner}, which JSON cannot hold`);
    }
    return inner;
  };
  try {
    return JSON.stringify(value, isExact ? finite : undefined) ?? 'null';
  } catch (error) {
    throw new Refused('STATE_UNWRITABLE', `${what} cannot be stored: ${reasonOf(error)}`, {
      cause: error,
    });
  }
}

/** A getter may throw whatever it likes. */
const reasonOf = (error: unknown): string =>
  error instanceof Error ? String(error.message).split('\n')[0]!.slice(0, 200) : 'it threw';

/**
 * JSON of one spelling for equal values. RFC 8785 knows no lone surrogates, and models write them
 * (half an emoji): they are spelled as their escapes are.
 */
export function canonicalText(value: unknown): string {
  try {
    return canonicalize(value) ?? '';
  } catch {
    const text =
      JSON.stringify(value)?.replaceAll(/\\u(d[89a-f][0-9a-f]{2})/gi, '\\\\u$1') ?? 'null';
    return canonicalize(JSON.parse(text)) ?? '';
  }
}

/** A number that JSON cannot write: `1e999` is read as infinity. */
export function hasInfinity(value: unknown): boolean {
  if (typeof value === 'number') return !Number.isFinite(value);
  if (typeof value !== 'object' || value === null) return false;
  return Object.values(value).some(hasInfinity);
}

/**
 * A whole number that JSON's reader changes, as it was written: beyond 2^53 neighbours are one.
 *
 * @param text  JSON
 */
export function inexactNumber(text: string): string | undefined {
  let found: string | undefined;
  if (!/\d{16}/.test(text)) return undefined;
  JSON.parse(text, function read(_key, value: unknown, context?: { readonly source?: string }) {
    const isUnsafe = Number.isInteger(value) && !Number.isSafeInteger(value);
    const { source } = context ?? {};
    if (isUnsafe && source && /^-?\d+$/.test(source) && BigInt(source) !== BigInt(value as number))
      found ??= source;
    return value;
  } as (key: string, value: unknown) => unknown);
  return found?.slice(0, 40);
}
