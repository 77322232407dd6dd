/** The openai package over our wire, against a real HTTP server that answers like providers do, and like they should not. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { openaiModel } from '../../services/adapters/openai/model.ts';
import { modelSpecSchema } from '../../services/core/session/model-spec.ts';
import type { Prompt } from '../../services/ports/performers.ts';
import { hasOpenssl, selfSigned } from '../support/tls-servers.ts';

type Handler = (
  response: ServerResponse,
  body: Record<string, unknown>,
  request: IncomingMessage,
) => void;
let handler: Handler = () => undefined;
let sockets = 0;
const seen: { url: string; headers: IncomingMessage['headers']; body: Record<string, unknown> }[] =
  [];
const server = createServer((request, response) => {
  let text = '';
  request.on('data', (chunk: Buffer) => {
    text += chunk;
  });
  request.on('end', () => {
    const body = JSON.parse(text) as Record<string, unknown>;
    seen.push({ url: request.url ?? '', headers: request.headers, body });
    handler(response, body, request);
  });
});
server.on('connection', () => {
  sockets += 1;
});
let baseUrl = '';
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});

const prompt: Prompt = {
  instructions: 'Be brief.',
  entries: [
    { role: 'user', content: 'hello' },
    { role: 'assistant', content: '', calls: [{ id: 'c1', name: 'echo', arguments: '{"n":1}' }] },
    { role: 'tool', call: 'c1', tool: 'echo', content: '1' },
  ],
  tools: [{ name: 'echo', description: 'echoes', input: { type: 'object' } }],
  temperature: 0.5,
  outputTokensMax: 77,
  traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
};
const never = new AbortController().signal;
const ask = (
  over: object = {},
  signal = never,
  onText?: (text: string) => void,
  environment: Record<string, string> = {},
) =>
  openaiModel(
    { OPENAI_BASE_URL: baseUrl, OPENAI_API_KEY: 'secret', ...environment },
    systemClock,
  ).complete(
    {
      name: 'm',
      ...modelSpecSchema.parse({
        model: 'x',
        stream: false,
        price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 },
        ...over,
      }),
    } as never,
    prompt,
    { signal, ...(onText ? { onText } : {}) },
  );
const json = (
  response: ServerResponse,
  status: number,
  value: unknown,
  headers: Record<string, string> = {},
) =>
  response
    .writeHead(status, { 'content-type': 'application/json', ...headers })
    .end(JSON.stringify(value));
const usage = {
  prompt_tokens: 12,
  completion_tokens: 3,
  total_tokens: 15,
  prompt_tokens_details: { cached_tokens: 4 },
};
const call = { id: 'c2', type: 'function', function: { name: 'echo', arguments: '{"n":2}' } };
const completion = (message: object, finish: string) => ({
  id: 'm',
  object: 'chat.completion',
  created: 1,
  model: 'x-1',
  choices: [{ index: 0, finish_reason: finish, message }],
  usage,
});
const events = (response: ServerResponse, chunks: readonly unknown[], end = true) => {
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
  for (const chunk of chunks) response.write(`data: ${JSON.stringify(chunk)}\n\n`);
  if (end) response.end('data: [DONE]\n\n');
};
const delta = (part: object, finish: string | null = null) => ({
  id: 'm',
  object: 'chat.completion.chunk',
  created: 1,
  model: 'x-1',
  choices: [{ index: 0, delta: part, finish_reason: finish }],
});

describe('chat completions', () => {
  test('are asked with key, trace, instructions, conversation and tools', async () => {
    handler = (response) =>
      json(response, 200, completion({ role: 'assistant', content: 'hi' }, 'stop'));
    expect(await ask()).toMatchObject({
      ok: true,
      value: {
        content: 'hi',
        calls: [],
        finish: 'stop',
        model: 'x-1',
        usage: { promptTokens: 12, completionTokens: 3, cachedTokens: 4 },
      },
    });
    expect(seen.at(-1)).toMatchObject({
      url: '/v1/chat/completions',
      headers: {
        authorization: 'Bearer secret',
        'content-type': 'application/json',
        traceparent: prompt.traceparent,
      },
      body: {
        model: 'x',
        temperature: 0.5,
        max_completion_tokens: 77,
        messages: [
          { role: 'system', content: 'Be brief.' },
          { role: 'user', content: 'hello' },
          {
            role: 'assistant',
            content: null,
            tool_calls: [
              { id: 'c1', type: 'function', function: { name: 'echo', arguments: '{"n":1}' } },
            ],
          },
          { role: 'tool', tool_call_id: 'c1', content: '1' },
        ],
        tools: [
          {
            type: 'function',
            function: { name: 'echo', description: 'echoes', parameters: { type: 'object' } },
          },
        ],
      },
    });
    expect(
      Object.keys(seen.at(-1)!.headers).filter((name) => name.startsWith('x-stainless')),
    ).toEqual([]);
  });

  const textTold = { role: 'assistant', content: 'a long answer' };
  const callTold = { role: 'assistant', content: null, tool_calls: [call] };
  const nothingTold = { role: 'assistant', content: '' };
  test.each<[object, number, number, boolean]>([
    [textTold, 0, 0, false],
    [textTold, 12, 0, false],
    [textTold, 0, 3, false],
    [callTold, 12, 0, false],
    [nothingTold, 0, 0, false],
    [nothingTold, 12, 0, true],
    [textTold, 1, 1, true],
  ])(
    'of %j with %i and %i tokens have a believed usage: %s',
    async (message, prompts, completions, isBelieved) => {
      const told = { prompt_tokens: prompts, completion_tokens: completions };
      handler = (response, body) =>
        body.stream
          ? events(response, [
              delta(
                'tool_calls' in message ? { tool_calls: [{ index: 0, ...call }] } : message,
                'stop',
              ),
              { ...delta({}), choices: [], usage: told },
            ])
          : json(response, 200, { ...completion(message, 'stop'), usage: told });
      for (const stream of [false, true]) {
        const outcome = await ask({ stream });
        expect(outcome.ok && outcome.value.usage).toEqual(
          isBelieved
            ? { promptTokens: prompts, completionTokens: completions, cachedTokens: 0 }
            : undefined,
        );
      }
    },
  );

  test('give the calls that the model wants', async () => {
    handler = (response) =>
      json(
        response,
        200,
        completion({ role: 'assistant', content: null, tool_calls: [call] }, 'tool_calls'),
      );
    expect(await ask()).toMatchObject({
      ok: true,
      value: {
        content: '',
        calls: [{ id: 'c2', name: 'echo', arguments: '{"n":2}' }],
        finish: 'tool_calls',
      },
    });
  });

  test('come as a stream, a character cut in two included', async () => {
    handler = (response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      const text = Buffer.from(`data: ${JSON.stringify(delta({ content: 'für' }))}\n\n`);
      const cut = text.indexOf(0xc3) + 1;
      response.write(text.subarray(0, cut));
      setTimeout(() => {
        response.write(text.subarray(cut));
        response.write(
          `data: ${JSON.stringify(delta({ tool_calls: [{ index: 0, id: 'c3', function: { name: 'echo', arguments: '{"n"' } }] }))}\n\n`,
        );
        response.write(
          `data: ${JSON.stringify(delta({ tool_calls: [{ index: 0, function: { arguments: ':3}' } }] }, 'tool_calls'))}\n\n`,
        );
        response.end(
          `data: ${JSON.stringify({ ...delta({}), choices: [], usage })}\n\ndata: [DONE]\n\n`,
        );
      }, 20);
    };
    const heard: string[] = [];
    expect(await ask({ stream: true }, never, (text) => heard.push(text))).toMatchObject({
      ok: true,
      value: {
        content: 'für',
        calls: [{ id: 'c3', name: 'echo', arguments: '{"n":3}' }],
        finish: 'tool_calls',
        usage: { promptTokens: 12 },
      },
    });
    expect(heard).toEqual(['für']);
    expect(seen.at(-1)?.body).toMatchObject({
      stream: true,
      stream_options: { include_usage: true },
    });
  });

  test('share their sockets, also after streams', async () => {
    handler = (response, body) =>
      body.stream
        ? events(response, [delta({ content: 'a' }, 'stop')])
        : json(response, 200, completion({ role: 'assistant', content: 'hi' }, 'stop'));
    await ask();
    const before = sockets;
    for (let count = 0; count < 10; count += 1)
      expect((await ask({ stream: count % 2 === 0 })).ok).toBe(true);
    expect(sockets - before).toBeLessThanOrEqual(1);
  });

  test.each<[string, number, object | string, Record<string, string>, object]>([
    [
      'too many requests',
      429,
      { error: { message: 'slow down', code: 'rate_limit_exceeded' } },
      { 'retry-after': '7' },
      { class: 'transient', code: 'MODEL_RATE_LIMITED', retryAfterMs: 7_000 },
    ],
    [
      'no quota',
      429,
      { error: { message: 'pay', code: 'insufficient_quota' } },
      {},
      { class: 'permanent', code: 'MODEL_QUOTA' },
    ],
    [
      'overloaded',
      503,
      { error: { message: 'busy' } },
      {},
      { class: 'transient', code: 'MODEL_OVERLOADED' },
    ],
    [
      'a proxy with a page',
      502,
      '<html>bad gateway</html>',
      { 'content-type': 'text/html' },
      { class: 'transient', code: 'MODEL_OVERLOADED' },
    ],
    [
      'a wrong key',
      401,
      { error: { message: 'no' } },
      {},
      { class: 'permanent', code: 'MODEL_REFUSED' },
    ],
    [
      'too long',
      400,
      { error: { message: 'too long', code: 'context_length_exceeded' } },
      {},
      { class: 'permanent', code: 'MODEL_CONTEXT_TOO_LONG' },
    ],
    [
      'no completion',
      200,
      { hello: 'world' },
      {},
      { class: 'transient', code: 'MODEL_ANSWER_INVALID' },
    ],
    [
      'no JSON',
      200,
      'fine',
      { 'content-type': 'text/plain' },
      { class: 'transient', code: 'MODEL_ANSWER_INVALID' },
    ],
  ])('%s is told by its class', async (_what, status, body, headers, failure) => {
    handler = (response) =>
      typeof body === 'string'
        ? response.writeHead(status, headers).end(body)
        : json(response, status, body, headers);
    expect(await ask()).toMatchObject({ ok: false, failure });
  });

  test.each<[string, Handler, boolean]>([
    ['before it answers', (_response, _body, request) => request.socket.destroy(), false],
    [
      'in the middle of an answer',
      (response) =>
        void response
          .writeHead(200, { 'content-length': '500' })
          .write('{"id"', () => response.destroy()),
      false,
    ],
    [
      'in the middle of a stream',
      (response) =>
        void (
          events(response, [delta({ content: 'a' })], false) ??
          setTimeout(() => response.destroy(), 20)
        ),
      true,
    ],
    ['without a finish reason', (response) => events(response, [delta({ content: 'a' })]), true],
  ])('a provider that hangs up %s is a passing failure', async (_what, hangsUp, stream) => {
    handler = hangsUp;
    expect(await ask({ stream })).toMatchObject({
      ok: false,
      failure: {
        class: 'transient',
        code: expect.stringMatching(/MODEL_(UNREACHABLE|STREAM_BROKEN)/) as string,
      },
    });
  });

  test.each([false, true])(
    'one that does not answer in time is given up (stream: %s)',
    async (stream) => {
      let closed = false;
      handler = (response) => {
        if (stream) events(response, [delta({ content: 'a' })], false);
        response.on('close', () => {
          closed = true;
        });
      };
      expect(await ask({ stream, timeoutMs: 150 })).toMatchObject({
        ok: false,
        failure: { class: 'transient', code: 'MODEL_TIMEOUT' },
      });
      for (let looks = 0; looks < 100 && !closed; looks += 1)
        await new Promise((wait) => setTimeout(wait, 20));
      expect(closed).toBe(true);
    },
  );

  test.each([false, true])('a halt ends the call at the provider (stream: %s)', async (stream) => {
    const controller = new AbortController();
    let closed = false;
    handler = (response) => {
      if (stream) events(response, [delta({ content: 'a' })], false);
      response.on('close', () => {
        closed = true;
      });
      setTimeout(() => controller.abort(), 30);
    };
    expect(await ask({ stream }, controller.signal)).toMatchObject({
      ok: false,
      failure: { code: 'CANCELLED' },
    });
    for (let looks = 0; looks < 100 && !closed; looks += 1)
      await new Promise((wait) => setTimeout(wait, 20));
    expect(closed).toBe(true);
  });

  test('one that takes the connection and never shakes hands is given up in time, not when the socket is', async () => {
    const mute = createTcpServer(() => undefined);
    await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
    const from = performance.now();
    expect(
      await ask({
        baseUrl: `https://127.0.0.1:${(mute.address() as AddressInfo).port}/v1`,
        timeoutMs: 200,
      }),
    ).toMatchObject({ ok: false, failure: { code: 'MODEL_TIMEOUT' } });
    expect(performance.now() - from).toBeLessThan(5_000); // the socket's own time-out is twice that
    mute.close();
  });

  test('a stream that does not say that it is one is read as one', async () => {
    handler = (response) => {
      response.writeHead(200, { 'content-type': 'text/plain' });
      response.end(`data: ${JSON.stringify(delta({ content: 'a' }, 'stop'))}\n\ndata: [DONE]\n\n`);
    };
    expect(await ask({ stream: true })).toMatchObject({ ok: true, value: { content: 'a' } });
  });

  test.each([
    ['${env:LOCAL_LLM_URL}', 'LOCAL_LLM_URL is not set'],
    ['https://${env:LLM_HOST}/v1', 'LLM_HOST is not set'],
    ['http://127.0.0.1:1/${env:my_path}', 'my_path is not set'],
    ['http://127.0.0.1:1/${env:EMPTY}', 'EMPTY is not set'],
    ['${env:BAD}/v1', 'with BAD of this gateway, its baseUrl is not an address'],
    ['my-llm:8000/v1', 'its baseUrl is not an address'],
    ['ftp://my-llm/v1', 'its baseUrl is not an address'],
    ['http://my llm/v1', 'its baseUrl is not an address'],
    ['', 'its baseUrl is not an address'],
    [undefined, 'with OPENAI_BASE_URL of this gateway, its baseUrl is not an address'],
  ])('a baseUrl %s sends no prompt and no key anywhere', async (address, message) => {
    const before = seen.length;
    const environment = {
      EMPTY: '',
      BAD: 'hidden-value',
      ...(address === undefined ? { OPENAI_BASE_URL: 'hidden-value' } : {}),
    };
    const outcome = await ask({ baseUrl: address }, never, undefined, environment);
    expect(outcome).toMatchObject({
      ok: false,
      failure: {
        class: 'permanent',
        code: 'MODEL_SETTINGS_INVALID',
        hasBegun: false,
        message: expect.stringContaining(message) as string,
      },
    });
    expect(JSON.stringify(outcome)).not.toContain('hidden-value');
    expect(seen).toHaveLength(before);
  });

  test('a baseUrl names variables of the gateway in letters of any case', async () => {
    handler = (response) =>
      json(response, 200, completion({ role: 'assistant', content: 'hi' }, 'stop'));
    const environment = { my_host: baseUrl.replace('/v1', ''), my_path: 'v2' };
    expect(
      await ask({ baseUrl: '${env:my_host}/${env:my_path}' }, never, undefined, environment),
    ).toMatchObject({ ok: true });
    expect(seen.at(-1)?.url).toBe('/v2/chat/completions');
  });

  test.skipIf(!hasOpenssl)(
    'one with a self-signed certificate is sent no prompt, and costs nothing',
    async () => {
      const secure = await selfSigned();
      expect(await ask({ baseUrl: `${secure.url}/v1` })).toMatchObject({
        ok: false,
        failure: { class: 'transient', code: 'MODEL_UNREACHABLE', hasBegun: false },
      });
      expect(secure.asked()).toBe(0);
      secure.close();
    },
  );

  test('a baseUrl with a user and a key that no header can carry are refused by name', async () => {
    const before = seen.length;
    for (const [environment, message] of [
      [{ OPENAI_BASE_URL: baseUrl.replace('//', '//user:hidden@') }, 'OPENAI_BASE_URL'],
      [{ OPENAI_API_KEY: 'hidden €' }, 'OPENAI_API_KEY has characters'],
    ] as const) {
      const outcome = await ask({}, never, undefined, environment);
      expect(outcome).toMatchObject({
        failure: { class: 'permanent', code: 'MODEL_SETTINGS_INVALID', hasBegun: false },
      });
      expect(JSON.stringify(outcome)).toContain(message);
      expect(JSON.stringify(outcome)).not.toContain('hidden');
    }
    expect(seen).toHaveLength(before);
  });

  test('nobody there is a passing failure', async () => {
    expect(await ask({ baseUrl: 'http://127.0.0.1:1/v1' })).toMatchObject({
      ok: false,
      failure: { class: 'transient', code: 'MODEL_UNREACHABLE' },
    });
  });
});

describe('the Responses API', () => {
  const answer = (output: readonly object[], over: object = {}) => ({
    id: 'r',
    object: 'response',
    model: 'x-1',
    status: 'completed',
    output,
    usage: {
      input_tokens: 12,
      output_tokens: 3,
      total_tokens: 15,
      input_tokens_details: { cached_tokens: 4 },
    },
    ...over,
  });

  test('is asked with the same conversation, stored nowhere else, and gives text and calls', async () => {
    handler = (response) =>
      json(
        response,
        200,
        answer([
          { type: 'reasoning', id: 'x', summary: [] },
          {
            type: 'message',
            id: 'm',
            role: 'assistant',
            status: 'completed',
            content: [{ type: 'output_text', text: 'hi', annotations: [] }],
          },
          {
            type: 'function_call',
            id: 'f',
            call_id: 'c2',
            name: 'echo',
            arguments: '{"n":2}',
            status: 'completed',
          },
        ]),
      );
    const heard: string[] = [];
    expect(await ask({ api: 'responses' }, never, (text) => heard.push(text))).toMatchObject({
      ok: true,
      value: {
        content: 'hi',
        calls: [{ id: 'c2', name: 'echo', arguments: '{"n":2}' }],
        finish: 'tool_calls',
        usage: { promptTokens: 12, completionTokens: 3, cachedTokens: 4 },
        model: 'x-1',
      },
    });
    expect(heard).toEqual(['hi']);
    expect(seen.at(-1)).toMatchObject({
      url: '/v1/responses',
      headers: { authorization: 'Bearer secret', traceparent: prompt.traceparent },
      body: {
        model: 'x',
        instructions: 'Be brief.',
        store: false,
        max_output_tokens: 77,
        input: [
          { role: 'user', content: 'hello' },
          { type: 'function_call', call_id: 'c1', name: 'echo', arguments: '{"n":1}' },
          { type: 'function_call_output', call_id: 'c1', output: '1' },
        ],
        tools: [
          {
            type: 'function',
            name: 'echo',
            description: 'echoes',
            parameters: { type: 'object' },
            strict: false,
          },
        ],
      },
    });
  });

  test('tells that an answer was cut', async () => {
    handler = (response) =>
      json(
        response,
        200,
        answer(
          [
            {
              type: 'message',
              id: 'm',
              role: 'assistant',
              status: 'incomplete',
              content: [{ type: 'output_text', text: 'hal', annotations: [] }],
            },
          ],
          { status: 'incomplete' },
        ),
      );
    expect(await ask({ api: 'responses' })).toMatchObject({
      ok: true,
      value: { content: 'hal', finish: 'length' },
    });
  });

  test.each([
    [0, 0],
    [12, 0],
    [0, 3],
  ])('tells no usage for a text with %i and %i tokens', async (inputs, outputs) => {
    const text = { type: 'output_text', text: 'hi', annotations: [] };
    const message = { type: 'message', id: 'm', role: 'assistant', content: [text] };
    handler = (response) =>
      json(
        response,
        200,
        answer([message], { usage: { input_tokens: inputs, output_tokens: outputs } }),
      );
    const outcome = await ask({ api: 'responses' });
    expect(outcome).toMatchObject({ ok: true, value: { content: 'hi' } });
    expect(outcome.ok && outcome.value.usage).toBeUndefined();
  });

  test('refuses what is no response', async () => {
    handler = (response) => json(response, 200, { hello: 'world' });
    expect(await ask({ api: 'responses' })).toMatchObject({
      ok: false,
      failure: { class: 'transient', code: 'MODEL_ANSWER_INVALID' },
    });
  });
});
