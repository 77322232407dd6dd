/**
 * Tools that run in a sandbox.
 *
 * Owns     which sandbox serves which session here, and until when.
 *
 * W1  A sandbox serves one session. When that has not called for `idleMs`, or the sandbox misbehaved, it is discarded.
 * W2  Class workspace: before a call the files are those of the last checkpoint, wherever that call was run; after it they are
 *     saved before the result is told. So a call that has a result has its files.
 * W3  Calls of one session run one after the other.
 */
import { z } from 'zod';
import { messageOf, Refused, Unavailable } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import { failed, type Outcome } from '../../core/tools/job.ts';
import {
  mcpMeta,
  mcpResultSchema,
  outcomeOfMcp,
  outcomeOfMcpError,
} from '../../core/tools/mcp-result.ts';
import type { ToolRun } from '../../core/tools/tool-spec.ts';
import type { ToolJob, ToolRunner } from '../../ports/performers.ts';
import type { Sandbox, Sandboxes, Workspaces } from '../../ports/sandboxes.ts';
import type { Telemetry } from '../../ports/telemetry.ts';
import { putWorkspace, runInSandbox, type SandboxJob, workspaceOf } from './client.ts';
import type { Egress } from './egress.ts';

/** A revision that servers of every age understand: they answer with the newest that they know. */
const mcpProtocol = '2025-06-18';

type SandboxRun = Extract<ToolRun, { kind: 'sandbox' }>;

interface Seat {
  sandbox: Sandbox | undefined;
  /** What the workspace of this sandbox held when it was last looked at. */
  digest: string | undefined;
  /** The end of the last call that was begun: the next waits for it. */
  last: Promise<unknown>;
  calls: number;
  leave: NodeJS.Timeout | undefined;
}

export interface SandboxRunnerPorts {
  readonly sandboxes: Sandboxes;
  readonly workspaces: Workspaces;
  readonly telemetry: Telemetry;
  /** The way out for tools that name hosts; without it they are refused. */
  readonly egress?: Egress | undefined;
}

/** Failures of the code itself: the model may do better. The rest says that the job went over a limit, as semantic too, with the limit's name. */
const semantic = new Set([
  'SANDBOX_CODE',
  'SANDBOX_TIMEOUT',
  'SANDBOX_OUTPUT',
  'SANDBOX_MEMORY',
  'SANDBOX_DISK',
  'SANDBOX_PROCESSES',
  'SANDBOX_KILLED',
]);

