/** How the terminal shows things: plain tables, ages, money. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((heading, column) => Math.max(heading.length, ...rows.map((row) => (row[column] ?? '').length)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) => (column === cells.length - 1 ? cell : cell.padEnd(widths[column]!)))
      .join('  ')
      .trimEnd();
  return [line(headings), ...rows.map(line)].join('\n');
}

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

export const cut = (text: string, length: number): string => (text.length <= length ? text : `${text.slice(0, length - 1)}…`);
