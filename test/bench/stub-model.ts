/** A model that answers at once (or after LATENCY_MS): ten tool calls, then an answer. Keeps the time between two calls of a session. */
import { createServer } from 'node:http';

const latencyMs = Number(process.env.LATENCY_MS ?? 0);
const lastCall = new Map<string, number>();
let gaps: number[] = [];
const server = createServer((request, response) => {
  if (request.url === '/gaps') {
    response.end(JSON.stringify(gaps));
    gaps = [];
    lastCall.clear();
    return;
  }
  const chunks: Buffer[] = [];
  request.on('data', (chunk: Buffer) => chunks.push(chunk));
  request.on('end', () => {
    const text = Buffer.concat(chunks).toString('latin1');
    // A tool message for every call so far; counting them needs no parsing.
    const turn = text.split('"role":"tool"').length - 1;
    const session = /session-(\d+)/.exec(text)?.[1] ?? '';
    const now = performance.now();
    const before = lastCall.get(session);
    // Two steps lie between two model calls of a session: the model's answer and the tool's result.
    if (before !== undefined) gaps.push((now - before - latencyMs) / 2);
    if (turn >= 10) lastCall.delete(session);
    else lastCall.set(session, now);
    const message =
      turn >= 10
        ? '{"role":"assistant","content":"done"}'
        : `{"role":"assistant","content":null,"tool_calls":[{"id":"c${turn}","type":"function","function":{"name":"echo","arguments":"{\\"n\\":${turn}}"}}]}`;
    const body = `{"id":"m","object":"chat.completion","created":1,"model":"stub","choices":[{"index":0,"finish_reason":"${turn >= 10 ? 'stop' : 'tool_calls'}","message":${message}}],"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}}`;
    const answer = () => response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length }).end(body);
    if (latencyMs > 0) setTimeout(answer, latencyMs);
    else answer();
  });
});
server.keepAliveTimeout = 120_000;
server.listen(Number(process.env.PORT), '127.0.0.1', 8_192);
