/**
 * Patterns of JSON Schema in time that is linear in the text, whoever wrote the text.
 *
 * Schemas have patterns of ECMA-262, RE2 is a little different: what differs is spelled out here, and
 * what RE2 cannot do (back references, look around) is refused.
 */
import { RE2JS } from 're2js';

/** ECMA-262, 12.2 and 12.3: white space and ends of lines. */
const spaces =
  '\\t\\n\\x0b\\f\\r \\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}';
const lineEnds = '\\n\\r\\x{2028}\\x{2029}';

/** @throws SyntaxError for a pattern that is none, or cannot be matched in linear time */
export function linearPattern(pattern: string): { test(text: string): boolean } {
  new RegExp(pattern, 'u');
  const compiled = RE2JS.compile(RE2JS.translateRegExp(spelledOut(pattern)));
  const test = (text: string) => compiled.test(text);
  // Ajv tells patterns apart by their texts.
  return Object.assign({ test }, { toString: () => `linear ${pattern}` });
}

function spelledOut(pattern: string): string {
  let made = '';
  let isInClass = false;
  for (let at = 0; at < pattern.length; at += 1) {
    const character = pattern[at]!;
    if (character === '\\') {
      at += 1;
      made += escaped(pattern[at] ?? '', isInClass);
    } else if (isInClass) {
      isInClass = character !== ']';
      // RE2 reads `[:alpha:]` and the like in a class; here it is a bracket.
      made += character === '[' ? '\\[' : character;
    } else if (character === '[') {
      isInClass = true;
      made += character;
    } else made += character === '.' ? `[^${lineEnds}]` : character;
  }
  return made;
}

function escaped(character: string, isInClass: boolean): string {
  if (character === 's') return isInClass ? spaces : `[${spaces}]`;
  if (character === 'S') {
    if (isInClass) throw new SyntaxError('\\S within a class is not supported');
    return `[^${spaces}]`;
  }
  if (/[1-9k]/.test(character)) throw new SyntaxError('a back reference takes no linear time');
  return `\\${character}`;
}
