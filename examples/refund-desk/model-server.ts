/**
 * An OpenAI-compatible model server that reads the conversation and decides like a clerk: scripted, so that the
 * demo needs no key and costs nothing. Answers as a stream or whole, after a short while, and fails now and then.
 *
 * Environment: PORT, LATENCY_MS (mean, default 150), CALM=1 to never fail.
 */
import { createServer } from 'node:http';
import { type ClerkMessage, type ClerkTurn, clerkTurn, fraudTurn } from './clerk.ts';

const { PORT = '0', HOST = '127.0.0.1', LATENCY_MS = '150', CALM } = process.env;
let calls = 0;

interface Request {
  readonly model: string;
  readonly stream?: boolean;
  readonly messages: readonly ClerkMessage[];
}

/** A script that knows two agents. To any other it says what it is, so that nobody takes it for a model. */
function turnOf(system: string, messages: readonly ClerkMessage[]): ClerkTurn {
  if (system.includes('You check letters')) return fraudTurn(messages);
  if (system.includes('refund desk')) return clerkTurn(messages);
  return {
    say: 'This is the script of the refund desk, not a model. For agents of your own set OPENAI_BASE_URL and OPENAI_API_KEY.',
  };
}

const server = createServer(async (request, response) => {
  let text = '';
  for await (const chunk of request) text += chunk;
  if (request.method !== 'POST' || !request.url?.endsWith('/chat/completions')) {
    response
      .writeHead(404, { 'content-type': 'application/json' })
      .end('{"error":{"message":"not found"}}');
    return;
  }
  calls += 1;
  const number = calls;
  const latency = Number(LATENCY_MS);
  await new Promise((resolve) =>
    setTimeout(resolve, latency * (0.5 + ((number * 37) % 100) / 100)),
  );
  if (!CALM && number % 41 === 0) {
    response
      .writeHead(429, { 'content-type': 'application/json', 'retry-after': '1' })
      .end('{"error":{"message":"slow down","type":"rate_limit"}}');
    return;
  }
  const { messages, model, stream } = JSON.parse(text) as Request;
  const system = messages.find((message) => message.role === 'system')?.content ?? '';
  const turn = turnOf(system, messages);
  const usage = {
    prompt_tokens: Math.ceil(text.length / 4),
    completion_tokens: Math.ceil(JSON.stringify(turn).length / 4),
    total_tokens: 0,
  };
  usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
  const call =
    'call' in turn
      ? {
          id: `call_${number}`,
          type: 'function',
          function: { name: turn.call.name, arguments: JSON.stringify(turn.call.arguments) },
        }
      : undefined;
  // Now and then a model writes arguments that are no JSON; whoever asked has to cope.
  if (call && !CALM && number % 67 === 0)
    call.function.arguments = `${call.function.arguments.slice(0, -1)},,`;
  const finish = call ? 'tool_calls' : 'stop';
  const content = 'say' in turn ? turn.say : null;
  const base = { id: `chatcmpl-${number}`, created: Math.floor(Date.now() / 1_000), model };
  if (!stream) {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(
      JSON.stringify({
        ...base,
        object: 'chat.completion',
        choices: [
          {
            index: 0,
            finish_reason: finish,
            message: { role: 'assistant', content, ...(call ? { tool_calls: [call] } : {}) },
          },
        ],
        usage,
      }),
    );
    return;
  }
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  const send = (delta: object, finishReason: string | null, extra: object = {}) =>
    response.write(
      `data: ${JSON.stringify({ ...base, object: 'chat.completion.chunk', choices: [{ index: 0, delta, finish_reason: finishReason }], ...extra })}\n\n`,
    );
  if (!CALM && number % 53 === 0) {
    send({ role: 'assistant', content: 'Let me' }, null);
    response.destroy(); // a stream that breaks off in the middle
    return;
  }
  send({ role: 'assistant', content: '' }, null);
  if (content)
    for (let at = 0; at < content.length; at += 24)
      send({ content: content.slice(at, at + 24) }, null);
  if (call) send({ tool_calls: [{ index: 0, ...call }] }, null);
  send({}, finish);
  response.write(
    `data: ${JSON.stringify({ ...base, object: 'chat.completion.chunk', choices: [], usage })}\n\n`,
  );
  response.end('data: [DONE]\n\n');
});
server.keepAliveTimeout = 30_000;
server.listen(Number(PORT), HOST, () => {
  const address = server.address();
  process.stdout.write(
    `${JSON.stringify({ listening: typeof address === 'object' ? address?.port : PORT })}\n`,
  );
});
