/** What providers say in different words for the same thing, through the whole adapter, over HTTP. */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { openaiModel } from '../../services/adapters/openai/model.ts';
import { modelSpecSchema } from '../../services/core/session/model-spec.ts';
import type { Prompt } from '../../services/ports/performers.ts';

type Body = Record<string, unknown>;
let say: (response: ServerResponse, body: Body) => void;
let asked: Body[] = [];
const server = createServer((request, response) => {
  const parts: Buffer[] = [];
  request.on('data', (part: Buffer) => parts.push(part));
  request.on('end', () => {
    const body = JSON.parse(Buffer.concat(parts).toString()) as Body;
    asked.push(body);
    say(response, body);
  });
});
let address = '';
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
});
beforeEach(() => {
  asked = [];
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});

const json = (response: ServerResponse, status: number, value: unknown, headers: object = {}) =>
  response
    .writeHead(status, { 'content-type': 'application/json', ...headers })
    .end(JSON.stringify(value));
const usage = { prompt_tokens: 12, completion_tokens: 3 };
const completion = (message: object, finish = 'stop') => ({
  model: 'x-1',
  choices: [{ index: 0, finish_reason: finish, message }],
  usage,
});
const response = (output: readonly object[], over: object = {}) => ({
  model: 'x-1',
  status: 'completed',
  output,
  usage: { input_tokens: 12, output_tokens: 3 },
  ...over,
});
const prompt: Prompt = {
  instructions: 'Be brief.',
  entries: [{ role: 'user', content: 'hello' }],
  tools: [],
  temperature: 0,
  outputTokensMax: 77,
};
const adapter = () =>
  openaiModel({ OPENAI_BASE_URL: address, OPENAI_API_KEY: 'secret' }, systemClock);
const ask = (over: object = {}, what: Prompt = prompt, model = adapter()) =>
  model.complete(
    {
      name: 'm',
      ...modelSpecSchema.parse({
        model: 'x',
        stream: false,
        price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 },
        ...over,
      }),
    } as never,
    what,
    { signal: new AbortController().signal },
  );
const apis = ['chat', 'responses'] as const;
const good = (api: string) =>
  api === 'chat'
    ? completion({ role: 'assistant', content: 'hi' })
    : response([{ type: 'message', content: [{ type: 'output_text', text: 'hi' }] }]);
const refusal = (status: number, error: object) => (answer: ServerResponse) =>
  void json(answer, status, { error });

describe('a temperature that a model does not take', () => {
  const refusals = [
    {
      message: "Unsupported value: 'temperature' does not support 0 with this model.",
      param: 'temperature',
      code: 'unsupported_value',
    },
    { message: "litellm.UnsupportedParamsError: gpt-5-mini doesn't support temperature=0" },
    { message: '`temperature` is deprecated for this model.' },
  ];

  test.each(apis.flatMap((api) => refusals.map((error) => [api, error] as const)))(
    '%s: is left out, and not sent again: %j',
    async (api, error) => {
      say = (answer, body) =>
        void ('temperature' in body ? json(answer, 400, { error }) : json(answer, 200, good(api)));
      const model = adapter();
      for (let times = 0; times < 2; times += 1)
        expect(await ask({ api }, prompt, model)).toMatchObject({
          ok: true,
          value: { content: 'hi' },
        });
      expect(asked.map((body) => body.temperature)).toEqual([0, undefined, undefined]);
      await ask({ api, model: 'another' }, prompt, model);
      expect(asked[3]).toHaveProperty('temperature', 0);
    },
  );

  test('null is not sent at all', async () => {
    say = (answer) => void json(answer, 200, good('chat'));
    await ask({}, { ...prompt, temperature: null });
    expect(asked[0]).not.toHaveProperty('temperature');
  });

  test.each([
    { message: 'Unsupported value: top_p. The temperature was fine.' },
    { message: 'too high', param: 'temperature', code: 'decimal_above_max_value' },
    { message: 'unsupported value: temperature', code: 'invalid_json' },
  ])('another refusal is not asked again: %j', async (error) => {
    say = refusal(400, error);
    expect(await ask()).toMatchObject({ ok: false, failure: { code: 'MODEL_REFUSED' } });
    expect(asked).toHaveLength(1);
  });

  test('where none was sent, a refusal is told at once', async () => {
    say = refusal(400, { message: 'no', param: 'temperature', code: 'unsupported_value' });
    expect(await ask({}, { ...prompt, temperature: null })).toMatchObject({ ok: false });
    expect(asked).toHaveLength(1);
  });

  test('words that only quote it change nothing for others', async () => {
    const quoting = { message: 'bad schema in "what is an unsupported value of temperature"' };
    say = refusal(400, quoting);
    const model = adapter();
    expect(await ask({}, prompt, model)).toMatchObject({ ok: false });
    say = (answer) => void json(answer, 200, good('chat'));
    await ask({}, prompt, model);
    expect(asked.at(-1)).toHaveProperty('temperature', 0);
  });
});

