/**
 * JSON as it comes through a door.
 *
 * What walks a value calls itself for each level, and a stack ends somewhere: what is nested deeper than `limits.nestingMax` would be read
 * here and thrown elsewhere, where nobody asked for it.
 */
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
