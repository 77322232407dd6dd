/**
 * Tools that are programs: JSON on stdin, JSON on stdout, in a process group of their own, with an empty
 * environment, limits on time, memory and output, and a scratch folder per session.
 *
 * This is fencing against accidents, not against an attacker: what must not be trusted runs in a sandbox pod.
 */
import { spawn } from 'node:child_process';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { messageOf } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import { failed, type Outcome } from '../../core/tools/job.ts';
import type { ToolRun } from '../../core/tools/tool-spec.ts';
import type { ToolJob, ToolRunner } from '../../ports/performers.ts';
import { callMark, endMarked } from './marked.ts';
import { ScratchFolders } from './scratch.ts';
import { startWatchdog, type Watchdog } from './watchdog.ts';

type ProcessRun = Extract<ToolRun, { kind: 'process' }>;

const pureJavascriptMain = fileURLToPath(
  new URL('../../sandbox/pure-javascript.ts', import.meta.url),
);

const outputQuietMs = 200; // no output for so long after its end: all of it is here
const outputWaitMs = 1_000; // at the most, where a process left behind goes on writing

export interface ProcessSettings {
  /** Scratch folders are made below it; other processes may share it. */
  readonly scratch?: string | undefined;
  /** Stable name of this process. */
  readonly instance?: string | undefined;
  /** How long a session's scratch folder is kept for its next call, ms. */
  readonly scratchIdleMs?: number | undefined;
  /** Ends what this process started, should it die; without one, it starts its own. */
  readonly watchdog?: Watchdog | undefined;
}

export async function processRunner({
  scratch = tmpdir(),
  scratchIdleMs = limits.scratchIdleMs,
  instance,
  watchdog = startWatchdog(),
}: ProcessSettings = {}): Promise<ToolRunner<ProcessRun>> {
  const folders = await ScratchFolders.open(scratch, { idleMs: scratchIdleMs, owner: instance });
  return {
    kind: 'process',
    async run(job, run, signal) {
      try {
        return await folders.use(job.tenant, job.session, (folder) =>
          runProgram(commandOf(run, folder), job, run, { folder, watchdog }, signal),
        );
      } catch (error) {
        // There is no folder to run it in: the disk is full, say.
        return {
          ok: false,
          failure: {
            ...failed(
              'transient',
              'TOOL_NOT_STARTED',
              `tool ${job.tool}: ${messageOf(error).slice(0, 200)}`,
            ).failure,
            hasBegun: false,
          },
        };
      }
    },
    async close() {
      await watchdog.close();
      await folders.close();
    },
  };
}

/** `${sandbox}` stands for our job runner under Node's permission model: no file outside its scratch, no processes, no workers. */
function commandOf(run: ProcessRun, scratch: string): string[] {
  return run.command.flatMap((word) =>
    word === '${sandbox}'
      ? [
          process.execPath,
          '--permission',
          `--allow-fs-read=${pureJavascriptMain}`,
          `--allow-fs-read=${scratch}`,
          `--allow-fs-write=${scratch}`,
          `--max-old-space-size=${Math.min(run.memoryMiB, 256)}`,
          '--disable-warning=SecurityWarning',
          pureJavascriptMain,
        ]
      : [word],
  );
}

