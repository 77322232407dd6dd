/**
 * One job: a program in a process group of its own, with an empty environment and limits on time, output, processes, memory and disk.
 *
 * J1  When a job is over, nothing of it runs on, whatever it started.
 * J2  Whatever it does, there is an answer: a result, or a failure that names the limit.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { baselineOfPod, bytesBelow, processesOfPod, usageOfPod } from './watch.ts';

export interface Job {
  /** `mcp` is a call of a tool of a server in here; mcp.ts says what its code is. */
  readonly language: 'javascript' | 'shell' | 'python' | 'mcp';
  readonly code: string;
  readonly input?: unknown;
  /** Run in the workspace; otherwise in a scratch folder that is gone afterwards. */
  readonly isWorkspace: boolean;
  readonly timeoutMs: number;
  readonly outputBytesMax: number;
  readonly memoryMiB: number;
  readonly diskMiB: number;
  readonly processesMax: number;
  /** The only way out, for this job: a proxy, with its pass in the address. */
  readonly proxy?: string | undefined;
}

/**
 * So many zombies and a pod is worn out: they count against the node's limits, and only the end of the pod takes them away.
 * Its holder hears it with the result, and takes another.
 */
const wornOutProcesses = 256;
export const isWornOut = (): boolean => isPod && baselineOfPod().processes > wornOutProcesses;

export type Done =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly code: string; readonly message: string };

const mains = {
  javascript: fileURLToPath(new URL('./javascript.ts', import.meta.url)),
  mcp: fileURLToPath(new URL('./mcp.ts', import.meta.url)),
};
/** Who forks without end makes ten thousand a second, and each stays as a zombie and counts against all sandboxes of the node: this look must come soon. */
const countMs = 20;
const looksPerUse = 5;
const looksPerDisk = 25;
const isPod = process.pid === 1;
/**
 * In a pod: the lowest priority, so that we can still look and kill while hundreds of its processes run; and an end to forking
 * that the kernel keeps. That end counts all sandboxes of a node together (they share a user), so it stands far above `processesMax`, and
 * above what several bombs leave behind as zombies until their pods are gone.
 */
const bounded = 'ulimit -p 4096; exec nice -n 19 ';

function commandOf(job: Job): string[] {
  switch (job.language) {
    case 'javascript':
    case 'mcp':
      return [
        isPod ? 'node' : process.execPath,
        `--max-old-space-size=${Math.floor(job.memoryMiB * 0.75)}`,
        '--disable-warning=ExperimentalWarning',
        mains[job.language],
      ];
    case 'shell':
      return ['/bin/sh', '-c', job.code];
    case 'python':
      return ['python3', '-I', '-c', job.code];
  }
}

/** As programs look for it; Node has to be told to look. */
const proxied = (proxy: string | undefined): Record<string, string> =>
  proxy === undefined
    ? {}
    : {
        HTTP_PROXY: proxy,
        HTTPS_PROXY: proxy,
        http_proxy: proxy,
        https_proxy: proxy,
        NODE_USE_ENV_PROXY: '1',
      };

/** @param onOutput  hears what the job writes, as it comes, up to its limit */
export async function runJob(
  job: Job,
  workspace: string,
  signal: AbortSignal,
  onOutput: (stream: 'stdout' | 'stderr', text: string) => void,
): Promise<Done> {
  const folder = job.isWorkspace ? workspace : await mkdtemp(join(tmpdir(), 'job-'));
  try {
    return await run(job, folder, signal, onOutput);
  } catch (error) {
    // Code that no command line can hold: a zero byte, or more than the kernel takes.
    return {
      ok: false,
      code: 'SANDBOX_CODE',
      message: `it could not be started: ${error instanceof Error ? error.message : 'unknown'}`,
    };
  } finally {
    if (!job.isWorkspace) await rm(folder, { recursive: true, force: true }).catch(() => undefined);
  }
}