export function sandboxRunner(
  { sandboxes, workspaces, telemetry, egress }: SandboxRunnerPorts,
  idleMs: number,
): ToolRunner<SandboxRun> {
  const seats = new Map<string, Seat>();

  const vacate = (key: string, seat: Seat) => {
    clearTimeout(seat.leave);
    if (seat.sandbox) sandboxes.discard(seat.sandbox);
    seat.sandbox = undefined;
    seat.digest = undefined;
    if (seat.calls === 0 && seats.get(key) === seat) seats.delete(key);
  };

  const perform = async (
    key: string,
    seat: Seat,
    job: ToolJob,
    run: SandboxRun,
    endsAt: number,
    signal: AbortSignal,
  ): Promise<Outcome<unknown>> => {
    const isWorkspace = job.spec.class === 'workspace';
    const work = workOf(job, run);
    if (!work) return failed('semantic', 'ARGUMENTS_INVALID', `${job.tool} needs "code"`);
    if (run.egress.length > 0 && !egress)
      return failed(
        'permanent',
        'EGRESS_OFF',
        `${job.tool} names hosts to reach, and this executor has no way out for sandboxes`,
      );
    const saved = isWorkspace
      ? await workspaces.latest(job.tenant, job.session, job.idempotencyKey)
      : undefined;
    // It holds what a call left that does not count (it runs again, or failed): nothing of it may be seen.
    if (isWorkspace && !saved && seat.digest !== undefined) vacate(key, seat);
    if (!seat.sandbox) {
      const from = performance.now();
      seat.sandbox = await sandboxes.claim({ tenant: job.tenant, session: job.session }, signal);
      telemetry.claimed((performance.now() - from) / 1_000);
    }
    const { sandbox } = seat;
    if (saved && saved.digest !== seat.digest) {
      await putWorkspace(sandbox, await workspaces.load(job.tenant, job.session, saved), signal);
      seat.digest = saved.digest;
    }
    // Any other job may change the files as well: they are put there again before the next call that counts on them.
    if (isWorkspace) seat.digest ??= 'unsaved';
    else seat.digest = 'touched';
    const pass =
      run.egress.length > 0
        ? egress?.open(run.egress, { session: job.session, tool: job.tool })
        : undefined;
    const done = await runInSandbox(
      sandbox,
      {
        ...work,
        isWorkspace,
        timeoutMs: Math.max(100, endsAt - performance.now() - 500), // it answers before we stop waiting
        outputBytesMax: Math.max(64_000, job.spec.outputBytesMax * 4),
        memoryMiB: run.memoryMiB,
        diskMiB: run.diskMiB,
        processesMax: run.processesMax,
        ...(pass ? { proxy: pass.url } : {}),
      },
      signal,
    ).finally(() => pass?.close());
    if (!done.ok) {
      // What failed may have left things behind; the next call begins anew, from the last checkpoint.
      if (isWorkspace || done.isWornOut || done.code !== 'SANDBOX_CODE') vacate(key, seat);
      const { failure } = failed(
        semantic.has(done.code) ? 'semantic' : 'permanent',
        done.code,
        `tool ${job.tool}: ${done.message}`,
      );
      // With a way out, it may have reached the world before it failed.
      return { ok: false, failure: pass ? { ...failure, hasBegun: true } : failure };
    }
    if (isWorkspace) {
      const archive = await workspaceOf(sandbox, limits.workspaceBytesMax, signal);
      if (!archive) {
        vacate(key, seat);
        return failed(
          'semantic',
          'WORKSPACE_TOO_LARGE',
          `the workspace is larger than ${limits.workspaceBytesMax} bytes compressed; this call was undone`,
        );
      }
      seat.digest = (
        await workspaces.save(job.tenant, job.session, job.idempotencyKey, saved, archive)
      ).digest;
    }
    if (done.isWornOut) vacate(key, seat);
    if (!run.mcp) return { ok: true, value: done.value };
    const outcome = mcpOutcome(job.tool, done.value);
    // An answer that is none says nothing about what the server did before it.
    return !outcome.ok && pass && outcome.failure.code === 'MCP_BROKEN'
      ? { ok: false, failure: { ...outcome.failure, hasBegun: true } }
      : outcome;
  };

  return {
    kind: 'sandbox',
    async run(job, run, signal) {
      const key = `${job.tenant}/${job.session}`;
      let found = seats.get(key);
      if (!found) {
        found = {
          sandbox: undefined,
          digest: undefined,
          last: Promise.resolve(),
          calls: 0,
          leave: undefined,
        };
        seats.set(key, found);
      }
      const seat = found;
      clearTimeout(seat.leave);
      seat.calls += 1;
      const endsAt = performance.now() + job.spec.timeoutMs;
      const mine = seat.last.then((): Promise<Outcome<unknown>> | Outcome<unknown> =>
        signal.aborted
          ? {
              ok: false,
              failure: {
                class: 'transient',
                code: 'TOOL_TIMEOUT',
                message: `tool ${job.tool} waited too long for its turn`,
                hasBegun: false,
              },
            }
          : perform(key, seat, job, run, endsAt, signal),
      );
      seat.last = mine.catch(() => undefined);
      try {
        return await mine;
      } catch (error) {
        if (seat.sandbox)
          telemetry.log('warn', 'sandbox lost', {
            session: job.session,
            tool: job.tool,
            sandbox: seat.sandbox.name,
            cause: messageOf(error).slice(0, 200),
          });
        vacate(key, seat);
        if (error instanceof Refused)
          return failed('permanent', error.code, `tool ${job.tool}: ${error.message}`);
        const code = error instanceof Unavailable ? error.code : 'SANDBOX_GONE';
        const failure = {
          class: 'transient' as const,
          code,
          message: `tool ${job.tool}: ${messageOf(error).slice(0, 300)}`,
        };
        return {
          ok: false,
          failure: code === 'SANDBOX_NONE_FREE' ? { ...failure, hasBegun: false } : failure,
        };
      } finally {
        seat.calls -= 1;
        if (seat.calls === 0) {
          if (seat.sandbox) seat.leave = setTimeout(() => vacate(key, seat), idleMs);
          else seats.delete(key);
        }
      }
    },
    async close() {
      for (const [key, seat] of seats) vacate(key, seat);
      await sandboxes.stop();
    },
  };
}

/** What the sandbox is to run: fixed code with the arguments as its input, code from the arguments, or a call of a tool of an MCP server. */
function workOf(
  job: ToolJob,
  run: SandboxRun,
): Pick<SandboxJob, 'language' | 'code' | 'input'> | undefined {
  if (run.mcp) {
    const call = {
      command: run.mcp.command,
      tool: run.mcp.tool ?? job.tool,
      meta: mcpMeta(job.idempotencyKey, job.traceparent),
      protocol: mcpProtocol,
    };
    return { language: 'mcp', code: JSON.stringify(call), input: job.arguments };
  }
  const code = run.code ?? job.arguments.code;
  if (typeof code !== 'string') return undefined;
  return {
    language: run.language,
    code,
    input: run.code === undefined ? (job.arguments.input ?? null) : job.arguments,
  };
}

/** What comes out of a sandbox may be anything. */
const mcpAnswerSchema = z.object({
  result: z.union([
    z.object({ result: mcpResultSchema }),
    // Without a code nobody knows where it came from: it may be from within the tool.
    z.object({ error: z.object({ code: z.number().default(-32_603), message: z.string() }) }),
  ]),
});

function mcpOutcome(tool: string, value: unknown): Outcome<unknown> {
  const parsed = mcpAnswerSchema.safeParse(value);
  if (!parsed.success)
    return failed(
      'semantic',
      'MCP_BROKEN',
      `tool ${tool}: its MCP server gave an answer that is none`,
    );
  const { result } = parsed.data;
  return 'error' in result
    ? outcomeOfMcpError(tool, result.error)
    : outcomeOfMcp(tool, result.result);
}
