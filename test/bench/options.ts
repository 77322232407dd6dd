/** Options of a bench: `ARGS="--seconds 3 --json out.json"`. What is not known, or no number, ends it before it measures anything. */
import { parseArgs } from 'node:util';

interface Option<Value> {
  readonly kind: 'flag' | 'value';
  readonly about: string;
  readonly fallback: Value;
  /** @throws Error with what is wanted instead */
  readonly read: (text: string) => Value;
}

const wholeFrom =
  (least: number) =>
  (text: string): number => {
    if (!/^\d+$/.test(text) || Number(text) < least)
      throw new Error(`a whole number from ${least} on`);
    return Number(text);
  };

export const flag = (about: string): Option<boolean> => ({
  kind: 'flag',
  about,
  fallback: false,
  read: () => true,
});
export const text = (fallback: string, about: string): Option<string> => ({
  kind: 'value',
  about,
  fallback,
  read: (given) => given,
});
export const whole = (fallback: number, about: string, least = 1): Option<number> => ({
  kind: 'value',
  about,
  fallback,
  read: wholeFrom(least),
});
export const oneOf = (
  fallback: string,
  among: readonly string[],
  about: string,
): Option<string> => ({
  kind: 'value',
  about: `${about}: ${among.join(', ')}`,
  fallback,
  read: (given) => {
    if (!among.includes(given)) throw new Error(`one of ${among.join(', ')}`);
    return given;
  },
});
/** Comma-separated; 0 is none. */
export const wholes = (fallback: readonly number[], about: string): Option<readonly number[]> => ({
  kind: 'value',
  about,
  fallback,
  read: (given) => given.split(',').map(wholeFrom(0)).filter(Boolean),
});

type Values<Options> = {
  readonly [Name in keyof Options]: Options[Name] extends Option<infer Value> ? Value : never;
};

/** @throws Error with what is wrong, and what there is */
export function optionsFrom<const Options extends Readonly<Record<string, Option<unknown>>>>(
  args: readonly string[],
  options: Options,
): Values<Options> {
  const { values } = parseArgs({
    args: [...args],
    options: Object.fromEntries(
      Object.entries(options).map(([name, { kind }]) => [
        name,
        { type: kind === 'flag' ? ('boolean' as const) : ('string' as const) },
      ]),
    ),
  });
  const read = (name: string, { fallback, read: parse }: Option<unknown>): unknown => {
    const given = values[name];
    if (given === undefined) return fallback;
    try {
      return parse(String(given));
    } catch (error) {
      throw new Error(`--${name} ${String(given)}: ${(error as Error).message} is wanted`);
    }
  };
  return Object.fromEntries(
    Object.entries(options).map(([name, option]) => [name, read(name, option)]),
  ) as Values<Options>;
}

export function usageOf(
  target: string,
  options: Readonly<Record<string, Option<unknown>>>,
): string {
  const lines = Object.entries(options).map(
    ([name, { kind, about, fallback }]) =>
      `  --${name.padEnd(12)} ${about}${kind === 'flag' || fallback === '' ? '' : ` (${String(fallback)})`}`,
  );
  return [
    `make ${target} ARGS="--option value ..."`,
    ...lines,
    '  --help         print this and end',
  ].join('\n');
}

/** Those of this process. Ends it after `--help`, and with 2 for what does not parse. */
export function optionsOf<const Options extends Readonly<Record<string, Option<unknown>>>>(
  target: string,
  options: Options,
): Values<Options> {
  const args = process.argv.slice(2);
  if (args.includes('--help')) {
    process.stdout.write(`${usageOf(target, options)}\n`);
    process.exit(0);
  }
  try {
    return optionsFrom(args, options);
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${usageOf(target, options)}\n`);
    process.exit(2);
  }
}
