/** Tools of MCP servers, over stdio or streamable HTTP, through the official client. One connection per server, made when it is first needed. */
import { Client, ProtocolError, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import { messageOf } from '../../core/errors.ts';
import { failed } from '../../core/tools/job.ts';
import type { ToolRun } from '../../core/tools/tool-spec.ts';
import type { ToolRunner } from '../../ports/performers.ts';

type McpRun = Extract<ToolRun, { kind: 'mcp' }>;

export function mcpRunner(environment: Readonly<Record<string, string | undefined>>): ToolRunner<McpRun> {
  const clients = new Map<string, Promise<Client>>();
  const secrets = (text: string) => text.replace(/\$\{env:([A-Z0-9_]+)\}/g, (_, name: string) => environment[name] ?? '');

  const connect = async (run: McpRun, key: string): Promise<Client> => {
    const client = new Client({ name: 'understudy-executor', version: '0.1.0' }, { versionNegotiation: { mode: 'auto' } });
    client.onclose = () => clients.delete(key);
    if (run.command) {
      const [command = '', ...args] = run.command;
      // Its environment is empty but for a path: secrets of the executor are not the server's.
      await client.connect(new StdioClientTransport({ command, args, env: { PATH: '/usr/local/bin:/usr/bin:/bin' }, stderr: 'ignore' }));
    } else {
      const headers = Object.fromEntries(Object.entries(run.headers).map(([name, value]) => [name, secrets(value)]));
      await client.connect(new StreamableHTTPClientTransport(new URL(secrets(run.url ?? '')), { requestInit: { headers } }));
    }
    return client;
  };
  const clientFor = (run: McpRun): Promise<Client> => {
    const key = JSON.stringify([run.command, run.url, run.headers]);
    let client = clients.get(key);
    if (!client) {
      client = connect(run, key);
      clients.set(key, client);
      client.catch(() => clients.delete(key));
    }
    return client;
  };

  return {
    kind: 'mcp',
    async run(job, run, signal) {
      let client: Client;
      try {
        client = await clientFor(run);
      } catch (error) {
        return failed('transient', 'MCP_UNREACHABLE', `tool ${job.tool}: its MCP server could not be reached: ${messageOf(error).slice(0, 200)}`);
      }
      try {
        const meta = { 'understudy.dev/idempotency-key': job.idempotencyKey, ...(job.traceparent ? { traceparent: job.traceparent } : {}) };
        const result = await client.callTool({ name: run.tool ?? job.tool, arguments: { ...job.arguments }, _meta: meta }, { signal, timeout: job.spec.timeoutMs });
        const value = result.structuredContent ?? textOf(result.content);
        if (result.isError) return failed('semantic', 'MCP_TOOL_ERROR', `tool ${job.tool}: ${JSON.stringify(value).slice(0, 500)}`);
        return { ok: true, value };
      } catch (error) {
        if (error instanceof ProtocolError) return failed('semantic', 'MCP_REFUSED', `tool ${job.tool}: ${error.message.slice(0, 300)}`);
        return failed('transient', 'MCP_BROKEN', `tool ${job.tool}: the call broke off: ${messageOf(error).slice(0, 200)}`);
      }
    },
    async close() {
      const open = [...clients.values()];
      clients.clear();
      for (const client of open) await (await client.catch(() => undefined))?.close();
    },
  };
}

function textOf(content: readonly { type: string; text?: string }[] | undefined): unknown {
  const parts = (content ?? []).map((part) => (part.type === 'text' ? part.text : { type: part.type }));
  if (parts.length !== 1) return parts;
  const [only] = parts;
  try {
    return typeof only === 'string' ? JSON.parse(only) : only;
  } catch {
    return only;
  }
}
