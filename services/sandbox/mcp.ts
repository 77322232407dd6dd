/**
 * One call of a tool of an MCP server that runs beside it, in the sandbox, for as long as the call takes: JSON-RPC in lines over the
 * server's stdin and stdout (MCP's stdio transport, by hand: no library in here).
 *
 * `{ code, input }` on stdin: code is JSON, `{ command, tool, meta, protocol }`; input are the arguments. To descriptor 3 goes
 * `{ value: { result } }` as the server gave it, `{ value: { error } }` when it refused, or `{ error }` when it gave no answer.
 */
import { spawn } from 'node:child_process';
import { readFileSync, writeSync } from 'node:fs';
import { createInterface } from 'node:readline';

interface Message {
  readonly id?: number | string;
  readonly method?: string;
  readonly result?: unknown;
  readonly error?: { readonly code: number; readonly message: string };
}

const { code, input } = JSON.parse(readFileSync(0, 'utf8')) as { code: string; input: unknown };
const { command, tool, meta, protocol } = JSON.parse(code) as {
  command: string[];
  tool: string;
  meta: object;
  protocol: string;
};
const [program = '', ...args] = command;
const server = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });

const end = (answer: unknown): never => {
  const bytes = Buffer.from(JSON.stringify(answer));
  for (let at = 0; at < bytes.length; ) at += writeSync(3, bytes, at);
  server.kill('SIGKILL');
  process.exit(0);
};
server.on('error', (error) =>
  end({ error: `the MCP server could not be started: ${error.message}` }),
);
// Its answer may still be in the pipe when it has ended; a child of its own may hold the pipe open for ever.
const ended = (status: number | null, signal: string | null) =>
  end({ error: `the MCP server ended (${signal ?? `code ${status}`}) before it answered` });
server.on('close', ended);
server.on('exit', (status, signal) => setTimeout(() => ended(status, signal), 500));
server.stdin.on('error', () => undefined); // its end is told by `exit`

const send = (message: object): void =>
  void server.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
const waiting = new Map<number, (message: Message) => void>();
let last = 0;
const request = (method: string, params: object): Promise<Message> =>
  new Promise((resolve) => {
    last += 1;
    waiting.set(last, resolve);
    send({ id: last, method, params });
  });

function messageOf(line: string): Message | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? (value as Message) : undefined;
  } catch {
    return undefined;
  }
}

createInterface({ input: server.stdout }).on('line', (line) => {
  const message = messageOf(line);
  if (!message) return void process.stderr.write(`${line}\n`); // a stray print of the server
  if (message.method !== undefined) {
    // Requests of the server: we are alive, and have nothing else to offer.
    if (message.id !== undefined)
      send(
        message.method === 'ping'
          ? { id: message.id, result: {} }
          : { id: message.id, error: { code: -32_601, message: 'not offered' } },
      );
    return;
  }
  const heard = waiting.get(Number(message.id));
  waiting.delete(Number(message.id));
  heard?.(message);
});

const hello = await request('initialize', {
  protocolVersion: protocol,
  capabilities: {},
  clientInfo: { name: 'understudy-sandbox', version: '0.1.0' },
});
if (hello.error)
  end({ error: `the MCP server refused to begin: ${hello.error.message}`.slice(0, 500) });
send({ method: 'notifications/initialized' });
const { result, error } = await request('tools/call', {
  name: tool,
  arguments: input ?? {},
  _meta: meta,
});
end({
  value: error
    ? { error: { code: error.code, message: String(error.message).slice(0, 500) } }
    : { result },
});
