/**
 * The job runner: JavaScript in, JSON out. It knows nothing: no credential, no client library, no network name.
 *
 * Reads one job from stdin, `{ arguments: { code, input } }`, runs the code as the body of a function of `input`
 * in a context without `require`, `process` or timers, and writes `{ result, log }`, or `{ error }` and exit code 1.
 */
import { createContext, Script } from 'node:vm';

const chunks: Buffer[] = [];
for await (const chunk of process.stdin) chunks.push(chunk as Buffer);

interface Job {
  arguments: { code?: unknown; input?: unknown };
  timeoutMs?: number;
}

function answer(value: unknown, code: number): void {
  process.exitCode = code;
  process.stdout.write(JSON.stringify(value));
}

try {
  const job = JSON.parse(Buffer.concat(chunks).toString('utf8')) as Job;
  const { code, input } = job.arguments;
  if (typeof code !== 'string')
    throw new TypeError('run_code needs "code": the body of a function of "input"');
  const log: string[] = [];
  // What the code sees is made inside the context, from text: no object of ours leads out of it.
  const context = createContext(Object.create(null), {
    codeGeneration: { strings: false, wasm: false },
  });
  const write = new Script(
    '(emit) => { globalThis.console = { log: (...words) => emit(words.map((word) => typeof word === "string" ? word : JSON.stringify(word)).join(" ")) }; }',
  ).runInContext(context) as (emit: (line: string) => void) => void;
  write((line) => {
    if (log.length < 100) log.push(String(line).slice(0, 1_000));
  });
  const script = new Script(
    `JSON.stringify((function (input) { "use strict";\n${code}\n})(JSON.parse(${JSON.stringify(JSON.stringify(input ?? null))})))`,
    {
      filename: 'code.js',
    },
  );
  const text = script.runInContext(context, {
    timeout: Math.min(job.timeoutMs ?? 10_000, 30_000),
  }) as string | undefined;
  answer({ result: text === undefined ? null : (JSON.parse(text) as unknown), log }, 0);
} catch (error) {
  answer(
    {
      error:
        error instanceof Error ||
        (typeof error === 'object' && error !== null && 'message' in error)
          ? String((error as Error).message).slice(0, 500)
          : String(error).slice(0, 500),
    },
    1,
  );
}
