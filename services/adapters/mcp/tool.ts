/** Tools of MCP servers, over stdio or streamable HTTP, through the official client. One connection per server, made when it is first needed. */
import { Client, ProtocolError, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { messageOf } from '../../core/errors.ts';
import { failed } from '../../core/tools/job.ts';
import { mcpMeta, mcpRefused, mcpResultSchema, outcomeOfMcp } from '../../core/tools/mcp-result.ts';
import type { ToolRun } from '../../core/tools/tool-spec.ts';
import type { ToolRunner } from '../../ports/performers.ts';

type McpRun = Extract<ToolRun, { kind: 'mcp' }>;

const wedgedSlackMs = 50;
const pingMs = 2_000;

/** A connection, and how many calls are on it. */
interface Line {
  readonly client: Promise<Client>;
  calls: number;
  /** When it said something last, by `performance.now()`. */
  heardAt: number;
  /** It broke: who is on it finishes, nobody else begins. */
  isRetired: boolean;
}

export function mcpRunner(
  environment: Readonly<Record<string, string | undefined>>,
): ToolRunner<McpRun> {
  const lines = new Map<string, Line>();
  const secrets = (text: string) =>
    text.replace(/\$\{env:([A-Z0-9_]+)\}/g, (_, name: string) => environment[name] ?? '');

  const connect = async (run: McpRun, onClose: () => void): Promise<Client> => {
    const client = new Client(
      { name: 'understudy-executor', version: '0.1.0' },
      { versionNegotiation: { mode: 'auto' } },
    );
    client.onclose = onClose;
    if (run.command) {
      const [command = '', ...args] = run.command;
      // Its environment is empty but for a path: secrets of the executor are not the server's.
      await client.connect(
        new StdioClientTransport({
          command,
          args,
          env: { PATH: '/usr/local/bin:/usr/bin:/bin' },
          stderr: 'ignore',
        }),
      );
    } else {
      const headers = Object.fromEntries(
        Object.entries(run.headers).map(([name, value]) => [name, secrets(value)]),
      );
      await client.connect(
        new StreamableHTTPClientTransport(new URL(secrets(run.url ?? '')), {
          requestInit: { headers },
        }),
      );
    }
    return client;
  };
  const retire = (key: string, line: Line): void => {
    line.isRetired = true;
    if (lines.get(key) === line) lines.delete(key);
  };
  const lineFor = (run: McpRun): { key: string; line: Line } => {
    const key = JSON.stringify([run.command, run.url, run.headers]);
    let line = lines.get(key);
    if (!line) {
      const made: Line = {
        client: connect(run, () => retire(key, made)),
        calls: 0,
        heardAt: 0,
        isRetired: false,
      };
      made.client.catch(() => retire(key, made));
      lines.set(key, made);
      line = made;
    }
    return { key, line };
  };
  const hangUp = async (line: Line): Promise<void> =>
    (await line.client.catch(() => undefined))?.close().catch(() => undefined);

  return {
    kind: 'mcp',
    async run(job, run, signal) {
      const { key, line } = lineFor(run);
      line.calls += 1;
      const from = performance.now();
      let client: Client | undefined;
      try {
        try {
          client = await line.client;
        } catch (error) {
          const message = `tool ${job.tool}: its MCP server could not be reached: ${messageOf(error).slice(0, 200)}`;
          return {
            ok: false,
            failure: { class: 'transient', code: 'MCP_UNREACHABLE', message, hasBegun: false },
          };
        }
        const meta = mcpMeta(job.idempotencyKey, job.traceparent);
        const result = await client.callTool(
          { name: run.tool ?? job.tool, arguments: { ...job.arguments }, _meta: meta },
          { signal, timeout: job.spec.timeoutMs },
        );
        line.heardAt = performance.now();
        return outcomeOfMcp(job.tool, mcpResultSchema.parse(result));
      } catch (error) {
        if (error instanceof ProtocolError) {
          line.heardAt = performance.now();
          return mcpRefused(job.tool, error.message);
        }
        // A server over HTTP that was started again knows no old session: the next try begins anew.
        const isBroken = !signal.aborted && run.url;
        if (isBroken) retire(key, line);
        // One call that is late says nothing of the others. Where no other was answered either, the server is asked whether it hears at all.
        const isLate = performance.now() - from > job.spec.timeoutMs - wedgedSlackMs;
        if (isLate && line.heardAt < from)
          await client?.ping({ timeout: pingMs }).catch(() => retire(key, line));
        return failed(
          'transient',
          'MCP_BROKEN',
          `tool ${job.tool}: the call broke off: ${messageOf(error).slice(0, 200)}`,
        );
      } finally {
        line.calls -= 1;
        if (line.isRetired && line.calls === 0) void hangUp(line);
      }
    },
    async close() {
      const open = [...lines.values()];
      lines.clear();
      for (const line of open) await hangUp(line);
    },
  };
}
