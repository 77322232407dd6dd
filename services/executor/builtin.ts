/** Tools written in TypeScript that run inside the executor. Few, small and trusted: what is risky runs as a process or in a sandbox. */
import { readdir, readFile } from 'node:fs/promises';
import { resolve, sep } from 'node:path';
import { z } from 'zod';
import { failed, type Outcome } from '../core/tools/job.ts';
import type { ToolRun } from '../core/tools/tool-spec.ts';
import type { ToolJob, ToolRunner } from '../ports/performers.ts';

type Builtin = (job: ToolJob, signal: AbortSignal) => Promise<Outcome<unknown>>;

const fileInput = z.object({ path: z.string().min(1).max(512) });

/** @param filesRoot  the only folder that `read_file` and `list_files` can see */
export function builtinTools(filesRoot: string): Readonly<Record<string, Builtin>> {
  const inside = (path: string): string | undefined => {
    const full = resolve(filesRoot, path);
    return full === filesRoot || full.startsWith(filesRoot + sep) ? full : undefined;
  };
  return {
    /** Give the arguments back: for benchmarks and first looks. */
    echo: async (job) => ({ ok: true, value: job.arguments }),
    read_file: async (job) => {
      const input = fileInput.safeParse(job.arguments);
      if (!input.success) return failed('semantic', 'ARGUMENTS_INVALID', 'read_file needs a path');
      const path = inside(input.data.path);
      if (!path)
        return failed(
          'permanent',
          'PATH_OUTSIDE',
          `${input.data.path} lies outside the folder that may be read`,
        );
      try {
        return { ok: true, value: { path: input.data.path, text: await readFile(path, 'utf8') } };
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        return failed(
          code === 'ENOENT' || code === 'EISDIR' ? 'semantic' : 'transient',
          code ?? 'EREAD',
          `${input.data.path} could not be read (${code})`,
        );
      }
    },
    list_files: async (job) => {
      const path = inside(String(job.arguments.path ?? '.'));
      if (!path)
        return failed('permanent', 'PATH_OUTSIDE', 'the folder lies outside what may be read');
      try {
        return { ok: true, value: { files: (await readdir(path)).sort().slice(0, 1_000) } };
      } catch (error) {
        return failed(
          'semantic',
          (error as NodeJS.ErrnoException).code ?? 'EREAD',
          'the folder could not be read',
        );
      }
    },
  };
}

export function builtinRunner(
  tools: Readonly<Record<string, Builtin>>,
): ToolRunner<Extract<ToolRun, { kind: 'builtin' }>> {
  return {
    kind: 'builtin',
    run: async (job, { name }, signal) => {
      const tool = tools[name];
      return tool
        ? tool(job, signal)
        : failed(
            'permanent',
            'BUILTIN_UNKNOWN',
            `there is no built-in tool ${name}; there are: ${Object.keys(tools).join(', ')}`,
          );
    },
  };
}