function runProgram(
  command: readonly string[],
  job: ToolJob,
  run: ProcessRun,
  { folder, watchdog }: { readonly folder: string; readonly watchdog: Watchdog },
  signal: AbortSignal,
): Promise<Outcome<unknown>> {
  return new Promise((resolve) => {
    const isNode = command[0] === process.execPath;
    const mark = callMark();
    // Node reserves far more address space than it uses, so its memory is bounded by its own heap limit instead.
    const limitMemory = isNode ? '' : `ulimit -v ${run.memoryMiB * 1024}; `;
    const child = spawn(
      '/bin/sh',
      ['-c', `${limitMemory}ulimit -c 0; ulimit -f 131072; exec "$@"`, 'tool', ...command],
      {
        cwd: folder,
        detached: true,
        env: {
          PATH: '/usr/local/bin:/usr/bin:/bin',
          HOME: folder,
          LANG: 'C.UTF-8',
          ...watchdog.mark,
          ...mark,
        },
        stdio: ['pipe', 'pipe', 'pipe'],
      },
    );
    const ended = child.pid === undefined ? () => undefined : watchdog.began(child.pid);
    let verdict: Outcome<unknown> | undefined;
    // Of a process that could not be made, there may be no pipes either.
    child.on('error', ({ code }: NodeJS.ErrnoException) => {
      if (child.pid === undefined) verdict ??= notMade(job.tool, code ?? 'no reason is known');
      if (!child.stdout && verdict) resolve(verdict);
    });
    if (!child.stdout || !child.stderr || !child.stdin) return;
    const bytesMax = Math.max(64_000, job.spec.outputBytesMax * 4);
    const out: Buffer[] = [];
    let bytes = 0;
    let complaint = '';
    let quiet: NodeJS.Timeout | undefined;
    let outputWait: NodeJS.Timeout | undefined;
    const kill = () => {
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, 'SIGKILL'); // the whole group: a tool may have started others
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
    };
    const onAbort = () => {
      verdict ??= failed('transient', 'TOOL_TIMEOUT', `tool ${job.tool} was stopped`);
      kill();
      void endMarked(mark); // also what left its group
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    child.stdout.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > bytesMax) {
        verdict ??= afterwards(
          'permanent',
          'TOOL_OUTPUT_TOO_LARGE',
          `tool ${job.tool} wrote more than ${bytesMax} bytes`,
        );
        kill();
      } else out.push(chunk);
    });
    child.stderr.on('data', (chunk: Buffer) => {
      if (complaint.length < 500) complaint += chunk.toString('utf8').slice(0, 500);
    });
    const finish = (code: number | null, killedBy: NodeJS.Signals | null) => {
      signal.removeEventListener('abort', onAbort);
      child.off('close', finish);
      clearTimeout(quiet);
      clearTimeout(outputWait);
      kill(); // whatever it left behind in its group
      ended();
      child.stdout.destroy();
      child.stderr.destroy();
      resolve(
        verdict ?? outcomeOf(job, code, killedBy, Buffer.concat(out).toString('utf8'), complaint),
      );
    };
    child.on('close', finish);
    // One that it sent out of its group may hold its output open for ever; what the tool itself wrote is there within a moment.
    child.on('exit', (code, killedBy) => {
      const over = () => finish(code, killedBy);
      // Where our own loop stood still, what was written meanwhile is read first: timers come before it.
      outputWait = setTimeout(() => setImmediate(over), outputWaitMs);
      const wait = () => {
        clearTimeout(quiet);
        quiet = setTimeout(() => setImmediate(over), outputQuietMs);
      };
      wait();
      child.stdout.on('data', wait);
    });
    child.stdin.on('error', () => undefined); // it may end without reading: its exit code tells
    child.stdin.end(
      JSON.stringify({
        arguments: job.arguments,
        idempotencyKey: job.idempotencyKey,
        timeoutMs: job.spec.timeoutMs,
      }),
    );
  });
}

/** Processes, memory or descriptors are used up for now, or what runs programs is not there. */
const notMade = (tool: string, why: string): Outcome<never> => ({
  ok: false,
  failure: {
    class: why === 'ENOENT' || why === 'EACCES' ? 'permanent' : 'transient',
    code: 'TOOL_NOT_STARTED',
    message: `tool ${tool}: no process could be made for it (${why})`,
    hasBegun: false,
  },
});

/** It ran, so it may have done what it is for. A program that ends with a code and says why in JSON has refused by itself. */
const afterwards = (
  failureClass: 'permanent' | 'semantic',
  code: string,
  message: string,
): Outcome<never> => ({
  ok: false,
  failure: { class: failureClass, code, message, hasBegun: true },
});

function outcomeOf(
  job: ToolJob,
  code: number | null,
  killedBy: NodeJS.Signals | null,
  text: string,
  complaint: string,
): Outcome<unknown> {
  if (killedBy)
    return afterwards(
      'permanent',
      'TOOL_KILLED',
      `tool ${job.tool} was ended by ${killedBy}; it may have used too much memory`,
    );
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return afterwards(
      code === 0 ? 'permanent' : 'semantic',
      code === 0 ? 'TOOL_OUTPUT_NOT_JSON' : 'TOOL_FAILED',
      `tool ${job.tool} ended with code ${code} and wrote no JSON${complaint ? `: ${complaint.slice(0, 300)}` : ''}`,
    );
  }
  if (code === 0) return { ok: true, value };
  return failed(
    'semantic',
    'TOOL_FAILED',
    `tool ${job.tool} ended with code ${code}: ${JSON.stringify(value).slice(0, 500)}`,
  );
}
