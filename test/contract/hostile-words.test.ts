/**
 * Words of hostile models and tools by number, through both APIs and over HTTP, into a session: it is
 * never parked, what it holds can be stored, its log folds to the same state, and others go on.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { openaiModel } from '../../services/adapters/openai/model.ts';
import { sendable } from '../../services/adapters/openai/request.ts';
import type { SessionId } from '../../services/core/ids.ts';
import type { Message, ModelReply } from '../../services/core/session/messages.ts';
import { parseRecord } from '../../services/core/session/migrate.ts';
import { modelSpecSchema } from '../../services/core/session/model-spec.ts';
import { stateHashOf } from '../../services/core/session/record.ts';
import { encodeEnvelope, parseMail } from '../../services/core/wire/envelopes.ts';
import { Actor } from '../../services/runtime/actor.ts';
import { Drafts } from '../../services/runtime/drafts.ts';
import { cloudEventText } from '../support/hostile.ts';
import { type Chance, chanceOf } from '../support/machine-maker.ts';
import { address, bundleOf, Talk, task } from '../support/sessions.ts';

const seeds = Number(process.env.SEEDS ?? 10_000);
const first = Number(process.env.FIRST ?? 1);

let body = '';
let isStream = false;
const server = createServer((request, response) => {
  request.resume().on('end', () => {
    const type = isStream ? 'text/event-stream' : 'application/json';
    response.writeHead(200, { 'content-type': type }).end(body);
  });
});
let url = '';
beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
});
afterAll(() => {
  server.closeAllConnections();
  server.close();
});
const model = openaiModel({ OPENAI_API_KEY: 'none' }, systemClock);
const specs = new Map<string, object>();
const specOf = (api: string, stream: boolean) => {
  const key = `${api} ${stream}`;
  const known = specs.get(key) ?? {
    name: 'm',
    ...modelSpecSchema.parse({ model: 'x', baseUrl: url, api, stream }),
  };
  specs.set(key, known);
  return known as never;
};

const names = [
  'look',
  'pay',
  'delegate',
  'constructor',
  '__proto__',
  'toString',
  'hasOwnProperty',
  '',
  'look ',
  'l\u0000ok',
  '../pay',
  'löök',
  'a'.repeat(300),
  '\ud83d',
  'valueOf',
];
const texts = [
  '',
  ' ',
  'done',
  '\ud83d half',
  'nul\u0000',
  '\u2028',
  '{"a":1}',
  '__proto__',
  'x'.repeat(5_000),
  '\uffff',
  '\u202e',
  '</s>',
  '[TOOL_CALLS]',
  '"',
];
const numbers = [
  '0',
  '-0',
  '1e999',
  '-1e400',
  '12345678901234567890',
  '9007199254740993',
  '0.1',
  '1e-400',
];
const deep = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`;

/** JSON of any shape, some of it none. */
function jsonOf(chance: Chance, depth = 0): string {
  return chance.one<() => string>([
    () => JSON.stringify(chance.one(texts)),
    () => chance.one(numbers),
    () => chance.one(['null', 'true', '{}', '[]', '""']),
    () => (depth > 2 ? '1' : `[${chance.some(3, () => jsonOf(chance, depth + 1)).join(',')}]`),
    () =>
      depth > 2
        ? '2'
        : `{${chance.some(3, () => `${JSON.stringify(chance.one([...names, 'amount']))}:${jsonOf(chance, depth + 1)}`).join(',')}}`,
    () => (chance.is(0.1) ? deep(chance.one([50, 199, 201, 3_000])) : '[]'),
  ])();
}
const argumentsOf = (chance: Chance): unknown =>
  chance.one<() => unknown>([
    () => '{}',
    () => '{"amount":5}',
    () => jsonOf(chance),
    () => `{"amount":${jsonOf(chance)}}`,
    () =>
      chance.one([
        '',
        '{',
        '[1]',
        'null',
        '"x"',
        '{"a":1}{"b":2}',
        '{"__proto__":{"x":1}}',
        'NaN',
        '{"agent":"constructor","input":"x"}',
        '{"agent":"helper","input":"x"}',
      ]),
    () => ({ amount: 5 }),
    () => [1],
    () => 7,
    () => null,
  ])();