function run(
  job: Job,
  folder: string,
  signal: AbortSignal,
  onOutput: (stream: 'stdout' | 'stderr', text: string) => void,
): Promise<Done> {
  return new Promise((resolve) => {
    const child = spawn(
      '/bin/sh',
      ['-c', `ulimit -c 0; ${isPod ? bounded : 'exec '}"$@"`, 'job', ...commandOf(job)],
      {
        cwd: folder,
        detached: true,
        env: {
          PATH: '/usr/local/bin:/usr/bin:/bin',
          HOME: folder,
          LANG: 'C.UTF-8',
          TMPDIR: tmpdir(),
          ...proxied(job.proxy),
        },
        stdio: ['pipe', 'pipe', 'pipe', 'pipe'],
      },
    );
    let verdict: Done | undefined;
    const kill = () => {
      try {
        // In a pod of our own all others are the job's, also those that left its group.
        if (isPod) process.kill(-1, 'SIGKILL');
        else if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
      }
    };
    const stop = (code: string, message: string) => {
      verdict ??= { ok: false, code, message };
      kill();
    };
    const timer = setTimeout(
      () =>
        stop(
          'SANDBOX_TIMEOUT',
          `it took longer than ${job.timeoutMs} ms and was ended with all that it had started`,
        ),
      job.timeoutMs,
    );
    const baseline = isPod ? baselineOfPod() : { processes: 0, memoryBytes: 0 };
    let looks = 0;
    const watch = setInterval(() => {
      looks += 1;
      if (
        isPod &&
        (looks % looksPerUse === 0 || processesOfPod() - baseline.processes > job.processesMax)
      ) {
        const { processes, memoryBytes } = usageOfPod(baseline, job.processesMax);
        if (processes > job.processesMax)
          stop('SANDBOX_PROCESSES', `it had more than ${job.processesMax} processes`);
        if (memoryBytes > job.memoryMiB * 1_048_576)
          stop('SANDBOX_MEMORY', `it used more than ${job.memoryMiB} MiB of memory`);
      }
      if (
        looks % looksPerDisk === 0 &&
        bytesBelow(folder, job.diskMiB * 1_048_576) > job.diskMiB * 1_048_576
      )
        stop('SANDBOX_DISK', `it wrote more than ${job.diskMiB} MiB`);
    }, countMs);
    const onAbort = () => stop('SANDBOX_CANCELLED', 'nobody waits for it any more');
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();

    const kept = { stdout: '', stderr: '' };
    let bytes = 0;
    let result = '';
    const hear = (stream: 'stdout' | 'stderr') => (text: string) => {
      bytes += Buffer.byteLength(text);
      if (bytes > job.outputBytesMax)
        return stop('SANDBOX_OUTPUT', `it wrote more than ${job.outputBytesMax} bytes of output`);
      kept[stream] += text;
      onOutput(stream, text);
    };
    // Decoded as streams: a character may be cut by the end of a chunk.
    child.stdout.setEncoding('utf8').on('data', hear('stdout'));
    child.stderr.setEncoding('utf8').on('data', hear('stderr'));
    (child.stdio[3] as NodeJS.ReadableStream).setEncoding('utf8').on('data', (text: string) => {
      if (result.length + text.length > job.outputBytesMax)
        stop('SANDBOX_OUTPUT', `its result is larger than ${job.outputBytesMax} bytes`);
      else result += text;
    });
    child.stdin.on('error', () => undefined); // it may end without reading
    child.stdin.end(JSON.stringify({ code: job.code, input: job.input ?? null }));
    let isSettled = false;
    const settle = (code: number | null, killedBy: NodeJS.Signals | null) => {
      if (isSettled) return;
      isSettled = true;
      clearTimeout(timer);
      clearInterval(watch);
      signal.removeEventListener('abort', onAbort);
      kill(); // whatever it left behind
      void quiet().then(() => resolve(verdict ?? outcomeOf(job, code, killedBy, kept, result)));
    };
    child.on('error', (error) => {
      verdict ??= {
        ok: false,
        code: 'SANDBOX_CODE',
        message: `it could not be started: ${error.message}`,
      };
      settle(null, null);
    });
    // Not `close`: a grandchild may hold the pipes open for ever. Where our loop stood still, what was written meanwhile is read first.
    child.on('exit', (code, killedBy) =>
      setTimeout(() => setImmediate(() => settle(code, killedBy)), 20),
    );
  });
}

/** What was killed takes a moment to end, and would be counted as the next job's. Waits 2 s at most. */
async function quiet(): Promise<void> {
  const nothing = { processes: 0, memoryBytes: 0 };
  for (
    let looks = 0;
    isPod && looks < 100 && usageOfPod(nothing, Number.POSITIVE_INFINITY).processes > 0;
    looks += 1
  )
    await sleep(20);
}

function outcomeOf(
  job: Job,
  code: number | null,
  killedBy: NodeJS.Signals | null,
  { stdout, stderr }: { stdout: string; stderr: string },
  result: string,
): Done {
  if (killedBy)
    return {
      ok: false,
      code: 'SANDBOX_KILLED',
      message: `it was ended by ${killedBy}; it may have used too much memory`,
    };
  if (job.language === 'shell' || job.language === 'python') {
    if (code === 127 && job.language === 'python')
      return {
        ok: false,
        code: 'SANDBOX_LANGUAGE',
        message: 'there is no python3 in this sandbox',
      };
    return { ok: true, value: { exitCode: code, stdout, stderr } };
  }
  try {
    const { value, error } = JSON.parse(result) as { value?: unknown; error?: string };
    if (error !== undefined) return { ok: false, code: 'SANDBOX_CODE', message: error };
    return {
      ok: true,
      value: {
        result: value ?? null,
        log: `${stdout}${stderr}`.split('\n').filter(Boolean).slice(0, 200),
      },
    };
  } catch {
    return {
      ok: false,
      code: 'SANDBOX_CODE',
      message: `it ended with code ${code} and gave no result${stderr ? `: ${stderr.slice(-300)}` : ''}`,
    };
  }
}
