/** Runs the JavaScript of a job: `{ code, input }` on stdin, code as the body of an async function of `input`; its result goes to descriptor 3. */
import { readFileSync, writeSync } from 'node:fs';
import { createRequire } from 'node:module';

const { code, input } = JSON.parse(readFileSync(0, 'utf8')) as { code: string; input: unknown };
const answer = (value: unknown) => writeSync(3, JSON.stringify(value));
const AsyncFunction = (async () => undefined).constructor as new (
  ...words: string[]
) => (input: unknown, require: NodeJS.Require) => Promise<unknown>;
try {
  const value = await new AsyncFunction('input', 'require', `"use strict";\n${code}`)(
    input,
    createRequire(`${process.cwd()}/`),
  );
  answer({ value });
} catch (error) {
  answer({
    error: String(error instanceof Error ? `${error.name}: ${error.message}` : error).slice(0, 500),
  });
  process.exitCode = 1;
}
