/** A program that has used up its file descriptors: what does a process tool say? Prints the outcome. */
import { openSync } from 'node:fs';
import { processRunner } from '../../services/adapters/process/tool.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';

const runner = await processRunner();
const run = { kind: 'process', command: ['/bin/sh', '-c', 'echo 1'] } as const;
const job = {
  tool: 'tool',
  spec: toolSpecSchema.parse({ description: 'x', run }),
  arguments: {},
  tenant: 'acme',
  session: 'session-1',
  idempotencyKey: 'e_1_0',
};
const call = () => runner.run(job as never, job.spec.run as never, new AbortController().signal);
// Once before, so that its folder is there.
await call();
try {
  for (;;) openSync('/dev/null', 'r');
} catch {
  // None is left: what comes now is what is tried.
}
process.stdout.write(JSON.stringify(await call()));
process.exit(0);