describe('refusals', () => {
  test.each([
    [400, { message: 'too long', code: 'context_length_exceeded' }],
    [400, { message: 'litellm.ContextWindowExceededError: so many' }],
    [400, { message: 'the request exceeds', type: 'exceed_context_size_error' }],
    [400, { message: "This model's maximum context length is 4096 tokens." }],
    [400, { message: 'prompt is too long: 210000 tokens > 200000 maximum' }],
    [400, { message: 'Input is too long for requested model.' }],
    [400, { message: 'The input token count exceeds the maximum number of tokens allowed' }],
    [413, { message: 'Please reduce the length of the messages or completion.' }],
  ])('for length: %i %j', async (status, error) => {
    say = refusal(status, error);
    expect(await ask()).toMatchObject({
      ok: false,
      failure: { class: 'permanent', code: 'MODEL_CONTEXT_TOO_LONG', hasBegun: false },
    });
  });

  test.each([429, 500, 503])('%i that quotes such words is for later', async (status) => {
    say = refusal(status, { message: 'Please reduce the length of the messages.' });
    expect(await ask()).toMatchObject({ ok: false, failure: { class: 'transient' } });
  });

  const prose = 'what the customer wrote '.repeat(9);
  test.each([
    [500, { toString: 1, valueOf: 1 }],
    [400, { toString: 1, valueOf: 1 }],
    [400, prose],
    [400, ['a']],
  ])('%i with a code that is none: %j', async (status, code) => {
    say = refusal(status, { message: prose, code, type: code });
    // It is told in the provider's words, but for those that it quotes of the request.
    const outcome = await ask({}, { ...prompt, entries: [{ role: 'user', content: prose }] });
    expect(outcome).toMatchObject({
      ok: false,
      failure: { code: status === 400 ? 'MODEL_REFUSED' : 'MODEL_OVERLOADED' },
    });
    expect(JSON.stringify(outcome)).not.toContain('customer');
  });

  test.each([408, 409, 425, 429, 500, 503, 529])('%i means later', async (status) => {
    say = refusal(status, { message: 'busy' });
    expect(await ask()).toMatchObject({ ok: false, failure: { class: 'transient' } });
  });

  const inAMinute = () => new Date(Date.now() + 60_000).toUTCString();
  test.each<[string, () => Record<string, string>, number, number]>([
    ['milliseconds', () => ({ 'retry-after-ms': '1500' }), 1_500, 1_500],
    ['milliseconds first', () => ({ 'retry-after-ms': '15', 'retry-after': '9' }), 15, 15],
    ['seconds with a point', () => ({ 'retry-after': '1.5' }), 1_500, 1_500],
    ['a date', () => ({ 'retry-after': inAMinute() }), 30_000, 60_000],
    ['a date that is over', () => ({ 'retry-after': 'Mon, 01 Jan 2024 00:00:00 GMT' }), 0, 0],
    ['more than is believed', () => ({ 'retry-after': '86400' }), 120_000, 120_000],
  ])('retry-after in %s', async (_form, headers, from, to) => {
    say = (answer) => void json(answer, 429, { error: { message: 'slow' } }, headers());
    const outcome = await ask();
    const { retryAfterMs } = outcome.ok ? {} : (outcome.failure as { retryAfterMs?: number });
    expect(retryAfterMs).toBeGreaterThanOrEqual(from);
    expect(retryAfterMs).toBeLessThanOrEqual(to);
  });

  test.each(['soon', '', '-1'])('retry-after %j is none', async (text) => {
    say = (answer) => void json(answer, 429, { error: {} }, { 'retry-after': text });
    const outcome = await ask();
    expect(outcome).toMatchObject({ ok: false, failure: { code: 'MODEL_RATE_LIMITED' } });
    expect(outcome).not.toHaveProperty('failure.retryAfterMs');
  });
});

