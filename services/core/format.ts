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

/** Characters that steer a terminal, made visible: who may publish a task must not move an operator's cursor. */
export const printable = (text: string): string =>
  text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]|\r(?!\n)/g, '\u00b7');

export const cut = (text: string, length: number): string =>
  text.length <= length ? text : `${text.slice(0, length - 1)}…`;