const usageOf = (chance: Chance, [input, output]: [string, string]): object => ({
  [input]: chance.one<unknown>([12, 0, -1, 1e300, 'many', null]),
  [output]: chance.one<unknown>([3, 0, -5, 2.5, {}]),
});
const idOf = (chance: Chance): unknown =>
  chance.one<unknown>(['c1', 'c2', '', null, 7, '__proto__', 'x'.repeat(200), {}]);
const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
};
const anything = (chance: Chance): unknown => parsed(jsonOf(chance));

function chatBody(chance: Chance): string {
  const call = () => ({
    ...(chance.is(0.7) ? { index: chance.one<unknown>([0, 1, -1, 1e9, '0', null]) } : {}),
    id: idOf(chance),
    type: 'function',
    function: { name: chance.one<unknown>([...names, null, 5]), arguments: argumentsOf(chance) },
  });
  const said = () => ({
    role: 'assistant',
    content: chance.one<() => unknown>([
      () => chance.one(texts),
      () => null,
      () => [{ type: 'text', text: chance.one(texts) }],
      () => anything(chance),
    ])(),
    ...(chance.is(0.5)
      ? { tool_calls: chance.is(0.9) ? chance.some(3, call) : anything(chance) }
      : {}),
    ...(chance.is(0.1) ? { refusal: chance.one(texts) } : {}),
    ...(chance.is(0.1) ? { reasoning_content: chance.one(texts) } : {}),
  });
  const finish = () =>
    chance.one<unknown>([
      'stop',
      'tool_calls',
      'length',
      'content_filter',
      'safety',
      'error',
      '',
      null,
      7,
      'toString',
    ]);
  const usage = () =>
    chance.is(0.8) ? { usage: usageOf(chance, ['prompt_tokens', 'completion_tokens']) } : {};
  const whole = (part: string, end: unknown) => ({
    model: chance.one<unknown>(['x', null, 3]),
    choices: chance.is(0.95)
      ? [{ index: 0, [part]: said(), finish_reason: end }]
      : anything(chance),
    ...usage(),
  });
  if (!isStream)
    return chance.is(0.95) ? JSON.stringify(whole('message', finish())) : jsonOf(chance);
  const chunks = [...chance.some(4, () => whole('delta', null)), whole('delta', finish())];
  return `${chunks.map((chunk) => `data: ${chance.is(0.97) ? JSON.stringify(chunk) : jsonOf(chance)}\n\n`).join('')}data: [DONE]\n\n`;
}

function responsesBody(chance: Chance): string {
  const item = () =>
    chance.one<() => unknown>([
      () => ({
        type: 'message',
        content: [
          {
            type: chance.one(['output_text', 'refusal', 'x']),
            text: chance.one(texts),
            refusal: chance.one(texts),
          },
        ],
      }),
      () => ({
        type: 'function_call',
        id: idOf(chance),
        call_id: idOf(chance),
        name: chance.one<unknown>([...names, null]),
        arguments: argumentsOf(chance),
      }),
      () => ({ type: 'reasoning', summary: [] }),
      () => anything(chance),
    ])();
  const response = {
    model: 'x',
    status: chance.one<unknown>(['completed', 'incomplete', 'failed', null, 5]),
    incomplete_details: chance.one<unknown>([
      null,
      { reason: 'max_output_tokens' },
      { reason: 'content_filter' },
      'x',
    ]),
    output: chance.is(0.95) ? chance.some(4, item) : anything(chance),
    usage: usageOf(chance, ['input_tokens', 'output_tokens']),
  };
  if (!isStream) return chance.is(0.95) ? JSON.stringify(response) : jsonOf(chance);
  const events: unknown[] = [
    { type: 'response.created', response },
    ...chance.some(3, () => ({
      type: 'response.output_text.delta',
      delta: chance.one<unknown>([...texts, null, 7]),
    })),
    ...chance.some(3, () => ({
      type: 'response.output_item.done',
      output_index: chance.one<unknown>([0, 1, 'x']),
      item: item(),
    })),
    {
      type: chance.one([
        'response.completed',
        'response.incomplete',
        'response.failed',
        'error',
        'x',
      ]),
      response,
    },
  ];
  return events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join('');
}

