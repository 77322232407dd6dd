/** Tools of MCP servers, over stdio or streamable HTTP, through the official client. */
import { type Client, InsufficientScopeError, ProtocolError } from '@modelcontextprotocol/client';
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
import type { SignInState } from '../../ports/listings.ts';
import type { ToolJob, ToolRunner } from '../../ports/performers.ts';
import { type ConnectionSettings, Connections, type Line } from './connections.ts';
import { notBegun, orAborted, refusalOf, tokenRefusalOf, whyNotReached } from './failures.ts';
import { listed } from './listing.ts';
import { SignInNeeded, whyNoToken } from './oauth.ts';

const wedgedSlackMs = 50;
const pingMs = 2_000;

export interface McpRunner extends ToolRunner<McpRun> {
  /** What a server can do. Never throws for what it does. */
  list(run: McpRun, signal: AbortSignal): Promise<Outcome<Listing>>;
  /** Begin to sign a person in, or finish it. Never throws for what a server or its issuer does. */
  signIn(run: McpRun, callback: string | undefined): Promise<Outcome<SignInState>>;
}

export function mcpRunner(
  environment: ConnectionSettings['environment'],
  more: Omit<ConnectionSettings, 'environment'> = {},
): McpRunner {
  const connections = new Connections({ environment, ...more });
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
    signIn: (run, callback) => signedIn(connections, run, callback),
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
  const session = `${job.tenant} ${job.session}`;
  let line: Line;
  try {
    line = connections.lineOf(run, session);
  } catch (error) {
    return notBegun('transient', 'MCP_BUSY', `tool ${tool}: ${messageOf(error)}`);
  }
  line.calls += 1;
  line.caller = line.caller === undefined || line.caller === session ? session : null;
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
      const why = `${whyNotReached(error)}${connections.saidOn(line, session, false)}`;
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
      {
        signal: AbortSignal.any([signal, line.broken]),
        timeout: timeoutMs,
        // Whoever says how far it is, hears.
        onprogress: () => {
          line.heardAt = performance.now();
        },
      },
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
    if (error instanceof InsufficientScopeError && run.oauth?.login)
      return notBegun('permanent', 'MCP_UNAUTHORIZED', await wider(connections, run, tool, error));
    // A server over HTTP that was started again knows no old session: the next try begins anew.
    if (!signal.aborted && run.url) line.retire();
    const refusal = refusalOf(tool, error, line.heardAt > 0);
    if (refusal) return refusal;
    // One call that is late says nothing of the others. Where no other was answered either, the server is asked whether it hears at all.
    const isLate = performance.now() - from > timeoutMs - wedgedSlackMs;
    if (isLate && line.heardAt < from) await client?.ping({ timeout: pingMs }).catch(line.retire);
    // Masked before it is cut: half of a secret is not known as one.
    const what = withoutSecrets(messageOf(error), connections.secretsOf(run)).slice(0, 200);
    const why = `${what}${connections.saidOn(line, session, true)}`;
    return failed('transient', 'MCP_BROKEN', `tool ${tool}: the call broke off: ${why}`);
  } finally {
    connections.left(line);
  }
}

/** The person who signed in did not grant this: the next sign-in asks for it. */
async function wider(
  connections: Connections,
  run: McpRun,
  tool: string,
  error: InsufficientScopeError,
): Promise<string> {
  const secrets = connections.secretsOf(run);
  const scope = withoutSecrets(error.requiredScope ?? 'more', secrets);
  const why = await connections
    .signInOf(run)
    .widen(error)
    .then(
      () => new SignInNeeded('a person must sign in again').message,
      (failure: unknown) => messageOf(failure),
    );
  return `tool ${tool}: its MCP server wants ${scope.slice(0, 200)}, which was not granted; ${why}`;
}

/** Is somebody signed in, or where is it done? */
async function signedIn(
  connections: Connections,
  run: McpRun,
  callback: string | undefined,
): Promise<Outcome<SignInState>> {
  try {
    const signIn = connections.signInOf(run);
    if (callback === undefined) return { ok: true, value: { url: await signIn.begin() } };
    await signIn.finish(callback);
    return { ok: true, value: { url: null } };
  } catch (error) {
    const code = error instanceof Refused ? error.code : 'MCP_UNAUTHORIZED';
    const why = whyNoToken(error)?.message ?? messageOf(error);
    const message = withoutSecrets(why, connections.secretsOf(run)).slice(0, 600);
    return failed('permanent', code, message);
  }
}
