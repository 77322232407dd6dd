/** Where a local stack says how to reach it: `.understudy/local/stack.json`. The CLI reads it when nothing else is said. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { jsonStored } from '../core/json.ts';

const stackFileSchema = z.object({
  natsUrl: z.string(),
  redisUrl: z.string(),
  prefix: z.string().default('understudy'),
  console: z.string().optional(),
  pids: z.array(z.object({ name: z.string(), pid: z.number(), port: z.number().optional() })),
});
export type StackFile = z.infer<typeof stackFileSchema>;

export const localFolder = (root: string) => join(root, '.understudy', 'local');
const pathOf = (folder: string) => join(folder, 'stack.json');

export function writeStackFile(folder: string, stack: StackFile): void {
  mkdirSync(dirname(pathOf(folder)), { recursive: true });
  // Whole or not at all, whoever reads meanwhile.
  writeFileSync(`${pathOf(folder)}.new`, `${JSON.stringify(stack, null, 2)}\n`);
  renameSync(`${pathOf(folder)}.new`, pathOf(folder));
}

export function readStackFile(folder: string): StackFile | undefined {
  if (!existsSync(pathOf(folder))) return undefined;
  const parsed = stackFileSchema.safeParse(jsonStored(readFileSync(pathOf(folder), 'utf8')));
  return parsed.success ? parsed.data : undefined;
}

/** Those of a stack's processes that still run, by what the kernel says their command is. */
export function alive(stack: StackFile): StackFile['pids'] {
  return stack.pids.filter(({ pid, name }) => {
    try {
      process.kill(pid, 0);
    } catch {
      return false;
    }
    try {
      // A pid may have been given to somebody else since: never end what we did not start.
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      return (
        /understudy|services\/|nats-server|redis-server|valkey|refund-desk/.test(command) ||
        command.includes(name)
      );
    } catch {
      return process.platform !== 'linux';
    }
  });
}
