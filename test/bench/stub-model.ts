/**
 * A model that answers at once (or after LATENCY_MS): ten tool calls, then an answer. Keeps the time between two calls of a session.
 *
 * It shares two cores with what is measured, so it knows just enough HTTP for that: a request is a head with a length, and a body.
 */
import { createServer, type Socket } from 'node:net';

const latencyMs = Number(process.env.LATENCY_MS ?? 0);
const lastCall = new Map<string, number>();
let gaps: number[] = [];

const answered = (type: string, body: string): string =>
  `HTTP/1.1 200 OK\r\ncontent-type: ${type}\r\ncontent-length: ${body.length}\r\n\r\n${body}`;

const completions = Array.from({ length: 11 }, (_, turn) => {
  const message =
    turn === 10
      ? '{"role":"assistant","content":"done"}'
      : `{"role":"assistant","content":null,"tool_calls":[{"id":"c${turn}","type":"function","function":{"name":"echo","arguments":"{\\"n\\":${turn}}"}}]}`;
  const choice = `{"index":0,"finish_reason":"${turn === 10 ? 'stop' : 'tool_calls'}","message":${message}}`;
  return answered(
    'application/json',
    `{"id":"m","object":"chat.completion","created":1,"model":"stub","choices":[${choice}],"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}}`,
  );
});

/** Which of the ten it is, and which session: counted and found in the text, which needs no parsing. */
function complete(body: string): string {
  let turn = 0;
  for (let at = body.indexOf('"role":"tool"'); at >= 0; at = body.indexOf('"role":"tool"', at + 1))
    turn += 1;
  const session = /session-(\d+)/.exec(body)?.[1] ?? '';
  const now = performance.now();
  const before = lastCall.get(session);
  // Two steps lie between two model calls of a session: the model's answer and the tool's result.
  if (before !== undefined) gaps.push((now - before - latencyMs) / 2);
  if (turn >= 10) lastCall.delete(session);
  else lastCall.set(session, now);
  return completions[Math.min(turn, 10)]!;
}

function answer(socket: Socket, head: string, body: string): void {
  if (head.startsWith('GET /gaps ')) {
    socket.write(answered('application/json', JSON.stringify(gaps)));
    gaps = [];
    lastCall.clear();
    return;
  }
  const completion = complete(body);
  if (latencyMs > 0) setTimeout(() => socket.write(completion), latencyMs);
  else socket.write(completion);
}

createServer({ noDelay: true }, (socket) => {
  let text = '';
  socket.setEncoding('latin1');
  socket.on('error', () => undefined);
  socket.on('data', (chunk: string) => {
    text += chunk;
    for (;;) {
      const end = text.indexOf('\r\n\r\n');
      if (end < 0) return;
      const head = text.slice(0, end);
      const length = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? 0);
      if (text.length < end + 4 + length) return;
      const body = text.slice(end + 4, end + 4 + length);
      text = text.slice(end + 4 + length);
      answer(socket, head, body);
    }
  });
}).listen(Number(process.env.PORT), '127.0.0.1', 8_192);
