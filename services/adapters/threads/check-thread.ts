/** Checks values against schemas, one after the other, in a thread of its own. */
import { parentPort } from 'node:worker_threads';
import { compiledSchema } from '../../core/schema/json-schema.ts';

interface Asked {
  readonly id: number;
  readonly schema: Record<string, unknown>;
  readonly text: string;
}

/** Schemas by their text: each message is a copy, and to compile one costs more than to use it. */
const known = new Map<string, Record<string, unknown>>();
const knownMax = 256;

parentPort?.on('message', ({ id, schema, text }: Asked) => {
  parentPort?.postMessage({ id, problem: problemOf(schema, text) });
});

function problemOf(schema: Asked['schema'], text: string): string | undefined {
  const name = JSON.stringify(schema);
  if (known.size >= knownMax) known.clear();
  const own = known.get(name) ?? schema;
  known.set(name, own);
  const compiled = compiledSchema(own);
  return compiled.ok ? compiled.check(JSON.parse(text)) : compiled.problem;
}
