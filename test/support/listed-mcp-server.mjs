/**
 * An MCP server over stdio whose tools stand in a file, as JSON lines of `tools/list`: two a page.
 * Each call is a line in a ledger, with the process that made it and how often it was called.
 *
 * node listed-mcp-server.mjs <tools.json> <ledger> [progress]
 */
import { appendFileSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const [, , file, ledger, how] = process.argv;
const say = (message) =>
  process.stdout.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
const tools = () => JSON.parse(readFileSync(file, 'utf8'));
const pageSize = 2;
let calls = 0;

for await (const line of createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  if (id === undefined) continue;
  if (method === 'initialize')
    say({
      id,
      result: {
        protocolVersion: params.protocolVersion,
        capabilities: { tools: { listChanged: true }, logging: {} },
        serverInfo: { name: 'listed', version: '1' },
      },
    });
  else if (method === 'tools/list') {
    const from = Number(params?.cursor ?? 0);
    const all = tools();
    const next = from + pageSize < all.length ? { nextCursor: String(from + pageSize) } : {};
    say({ id, result: { tools: all.slice(from, from + pageSize), ...next } });
  } else if (method === 'tools/call') {
    calls += 1;
    appendFileSync(ledger, `${process.pid} ${params.name} ${JSON.stringify(params.arguments)}\n`);
    if (how === 'progress') {
      const progressToken = params._meta?.progressToken;
      if (progressToken !== undefined)
        say({ method: 'notifications/progress', params: { progressToken, progress: 1, total: 2 } });
      const data = `about to fail at ${process.env.SECRET}`;
      say({ method: 'notifications/message', params: { level: 'error', logger: 'db', data } });
    }
    if (params.name === 'dies') setTimeout(() => process.exit(1), 50);
    if (params.name === 'dies') continue;
    const text = `call ${calls} of ${process.pid}`;
    say({ id, result: { content: [{ type: 'text', text }] } });
  } else say({ id, error: { code: -32601, message: 'no such method' } });
}
