/** How people are told of ages and money, at the terminal and in the browser. */

/** Micro-dollars as dollars. */
export const dollars = (micros: number): string => `$${(micros / 1_000_000).toFixed(4)}`;

export function age(ms: number): string {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))}ms`;
  const units: readonly [number, string][] = [
    [86_400_000, 'd'],
    [3_600_000, 'h'],
    [60_000, 'm'],
    [1_000, 's'],
  ];
  const [size, unit] = units.find(([length]) => ms >= length)!;
  const rest = units[units.findIndex(([length]) => length === size) + 1];
  const whole = Math.floor(ms / size);
  const part = rest ? Math.floor((ms % size) / rest[0]) : 0;
  return part > 0 && whole < 10 ? `${whole}${unit}${part}${rest![1]}` : `${whole}${unit}`;
}

/** Characters that steer a terminal or turn the direction of text, made visible: who may publish a task must not move an operator's cursor. */
export const printable = (text: string): string =>
  text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]|\r(?!\n)/g, '\u00b7')
    .replace(/\p{Bidi_Control}/gu, codeOf);

const codeOf = (found: string): string =>
  `\\u{${found.codePointAt(0)!.toString(16).padStart(4, '0')}}`;

/**
 * Kept: emoji, and letters, marks, digits, punctuation, symbols, the plain space and line ends.
 * Among these the second class names those that look like nothing: fillers, blank signs, U+FFFC.
 */
const kept = /(\p{RGI_Emoji}|\r\n)/v.source;
const unseen = /[^\p{L}\p{M}\p{N}\p{P}\p{S} \t\n]/v.source;
const blank = /[\p{Default_Ignorable_Code_Point}\u2800\ufffc\u{13441}\u{13442}\u{16fe4}\u{1d159}]/v
  .source;
const hidden = new RegExp(`${kept}|${unseen}|${blank}`, 'gv');

/**
 * Text for who decides by what is shown: a character that cannot be seen is shown by its number.
 * Lines and tabs stay; `escapedLine` is for what must stay on its line.
 */
export const escaped = (text: string): string =>
  text.replace(hidden, (found, keep?: string) => keep ?? codeOf(found));

export const escapedLine = (text: string): string => escaped(text).replace(/[\t\r\n]/g, codeOf);

/**
 * What others wrote of an approval, as people see it.
 *
 * @returns its tool; its arguments in one line of a list, shortened; the same whole
 */
export const approvalShown = (approval: {
  readonly tool: string;
  readonly arguments: string;
}): { tool: string; line: string; whole: string } => ({
  tool: escapedLine(approval.tool),
  line: escapedLine(shown(approval.arguments)),
  whole: escaped(indented(approval.arguments)),
});

/** JSON over several lines; what is not JSON stays as it is. */
export function indented(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

const shownMax = 60; // characters of a text in a list; numbers, names and what is cut are always shown

/** JSON in one line of a list: no key and no number is left out, and what is cut says how much. */
export function shown(json: string): string {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return shortened(json);
  }
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'string' ? shortened(inner) : inner,
  );
}

const shortened = (text: string): string =>
  text.length <= shownMax
    ? text
    : `${text.slice(0, shownMax)}… (${text.length - shownMax} more characters)`;

export const cut = (text: string, length: number): string =>
  text.length <= length ? text : `${text.slice(0, length - 1)}…`;
