/** Tools of MCP servers, over stdio or streamable HTTP, through the official client. */
import { type Client, ProtocolError } from '@modelcontextprotocol/client';
import { messageOf, Refused } from '../../core/errors.ts';
import { failed, type Outcome } from '../../core/tools/job.ts';
import type { Listing } from '../../core/tools/mcp-listing.ts';
import {
  mcpFailed,
  mcpMeta,
  mcpResultSchema,
  outcomeOfMcp,
  outcomeOfMcpError,
} from '../../core/tools/mcp-result.ts';
import type { McpRun } from '../../core/tools/mcp-run.ts';
import { withoutSecrets } from '../../core/tools/placeholders.ts';
import type { ToolJob, ToolRunner } from '../../ports/performers.ts';
import { Connections } from './connections.ts';
import { notBegun, orAborted, refusalOf, tokenRefusalOf, whyNotReached } from './failures.ts';
import { listed } from './listing.ts';

const wedgedSlackMs = 50;
const pingMs = 2_000;

export interface McpRunner extends ToolRunner<McpRun> {
  /** What a server can do. Never throws for what it does. */
  list(run: McpRun, signal: AbortSignal): Promise<Outcome<Listing>>;
}

/** @param mark  for the environment of servers that are programs */
export function mcpRunner(
  environment: Readonly<Record<string, string | undefined>>,
  mark: Readonly<Record<string, string>> = {},
): McpRunner {
  const connections = new Connections(environment, mark);
  return {
    kind: 'mcp',
    async run(job, run, signal) {
      const outcome = await called(connections, job, run, signal);
      if (outcome.ok) return outcome;
      // A server that refuses may quote what it was sent.
      const message = withoutSecrets(outcome.failure.message, connections.secretsOf(run));
      return { ok: false, failure: { ...outcome.failure, message } };
    },
    list: (run, signal) => listed(connections, run, signal),
    close: () => connections.close(),
  };
}

async function called(
  connections: Connections,
  job: ToolJob,
  run: McpRun,
  signal: AbortSignal,
): Promise<Outcome<unknown>> {
  const { tool } = job;
  const { timeoutMs } = job.spec;
  const line = connections.lineOf(run);
  line.calls += 1;
  const from = performance.now();
  let client: Client | undefined;
  try {
    try {
      client = await orAborted(line.client, signal);
    } catch (error) {
      if (error instanceof Refused)
        return notBegun('permanent', error.code, `tool ${tool}: ${error.message}`);
      const untold = tokenRefusalOf(tool, error);
      if (untold) return untold;
      const why = whyNotReached(error);
      return notBegun(
        'transient',
        'MCP_UNREACHABLE',
        `tool ${tool}: its MCP server could not be reached: ${why}`,
      );
    }
    if (signal.aborted)
      return notBegun('transient', 'MCP_UNREACHABLE', `tool ${tool}: it was stopped`);
    const meta = mcpMeta(job.idempotencyKey, job.traceparent);
    const result = await client.callTool(
      { name: run.tool ?? tool, arguments: { ...job.arguments }, _meta: meta },
      { signal: AbortSignal.any([signal, line.broken]), timeout: timeoutMs },
    );
    line.heardAt = performance.now();
    return outcomeOfMcp(tool, mcpResultSchema.parse(result));
  } catch (error) {
    if (error instanceof ProtocolError) {
      line.heardAt = performance.now();
      return connections.isAnswered(error)
        ? outcomeOfMcpError(tool, error)
        : mcpFailed(tool, error.message);
    }
    // A server over HTTP that was started again knows no old session: the next try begins anew.
    if (!signal.aborted && run.url) line.retire();
    const refusal = refusalOf(tool, error, line.heardAt > 0);
    if (refusal) return refusal;
    // One call that is late says nothing of the others. Where no other was answered either, the server is asked whether it hears at all.
    const isLate = performance.now() - from > timeoutMs - wedgedSlackMs;
    if (isLate && line.heardAt < from) await client?.ping({ timeout: pingMs }).catch(line.retire);
    const why = messageOf(error).slice(0, 200);
    return failed('transient', 'MCP_BROKEN', `tool ${tool}: the call broke off: ${why}`);
  } finally {
    connections.left(line);
  }
}