describe('the Responses API', () => {
  const refused = { type: 'message', content: [{ type: 'refusal', refusal: 'I will not.' }] };
  test.each([
    ['a refusal', response([refused]), { content: 'I will not.', finish: 'refusal' }],
    [
      'a filter',
      response([], { status: 'incomplete', incomplete_details: { reason: 'content_filter' } }),
      { content: '', finish: 'content_filter' },
    ],
    [
      'a cut',
      response([], { status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } }),
      { content: '', finish: 'length' },
    ],
  ])('%s is told as it is', async (_what, body, value) => {
    say = (answer) => void json(answer, 200, body);
    expect(await ask({ api: 'responses' })).toMatchObject({ ok: true, value });
  });

  test.each([
    ['arguments as an object', { call_id: 'a', arguments: { n: 1 } }, '{"n":1}', 'a'],
    ['no call_id', { id: 'fc_1', arguments: '{}' }, '{}', 'fc_1'],
    ['no id at all', {}, '{}', 'call_0'],
  ])('a call with %s', async (_what, item, text, id) => {
    const odd = [null, { type: 'message', content: null }, { type: 'message', content: [null] }];
    const output = [...odd, { type: 'function_call', name: 'pay', ...item }];
    say = (answer) =>
      void json(answer, 200, { ...response(output as object[]), model: null, status: null });
    expect(await ask({ api: 'responses' })).toMatchObject({
      ok: true,
      value: { content: '', model: '', calls: [{ id, name: 'pay', arguments: text }] },
    });
  });

  test('text as a string, and a part without text', async () => {
    const output = [
      { type: 'message', content: 'hi' },
      { type: 'message', content: [{ type: 'output_text' }] },
    ];
    say = (answer) => void json(answer, 200, response(output));
    expect(await ask({ api: 'responses' })).toMatchObject({ ok: true, value: { content: 'hi' } });
  });

  test.each(['failed', 'cancelled', 'in_progress', 'queued'])(
    'one that is %s is no answer',
    async (status) => {
      say = (answer) => void json(answer, 200, response([], { status }));
      expect(await ask({ api: 'responses' })).toMatchObject({
        ok: false,
        failure: { class: 'transient' },
      });
    },
  );
});

describe('what strict servers are sent', () => {
  const spoiled: Prompt = {
    ...prompt,
    entries: [
      { role: 'user', content: 'hello' },
      {
        role: 'assistant',
        content: '',
        calls: [{ id: 'c1', name: 'functions.pay', arguments: '{"a":' }],
        thought: { text: 'let me pay', by: 'm' },
      },
      { role: 'tool', call: 'c1', tool: 'functions.pay', content: 'no such tool' },
      { role: 'assistant', content: '' },
      { role: 'user', content: 'go on' },
    ],
  };

  test('chat: a name and arguments that can be read, nothing empty, its own reasoning', async () => {
    say = (answer) => void json(answer, 200, good('chat'));
    await ask({}, spoiled);
    expect((asked[0]!.messages as Body[]).map(({ role }) => role)).toEqual([
      'system',
      'user',
      'assistant',
      'tool',
      'user',
    ]);
    expect((asked[0]!.messages as Body[])[2]).toEqual({
      role: 'assistant',
      content: null,
      reasoning_content: 'let me pay',
      tool_calls: [
        { id: 'c1', type: 'function', function: { name: 'functions_pay', arguments: '{}' } },
      ],
    });
  });

  test('responses: the same', async () => {
    say = (answer) => void json(answer, 200, good('responses'));
    await ask({ api: 'responses' }, spoiled);
    expect((asked[0]!.input as Body[])[1]).toEqual({
      type: 'function_call',
      call_id: 'c1',
      name: 'functions_pay',
      arguments: '{}',
    });
    expect(asked[0]!.input).toHaveLength(4);
  });

  test('reasoning of another Model stays with it', async () => {
    say = (answer) => void json(answer, 200, good('chat'));
    const [first, second, ...rest] = spoiled.entries;
    const other = { ...second, thought: { text: 'let me pay', by: 'other' } } as never;
    await ask({}, { ...spoiled, entries: [first!, other, ...rest] });
    expect(JSON.stringify(asked[0])).not.toContain('let me pay');
  });
});