/** As it travels: out as mail, and in again. */
const mailed = (message: Message): Message => {
  const [read] = parseMail(encodeEnvelope({ ...address, message }));
  if (!read?.ok) throw new Error(`the mail does not parse: ${read?.problem}`);
  return read.envelope.message;
};
const resultOf = (chance: Chance, effect: string): Message => {
  const how = { latencyMs: 1, attempts: 1, executor: 'x' };
  if (chance.is(0.2))
    return {
      kind: 'toolFailed',
      effect: effect as never,
      failure: {
        class: chance.one(['transient', 'semantic', 'permanent', 'unknown'] as const),
        code: 'X',
        message: chance.one(texts),
      },
      ...how,
    };
  return {
    kind: 'toolReturned',
    effect: effect as never,
    value: anything(chance),
    bytes: 1,
    truncated: false,
    ...how,
  };
};

const bundle = bundleOf({
  agents: ['helper'],
  limits: { stepsMax: 8, toolCallsMax: 40 },
  approvals: [{ tool: 'pay', when: { argument: 'amount', above: 50 } }],
} as never);

/** @returns how far it came. @throws where an oracle says no */
async function story(seed: number): Promise<string> {
  const chance = chanceOf(seed);
  const talk = new Talk({ bundle });
  const drafts = new Drafts();
  const neighbour = new Talk({ bundle });
  neighbour.say(task('neighbour'));
  const say = (message: Message) => {
    const stepped = talk.say(mailed(message));
    if (stepped.kind !== 'applied') return;
    expect(stepped.record.status, `seed ${seed}`).not.toBe('parked');
    // It goes into one commit with another's step, and both can be written and read.
    drafts.keep(new Actor(address.tenant, address.session, 0), talk.heard.at(-1)!, stepped);
    drafts.keep(
      new Actor(address.tenant, 'other-1' as SessionId, 0),
      neighbour.heard[0]!,
      neighbour.last as never,
    );
    const { sessions } = drafts.take(() => undefined);
    expect(sessions).toHaveLength(2);
    for (const one of sessions) parseRecord(one.record);
    cloudEventText(stepped, talk.at);
    for (const entry of stepped.entries)
      if (entry.role === 'assistant')
        for (const made of entry.calls ?? []) JSON.parse(sendable(made).arguments);
  };
  say(task('x'));
  for (let count = 0; count < 4 && talk.record?.status === 'active'; count += 1) {
    const [effect, note] = Object.entries(talk.record.pending)[0] ?? [];
    if (!effect || !note) break;
    if (note.kind === 'callModel') {
      isStream = chance.is(0.6);
      const api = chance.one(['chat', 'responses']);
      body = api === 'chat' ? chatBody(chance) : responsesBody(chance);
      const prompt = {
        instructions: 'x',
        entries: [],
        tools: [],
        temperature: null,
        outputTokensMax: 9,
      };
      const outcome = await model.complete(specOf(api, isStream), prompt, {
        signal: new AbortController().signal,
      });
      const usage = { promptTokens: 9, completionTokens: 1, cachedTokens: 0 };
      say(
        outcome.ok
          ? {
              kind: 'modelReplied',
              effect: effect as never,
              reply: {
                ...outcome.value,
                usage: outcome.value.usage ?? usage,
                costMicros: 1,
                attempts: 1,
              } as ModelReply,
            }
          : { kind: 'modelFailed', effect: effect as never, failure: outcome.failure, attempts: 1 },
      );
    } else if (note.kind === 'runTool') say(resultOf(chance, effect));
    else if (note.kind === 'startAgent')
      say({
        kind: 'agentEnded',
        effect: effect as never,
        outcome: 'completed',
        output: chance.one(texts),
        spent: { steps: 1, toolCalls: 0, tokens: 1, costMicros: 1 },
      });
    else say({ kind: 'wake' });
    if (note.kind === 'askHuman') break;
  }
  const again = new Talk({ bundle });
  for (const { message, at } of talk.heard) {
    again.at = at - 1;
    again.say(message);
  }
  expect(stateHashOf(again.record!), `seed ${seed}`).toBe(stateHashOf(talk.record!));
  return talk.record!.status;
}

test(`${seeds} stories of hostile words`, async () => {
  const ends = new Map<string, number>();
  for (let seed = first; seed < first + seeds; seed += 1) {
    const end = await story(seed).catch((error: unknown) => {
      throw new Error(`seed ${seed}: ${(error as Error).stack}`);
    });
    ends.set(end, (ends.get(end) ?? 0) + 1);
  }
  // All ways are gone: what never answers, fails or calls would test nothing.
  for (const end of ['completed', 'failed', 'active'])
    expect(ends.get(end) ?? 0).toBeGreaterThan(seeds / 50);
}, 300_000);
