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

/** Where somebody decides by what is shown, nothing hides: what is there and cannot be seen stands there by its number. */
export const escaped = (text: string): string =>
  printable(text).replace(
    /\p{Default_Ignorable_Code_Point}|\p{Cf}|[\u2028\u2029\u202f\u205f\u3000\u2000-\u200a\u00a0]/gu,
    codeOf,
  );

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
