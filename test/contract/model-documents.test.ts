/** What a Model document can say, through the whole adapter, over HTTP. */
import { readFileSync } from 'node:fs';
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { parseSpecs } from '../../services/adapters/files/spec-parser.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { openaiModel } from '../../services/adapters/openai/model.ts';
import { costMicrosOf } from '../../services/core/budget/budget.ts';
import { modelSpecSchema } from '../../services/core/session/model-spec.ts';
import type { Prompt } from '../../services/ports/performers.ts';

type Body = Record<string, unknown>;
let say: (response: ServerResponse, body: Body) => void;
let asked: { url: string; headers: IncomingHttpHeaders; body: Body }[] = [];
const server = createServer((request, response) => {
  const parts: Buffer[] = [];
  request.on('data', (part: Buffer) => parts.push(part));
  request.on('end', () => {
    const body = JSON.parse(Buffer.concat(parts).toString()) as Body;
    asked.push({ url: request.url ?? '', headers: request.headers, body });
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

const json = (response: ServerResponse, status: number, value: unknown) =>
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
const chat = {
  model: 'x-1',
  choices: [{ index: 0, finish_reason: 'stop', message: { content: 'hi' } }],
  usage: { prompt_tokens: 12, completion_tokens: 3 },
};
const prompt: Prompt = {
  instructions: 'Be brief.',
  entries: [{ role: 'user', content: 'the letter of a customer with a long name' }],
  tools: [{ name: 'echo', description: 'echoes', input: { type: 'object' } }],
  temperature: 0,
  outputTokensMax: 77,
};
const environment = {
  OPENAI_BASE_URL: '',
  OPENAI_API_KEY: 'sk-secret-of-ours',
  OTHER_KEY: 'another-secret',
  MODEL_NAME: 'from-outside',
};
const ask = (
  over: object = {},
  {
    what = prompt,
    env = {},
    onText,
  }: { what?: Prompt; env?: Record<string, string>; onText?: (text: string) => void } = {},
) =>
  openaiModel({ ...environment, ...env }, systemClock).complete(
    {
      name: 'm',
      ...modelSpecSchema.parse({ model: 'x', baseUrl: address, stream: false, ...over }),
    } as never,
    what,
    { signal: new AbortController().signal, ...(onText ? { onText } : {}) },
  );
const answer = (response: ServerResponse) => void json(response, 200, chat);

describe('fields of a request', () => {
  test.each<[string, object, object]>([
    ['a temperature of its own', { temperature: 0.7 }, { temperature: 0.7 }],
    ['the older name of the bound', { maxTokensField: 'max_tokens' }, { max_tokens: 77 }],
    ['that a tool must be called', { toolChoice: 'required' }, { tool_choice: 'required' }],
    [
      'which tool must be called',
      { toolChoice: { name: 'echo' } },
      { tool_choice: { type: 'function', function: { name: 'echo' } } },
    ],
    ['one call at a time', { parallelToolCalls: false }, { parallel_tool_calls: false }],
    ['how much it thinks', { reasoningEffort: 'low' }, { reasoning_effort: 'low' }],
    [
      'the form of its answer',
      { responseFormat: { type: 'json_object' } },
      { response_format: { type: 'json_object' } },
    ],
    [
      'any other',
      { body: { seed: 7, chat_template_kwargs: { thinking: false } } },
      { seed: 7, chat_template_kwargs: { thinking: false } },
    ],
    ['with a variable', { body: { user: '${env:MODEL_NAME}' } }, { user: 'from-outside' }],
    ['the name of the model', { model: 'org/${env:MODEL_NAME}' }, { model: 'org/from-outside' }],
    ['one of ours, changed', { body: { max_completion_tokens: 5 } }, { max_completion_tokens: 5 }],
  ])('%s', async (_what, over, body) => {
    say = answer;
    expect(await ask(over)).toMatchObject({ ok: true });
    expect(asked[0]!.body).toMatchObject(body);
  });

  test('no temperature, and none of what is not said', async () => {
    say = answer;
    await ask({ temperature: null, maxTokensField: 'max_tokens' });
    expect(Object.keys(asked[0]!.body).sort()).toEqual([
      'max_tokens',
      'messages',
      'model',
      'tools',
    ]);
  });

  test('the Responses API has words of its own', async () => {
    say = (response) =>
      void json(response, 200, {
        model: 'x',
        status: 'completed',
        output: [{ type: 'message', content: [{ type: 'output_text', text: 'hi' }] }],
        usage: { input_tokens: 1, output_tokens: 1 },
      });
    await ask({
      api: 'responses',
      reasoningEffort: 'high',
      toolChoice: { name: 'echo' },
      responseFormat: { type: 'json_object' },
    });
    expect(asked[0]!.body).toMatchObject({
      reasoning: { effort: 'high' },
      tool_choice: { type: 'function', name: 'echo' },
      text: { format: { type: 'json_object' } },
      max_output_tokens: 77,
    });
  });

  test('a summary calls nothing and is no JSON, whatever turns must do', async () => {
    say = answer;
    await ask(
      { toolChoice: 'required', responseFormat: { type: 'json_object' } },
      { what: { ...prompt, isSummary: true } },
    );
    expect(asked[0]!.body).toMatchObject({ tool_choice: 'none' });
    expect(asked[0]!.body).not.toHaveProperty('response_format');
  });

  test('headers, with variables; a key in another header, and none of ours', async () => {
    say = answer;
    await ask({
      apiKeyEnv: null,
      headers: { 'api-key': '${env:OTHER_KEY}', 'HTTP-Referer': 'https://example.org' },
    });
    const { headers } = asked[0]!;
    expect(headers).toMatchObject({
      'api-key': 'another-secret',
      'http-referer': 'https://example.org',
      'user-agent': 'understudy',
    });
    expect(headers).not.toHaveProperty('authorization');
  });

  test.each<[string, object, RegExp]>([
    ['a header', { headers: { 'api-key': '${env:GONE}' } }, /GONE is not set/],
    ['a field', { body: { user: { id: ['${env:GONE}'] } } }, /GONE is not set/],
    ['the name', { model: '${env:GONE}' }, /GONE is not set/],
  ])('a variable of %s that is not set is named, and nothing is sent', async (_what, over, why) => {
    say = answer;
    expect(await ask(over)).toMatchObject({
      ok: false,
      failure: {
        code: 'MODEL_SETTINGS_INVALID',
        message: expect.stringMatching(why),
        hasBegun: false,
      },
    });
    expect(asked).toEqual([]);
  });

  test.each<[string, object, string]>([
    ['what a session says', { body: { messages: [] } }, 'body.messages'],
    [
      'a header of the connection',
      { headers: { 'Content-Length': '1' } },
      'headers.Content-Length',
    ],
    ['a variable without a name', { headers: { x: '${env:}' } }, 'headers.x'],
    ['more places than there can be', { concurrency: 1_000 }, 'concurrency'],
  ])('%s is refused with its field when it is loaded', (_what, over, field) => {
    const yaml = JSON.stringify({
      apiVersion: 'understudy.dev/v1',
      kind: 'Model',
      metadata: { name: 'm' },
      spec: { model: 'x', ...over },
    });
    const [parsed] = parseSpecs(yaml, 'm.yaml');
    expect(parsed!.problems.map((problem) => problem.field)).toEqual([`spec.${field}`]);
  });
});

test('every example of docs/models.md is loaded as it stands there', () => {
  const text = readFileSync(join(import.meta.dirname, '../../docs/models.md'), 'utf8');
  const [, yaml] = /```yaml\n([\s\S]*?)```/.exec(text)!;
  const parsed = parseSpecs(yaml!, 'models.md');
  expect(parsed.flatMap(({ problems }) => problems)).toEqual([]);
  expect(parsed.map(({ document }) => document?.metadata.name)).toEqual([
    'openai',
    'azure',
    'openrouter',
    'litellm',
    'llama-cpp',
    'ollama',
    'vllm',
  ]);
});

/** As the docs show them: each is what its server wants to be sent. */
describe('examples of docs/models.md', () => {
  test.each<[string, object, string, object]>([
    [
      'OpenAI',
      { model: 'gpt-5-mini', temperature: null, reasoningEffort: 'low' },
      '/v1/chat/completions',
      { reasoning_effort: 'low' },
    ],
    [
      'Azure',
      { model: 'my-deployment', apiKeyEnv: null, headers: { 'api-key': '${env:OTHER_KEY}' } },
      '/openai/deployments/d/chat/completions?api-version=2024-10-21',
      { model: 'my-deployment' },
    ],
    [
      'OpenRouter',
      {
        model: 'anthropic/claude',
        headers: { 'HTTP-Referer': 'https://example.org' },
        body: { provider: { order: ['a'] } },
      },
      '/v1/chat/completions',
      { provider: { order: ['a'] } },
    ],
    ['LiteLLM', { model: 'gpt-5-mini', temperature: null }, '/v1/chat/completions', {}],
    [
      'llama.cpp',
      {
        model: 'any',
        apiKeyEnv: null,
        maxTokensField: 'max_tokens',
        concurrency: 2,
        contextTokens: 2_048,
      },
      '/v1/chat/completions',
      { max_tokens: 77 },
    ],
    [
      'Ollama',
      { model: 'llama3.2', apiKeyEnv: null, maxTokensField: 'max_tokens' },
      '/v1/chat/completions',
      { max_tokens: 77 },
    ],
    [
      'vLLM',
      {
        model: 'org/model',
        apiKeyEnv: null,
        body: { chat_template_kwargs: { enable_thinking: false } },
      },
      '/v1/chat/completions',
      { chat_template_kwargs: { enable_thinking: false } },
    ],
  ])('%s', async (name, over, url, body) => {
    say = answer;
    const base =
      name === 'Azure'
        ? `${address.replace('/v1', '')}/openai/deployments/d?api-version=2024-10-21`
        : address;
    expect(await ask({ ...over, baseUrl: base })).toMatchObject({ ok: true });
    expect(asked[0]!.url).toBe(url);
    expect(asked[0]!.body).toMatchObject(body);
  });
});

describe("the provider's own reason", () => {
  const refused = (message: string, status = 400) => {
    say = (response) => void json(response, status, { error: { message } });
  };
  const reasonOf = async (over: object = {}) => {
    const outcome = await ask(over);
    return outcome.ok ? '' : outcome.failure.message;
  };
  test('is told, on one line, cut', async () => {
    refused(`Invalid model name passed in model=not-there\n${'x y '.repeat(200)}`);
    const reason = await reasonOf();
    expect(reason).toMatch(
      /^model m answered 400: Invalid model name passed in model=not-there x y/,
    );
    expect(reason.length).toBeLessThan(340);
  });
  test.each([
    ['our key', 'Incorrect API key provided: sk-secret-of-ours.', 'sk-secret-of-ours'],
    ['a key of a header', 'no such user: another-secret!', 'another-secret'],
    ['what looks like a key', 'bad key sk-abcdefghij0123456789', 'abcdefghij'],
    ['a long token', `token ${'a1'.repeat(30)} expired`, 'a1a1a1a1'],
    ['the prompt', 'cannot parse: the letter of a customer with a long name', 'customer'],
    ['the instructions', 'system was: Be brief.', 'Be brief'],
    ['the prompt as JSON', 'at "the\\u0020letter of\\na customer"', 'customer'],
  ])('has nothing of %s', async (_what, message, hidden) => {
    refused(message);
    const reason = await reasonOf({ headers: { 'x-other': '${env:OTHER_KEY}' } });
    expect(reason).toMatch(/^model m answered 400: \S/);
    expect(reason).not.toContain(hidden);
  });
  test('has a code, and none that is a key or a word of the prompt', async () => {
    const coded = async (code: string) => {
      say = (response) => void json(response, 400, { error: { code, message: 'no' } });
      return reasonOf();
    };
    expect(await coded('model_not_found')).toBe('model m answered 400 (model_not_found): no');
    expect(await coded('sk-secret-of-ours')).toBe('model m answered 400: no');
    expect(await coded('sk-abcdefghij0123456789')).toBe('model m answered 400: no');
  });
});

describe('time', () => {
  const pieces = (response: ServerResponse, count: number, everyMs: number) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    let sent = 0;
    const timer = setInterval(() => {
      sent += 1;
      const last = sent === count;
      const chunk = {
        model: 'x',
        choices: [{ index: 0, delta: { content: 'a' }, finish_reason: last ? 'stop' : null }],
        ...(last ? { usage: { prompt_tokens: 1, completion_tokens: count } } : {}),
      };
      response.write(`data: ${JSON.stringify(chunk)}\n\n`);
      if (last) response.end('data: [DONE]\n\n');
      if (last || response.destroyed) clearInterval(timer);
    }, everyMs);
  };
  test('a stream that flows is read to its end, however short the patience with silence', async () => {
    say = (response) => pieces(response, 12, 50);
    expect(await ask({ stream: true, timeoutMs: 400, totalMs: 10_000 })).toMatchObject({
      ok: true,
      value: { content: 'a'.repeat(12) },
    });
  });
  test('one that falls silent is given up, and so is one that never ends', async () => {
    say = (response) => pieces(response, 1_000, 20);
    expect(await ask({ stream: true, timeoutMs: 200, totalMs: 400 })).toMatchObject({
      ok: false,
      failure: { code: 'MODEL_TIMEOUT' },
    });
    say = (response) => pieces(response, 1_000, 5_000);
    expect(await ask({ stream: true, timeoutMs: 200 })).toMatchObject({
      ok: false,
      failure: { code: 'MODEL_TIMEOUT' },
    });
  });
});

describe('the Responses API, streamed', () => {
  const usage = { input_tokens: 12, output_tokens: 3 };
  const message = (text: string) => ({ type: 'message', content: [{ type: 'output_text', text }] });
  const events = (response: ServerResponse, all: readonly object[]) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    for (const one of all)
      response.write(`event: ${(one as { type: string }).type}\ndata: ${JSON.stringify(one)}\n\n`);
    response.end();
  };
  const delta = (text: string) => ({
    type: 'response.output_text.delta',
    output_index: 0,
    delta: text,
  });
  const call = {
    type: 'function_call',
    id: 'f',
    call_id: 'c1',
    name: 'echo',
    arguments: '{"n":2}',
  };
  const streamed = async (all: readonly object[]) => {
    say = (response) => events(response, all);
    const heard: string[] = [];
    const outcome = await ask(
      { api: 'responses', stream: true },
      { onText: (text) => heard.push(text) },
    );
    return { outcome, heard };
  };

  test('comes in pieces, and its end holds it whole', async () => {
    const whole = { model: 'x-1', status: 'completed', output: [message('one two'), call], usage };
    const { outcome, heard } = await streamed([
      delta('one '),
      delta('two'),
      { type: 'response.completed', response: whole },
    ]);
    expect(heard).toEqual(['one ', 'two']);
    expect(outcome).toMatchObject({
      ok: true,
      value: {
        content: 'one two',
        calls: [{ id: 'c1', name: 'echo' }],
        finish: 'tool_calls',
        usage: { promptTokens: 12 },
      },
    });
    expect(asked[0]!.body.stream).toBe(true);
  });
  test('an end that is empty counts what was told before', async () => {
    const done = (output_index: number, item: object) => ({
      type: 'response.output_item.done',
      output_index,
      item,
    });
    const { outcome } = await streamed([
      delta('one'),
      done(1, call),
      done(0, message('one')),
      { type: 'response.completed', response: { usage } },
    ]);
    expect(outcome).toMatchObject({ ok: true, value: { content: 'one', calls: [{ id: 'c1' }] } });
    const bare = await streamed([delta('one'), { type: 'response.completed', response: {} }]);
    expect(bare.outcome).toMatchObject({ ok: true, value: { content: 'one' } });
  });
  test('cut and filtered are named', async () => {
    const end = (reason: string) => ({
      type: 'response.incomplete',
      response: { output: [message('ha')], incomplete_details: { reason }, usage },
    });
    expect((await streamed([end('max_output_tokens')])).outcome).toMatchObject({
      ok: true,
      value: { finish: 'length' },
    });
    expect((await streamed([end('content_filter')])).outcome).toMatchObject({
      ok: true,
      value: { finish: 'content_filter' },
    });
  });
  test('no end, a failure and an error are no answer', async () => {
    for (const all of [
      [delta('half')],
      [{ type: 'response.failed', response: { error: { code: 'server_error' } } }],
      [{ type: 'error', message: 'no' }],
    ])
      expect((await streamed(all)).outcome).toMatchObject({
        ok: false,
        failure: { class: 'transient' },
      });
  });
  test('one JSON in place of a stream is an answer', async () => {
    say = (response) =>
      void json(response, 200, {
        model: 'x',
        status: 'completed',
        output: [message('whole')],
        usage,
      });
    const heard: string[] = [];
    expect(
      await ask({ api: 'responses', stream: true }, { onText: (text) => heard.push(text) }),
    ).toMatchObject({ ok: true, value: { content: 'whole' } });
    expect(heard).toEqual(['whole']);
    say = answer;
    const words: string[] = [];
    const onText = (text: string) => words.push(text);
    expect(await ask({ stream: true }, { onText })).toMatchObject({
      ok: true,
      value: { content: 'hi', finish: 'stop', usage: { promptTokens: 12 } },
    });
    expect(words).toEqual(['hi']);
  });
});

test('tokens that were written to a cache cost what their Model says, or a quarter more', async () => {
  say = (response) =>
    void json(response, 200, {
      ...chat,
      usage: {
        prompt_tokens: 5_000,
        completion_tokens: 100,
        prompt_tokens_details: { cached_tokens: 3_000 },
        cache_creation_input_tokens: 2_000,
      },
    });
  const outcome = await ask();
  if (!outcome.ok || !outcome.value.usage) throw new Error('no usage');
  const price = {
    inputMicrosPerMillion: 3_000_000,
    outputMicrosPerMillion: 15_000_000,
    cachedMicrosPerMillion: 300_000,
  };
  expect(costMicrosOf(price, outcome.value.usage)).toBe(900 + 7_500 + 1_500);
  expect(
    costMicrosOf({ ...price, cacheWriteMicrosPerMillion: 6_000_000 }, outcome.value.usage),
  ).toBe(900 + 12_000 + 1_500);
});
