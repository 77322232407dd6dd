/** Words of models and servers as they are: put together, sent back, and never taken for what they are not. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type AnyStateMachine, assign, cancel, createMachine, raise, setup } from 'xstate';
import { Assembly } from '../../services/adapters/openai/assembly.ts';
import { isSent, sendable } from '../../services/adapters/openai/request.ts';
import { inexactNumber } from '../../services/core/json.ts';
import { checkCall } from '../../services/core/session/tool-calls.ts';
import { outcomeOfMcp } from '../../services/core/tools/mcp-result.ts';
import { bundleOf, call, definitionOf, replied, Talk, task } from '../support/sessions.ts';

const chunk = (delta: unknown, finish: string | null = null) => ({
  choices: [{ index: 0, delta, finish_reason: finish }],
});
const calls = (...parts: object[]) => chunk({ tool_calls: parts });
const made = (id: unknown, name: unknown, args: unknown, more: object = {}) => ({
  ...(id === undefined ? {} : { id }),
  function: { name, arguments: args },
  ...more,
});
function assembled(...chunks: unknown[]) {
  const assembly = new Assembly();
  for (const one of [...chunks, chunk({}, 'tool_calls')]) assembly.add(one);
  return assembly.end(false);
}
const pay = { id: 'a', name: 'pay', arguments: '{"n":1}' };

describe('an answer in pieces', () => {
  test.each<[string, unknown[], object[]]>([
    ['a call without an index', [calls(made('a', 'pay', '{"n":1}'))], [pay]],
    [
      'pieces without index and id go on with the last call',
      [calls(made('a', 'pay', '{"n"')), calls(made(undefined, undefined, ':1}'))],
      [pay],
    ],
    [
      'two ids at one index are two calls',
      [
        calls(made('a', 'pay', '{"n":1}', { index: 0 })),
        calls(made('b', 'look', '{}', { index: 0 })),
      ],
      [pay, { id: 'b', name: 'look', arguments: '{}' }],
    ],
    [
      'a name that comes with each piece',
      [
        calls(made('a', 'pay', '{"n"', { index: 0 })),
        calls(made(undefined, 'pay', ':1}', { index: 0 })),
      ],
      [pay],
    ],
    [
      'a name in two pieces',
      [calls(made('a', 'p', '', { index: 0 })), calls(made('', 'ay', '{"n":1}', { index: 0 }))],
      [pay],
    ],
    [
      'an empty id is none',
      [calls(made('a', 'pay', '{"n"', { index: 0 })), calls(made('', '', ':1}', { index: 0 }))],
      [pay],
    ],
    [
      'null where nothing more is said',
      [
        calls(made('a', 'pay', '{"n":1}', { index: 0 })),
        calls(made(null, null, null, { index: 0 }), made('a', 'pay', null, { index: 0 })),
      ],
      [pay],
    ],
    ['arguments as an object', [calls(made('a', 'pay', { n: 1 }, { index: 0 }))], [pay]],
    [
      'odd parts are no reason to lose the others',
      [calls(null as never, { function: 7 }, made('a', 'pay', '{"n":1}', { index: 0 }))],
      [pay],
    ],
    [
      'whole calls without index and id',
      [calls(made('', 'pay', '{"n":1}'), made('', 'pay', '{"n":2}'), made('', 'look', ''))],
      [
        { ...pay, id: 'call_0' },
        { id: 'call_1', name: 'pay', arguments: '{"n":2}' },
        { id: 'call_2', name: 'look', arguments: '' },
      ],
    ],
    [
      'whole calls without index and id, each in its chunk',
      [calls(made('', 'pay', '{"n":1}')), calls(made('', 'look', '{}'))],
      [
        { ...pay, id: 'call_0' },
        { id: 'call_1', name: 'look', arguments: '{}' },
      ],
    ],
    [
      'two calls without arguments side by side',
      [calls(made('', 'look', ''), made('', 'list', ''))],
      [
        { id: 'call_0', name: 'look', arguments: '' },
        { id: 'call_1', name: 'list', arguments: '' },
      ],
    ],
    [
      'another id with each piece of one index',
      [
        calls(made('a', 'pay', '', { index: 0 })),
        calls(made('r2', '', '{"n":', { index: 0 })),
        calls(made('r3', '', '1}', { index: 0 })),
      ],
      [pay],
    ],
    [
      'one id for two calls: the later one gets another',
      [calls(made('a', 'pay', '{"n":1}', { index: 0 }), made('a', 'look', '{}', { index: 1 }))],
      [pay, { id: 'call_0', name: 'look', arguments: '{}' }],
    ],
    [
      'an id that is made up is nobody else’s',
      [calls(made('call_0', 'pay', '{"n":1}', { index: 0 }), made('', 'look', '{}', { index: 1 }))],
      [
        { ...pay, id: 'call_0' },
        { id: 'call_1', name: 'look', arguments: '{}' },
      ],
    ],
    [
      'a call without an id, then one with, at one index',
      [
        calls(made('', 'pay', '{"n":1}', { index: 0 })),
        calls(made('b', 'look', '{}', { index: 0 })),
      ],
      [
        { ...pay, id: 'call_0' },
        { id: 'b', name: 'look', arguments: '{}' },
      ],
    ],
    [
      'numbers as ids',
      [calls(made(7, 'pay', '{"n":1}'), made(8, 'look', '{}'))],
      [
        { ...pay, id: '7' },
        { id: '8', name: 'look', arguments: '{}' },
      ],
    ],
  ])('%s', (_what, chunks, wanted) => {
    expect(assembled(...chunks)?.calls).toEqual(wanted);
  });

  test.each([
    ['without ids', '', ''],
    ['with one id', 'x', 'x'],
    ['with numbers', 7, 8],
  ])('calls of an answer that came whole are whole: %s', (_what, first, second) => {
    const tool_calls = [made(first, 'read', '{"f":1}'), made(second, 'read', '{"f":2}')];
    const assembly = new Assembly();
    assembly.add({ choices: [{ message: { content: null, tool_calls }, finish_reason: null }] });
    const { calls: all } = assembly.end(true)!;
    expect(all.map((one) => one.arguments)).toEqual(['{"f":1}', '{"f":2}']);
    expect(new Set(all.map(({ id }) => id)).size).toBe(2);
  });

  test.each([
    ['max_tokens', 'length'],
    ['MAX_TOKENS', 'length'],
    ['model_length', 'length'],
    ['SAFETY', 'content_filter'],
    ['eos', 'eos'],
    ['error', undefined],
    ['insufficient_system_resource', undefined],
  ])('an end with %s is %s', (word, finish) => {
    const assembly = new Assembly();
    assembly.add(chunk({ content: 'half' }, word));
    expect(assembly.end(false)?.finish).toBe(finish);
    expect(assembly.end(true)?.finish).toBe(finish);
  });

  test('text in parts, usage alone, and no end', () => {
    const parts = [{ type: 'text', text: 'a' }, { type: 'image' }, { type: 'text', text: 'b' }];
    expect(assembled(chunk({ content: parts }))?.content).toBe('ab');
    expect(assembled(chunk({ content: 'a' }), { usage: { prompt_tokens: 3 } })).toMatchObject({
      content: 'a',
      usage: { prompt_tokens: 3 },
    });
    const open = new Assembly();
    open.add(chunk({ content: 'half' }));
    expect(open.end(false)).toBeUndefined();
    for (const odd of [null, 7, 'x', {}, { choices: 'none' }, { choices: [null] }])
      expect(open.add(odd)).toBe('');
  });

  test('a refusal is told in its own words, and reasoning beside its calls', () => {
    expect(assembled(chunk({ refusal: 'I will ' }), chunk({ refusal: 'not.' }))).toMatchObject({
      finish: 'refusal',
      content: 'I will not.',
    });
    const thought = [chunk({ reasoning_content: 'two ' }), chunk({ reasoning_content: 'of them' })];
    expect(assembled(...thought, calls(made('a', 'pay', '{}')))?.reasoning).toBe('two of them');
  });

  test('however it is cut, the same calls come out', () => {
    const text = fc.string({ minLength: 1, maxLength: 12 });
    const one = fc.record({ name: fc.stringMatching(/^[a-z]{2,8}$/), args: text });
    fc.assert(
      fc.property(
        fc.array(one, { maxLength: 4 }),
        fc.boolean(),
        fc.nat(5),
        (all, hasIndex, cut) => {
          const chunks = all.flatMap(({ name, args }, index) => {
            const at = hasIndex ? { index } : {};
            const pieces = [args.slice(0, cut), args.slice(cut)];
            return [
              calls(made(`id-${index}`, name, '', at)),
              ...pieces.map((piece) => calls(made(undefined, undefined, piece, at))),
            ];
          });
          expect(assembled(...chunks)?.calls).toEqual(
            all.map(({ name, args }, index) => ({ id: `id-${index}`, name, arguments: args })),
          );
        },
      ),
    );
  });
});

describe('what is sent again', () => {
  test.each([
    ['functions.pay', '{"a":1}', 'functions_pay', '{"a":1}'],
    ['', 'no json', 'unknown', '{}'],
    ['x'.repeat(90), '[1]', 'x'.repeat(64), '{}'],
    ['ü b', '{"a":1', '__b', '{}'],
  ])('a call of %j with %j', (name, args, sentName, sentArgs) => {
    expect(sendable(call(name, args, 'i'))).toEqual({
      id: 'i',
      name: sentName,
      arguments: sentArgs,
    });
  });
  test('an assistant that said nothing is left out', () => {
    expect(isSent({ role: 'assistant', content: '' })).toBe(false);
    expect(isSent({ role: 'assistant', content: '', calls: [call('look')] })).toBe(true);
    expect(isSent({ role: 'user', content: '' })).toBe(true);
  });
});

const talkOf = (behaviour: number, spec: object = {}) => {
  const { bundle } = definitionOf(spec);
  return new Talk({ bundle: { ...bundle, behaviour } });
};
const model = (talk: Talk) =>
  Object.entries(talk.record?.pending ?? {}).find(([, { kind }]) => kind === 'callModel')?.[0] ??
  '';

describe('ends that are no answers', () => {
  test.each([
    ['content_filter', 'The refund is', 'MODEL_FILTERED'],
    ['refusal', 'I will not.', 'MODEL_REFUSAL'],
  ])('%s: the session fails and says why', (finish, content, code) => {
    const talk = talkOf(3);
    talk.say(task());
    talk.say(replied(model(talk), { finish, content }));
    expect(talk.record).toMatchObject({ status: 'failed', reason: expect.stringContaining(code) });
    expect(talk.record!.reason).toContain(content);
    const before = talkOf(2);
    before.say(task());
    before.say(replied(model(before), { finish, content }));
    expect(before.record!.status).toBe('completed');
  });

  test.each([2, 3])('behaviour %i: calls of an answer that was cut', (behaviour) => {
    const talk = talkOf(behaviour);
    talk.say(task());
    talk.say(replied(model(talk), { finish: 'length', calls: [call('look')] }));
    const ran = talk.effects.filter(({ kind }) => kind === 'runTool').length;
    expect(ran).toBe(behaviour < 3 ? 1 : 0);
    if (behaviour >= 3) expect(JSON.stringify(talk.entries)).toContain('cut off');
  });

  test.each([
    ['is empty', { content: ' ' }],
    ['is cut', { content: 'So far', finish: 'length' }],
    ['is a call', { content: 'x', calls: [call('look')] }],
  ])('a summary that %s is none: the conversation stays', (_what, reply) => {
    const talk = talkOf(3, { contextTokensMax: 1_000 });
    talk.say(task('Refund O-1.'));
    const usage = { promptTokens: 5_000, completionTokens: 5, cachedTokens: 0 };
    for (let turn = 0; turn < 3 && talk.record!.value !== 'compacting'; turn += 1) {
      talk.say(replied(model(talk), { calls: [call('look', { turn }, `c${turn}`)], usage }));
      const [tool] = Object.keys(talk.record!.pending);
      talk.say({
        kind: 'toolReturned',
        effect: tool,
        value: 1,
        bytes: 1,
        truncated: false,
        latencyMs: 1,
        attempts: 1,
        executor: 'x',
      } as never);
    }
    expect(talk.record!.value).toBe('compacting');
    talk.say(replied(model(talk), reply));
    expect(talk.record!.value).toBe('thinking');
    expect(talk.context.from).toBe(0);
  });
});

describe('arguments', () => {
  test.each([
    ['{"order":9007199254740993}', '9007199254740993'],
    ['{"a":[1,{"b":-12345678901234567891}]}', '-12345678901234567891'],
    ['{"order":"9007199254740993"}', undefined],
    ['{"n":9007199254740992}', undefined],
    ['{"n":1e300}', undefined],
    ['{"n":1234567890123456.5}', undefined],
  ])('%s: the number that cannot be kept is %s', (text, number) => {
    expect(inexactNumber(text)).toBe(number);
    const checked = checkCall(call('look', text), bundleOf());
    expect(checked.ok).toBe(number === undefined);
    if (number && !checked.ok) expect(checked.message).toContain(number);
    const before = { ...bundleOf(), behaviour: 2 };
    expect(checkCall(call('look', text), before).ok).toBe(true);
  });

  test.each(['2eb8aa08-aa98-11ea-f4aa-73b441d16380', '00000000-0000-0000-0000-000000000001'])(
    '%s is a uuid',
    (id) => {
      const input = { type: 'object', properties: { id: { type: 'string', format: 'uuid' } } };
      const bundle = bundleOf();
      const tools = { ...bundle.tools, look: { ...bundle.tools.look!, input } };
      expect(checkCall(call('look', { id }), { ...bundle, tools }).ok).toBe(true);
      expect(checkCall(call('look', { id: 'no' }), { ...bundle, tools }).ok).toBe(false);
      expect(checkCall(call('look', { id }), { ...bundle, tools, behaviour: 2 }).ok).toBe(false);
    },
  );
});

test('what a model cannot read of an MCP answer is named, and embedded text is read', () => {
  const content = [
    { type: 'text', text: 'here' },
    { type: 'resource', resource: { uri: 'r://a', text: 'closes at six' } },
    { type: 'resource', resource: { uri: 'r://b', mimeType: 'image/png', blob: 'AAAA' } },
    { type: 'image', data: 'AAAAAAAA', mimeType: 'image/png' },
    { type: 'resource_link', uri: 'r://c', name: 'c' },
    { type: 'resource' },
  ];
  expect(outcomeOfMcp('t', { content })).toMatchObject({
    ok: true,
    value: [
      'here',
      'closes at six',
      { type: 'resource', uri: 'r://b', bytes: 3 },
      { type: 'image', mimeType: 'image/png', bytes: 6 },
      { type: 'resource_link', uri: 'r://c', name: 'c' },
      { type: 'resource' },
    ],
  });
});

describe("a user's machine", () => {
  const at = (machine: AnyStateMachine, behaviour = 3) =>
    new Talk({ bundle: { ...bundleOf(), behaviour }, machine });

  test.each([2, 3])('behaviour %i: a delay that was cancelled', (behaviour) => {
    const machine = setup({}).createMachine({
      initial: 'a',
      entry: raise({ type: 'late' }, { delay: 60_000, id: 'late' }),
      states: { a: { after: { 10: { target: 'b', actions: cancel('late') } } }, b: {} },
    }) as unknown as AnyStateMachine;
    const talk = at(machine, behaviour);
    talk.say(task('{}'));
    talk.say({ kind: 'wake' }, 20);
    expect(talk.record!.value).toBe('b');
    expect('late' in talk.record!.timers).toBe(behaviour < 3);
  });

  test.each([
    [2, 'refusal', 'answered'],
    [3, 'refusal', 'MODEL_REFUSAL'],
    [3, 'content_filter', 'MODEL_FILTERED'],
    [3, 'length', 'MODEL_CUT'],
    [3, 'stop', 'answered'],
  ])('behaviour %i: an answer that ends with %s is heard as %s', (behaviour, finish, wanted) => {
    const machine = createMachine({
      initial: 'asking',
      states: {
        asking: {
          invoke: {
            src: 'model',
            input: { prompt: 'hello' },
            onDone: 'answered',
            onError: {
              target: 'failed',
              actions: assign({ code: ({ event }) => (event.error as { code?: string }).code }),
            },
          },
        },
        answered: {},
        failed: {},
      },
    }) as unknown as AnyStateMachine;
    const talk = at(machine, behaviour);
    talk.say(task('{}'));
    const effect = Object.keys(talk.record!.pending)[0]!;
    talk.say(replied(effect, { content: 'half', finish }));
    const { value, context } = talk.record!;
    expect(value === 'failed' ? (context as { code: string }).code : value).toBe(wanted);
  });

  test('one that never settles fails its session, and one that takes many steps is not', () => {
    const circle = setup({}).createMachine({
      initial: 'a',
      states: { a: { always: 'b' }, b: { always: 'a' } },
    }) as unknown as AnyStateMachine;
    const round = at(circle);
    round.say(task('{}'));
    expect(round.record!.status).toBe('failed');
    const counts = setup({ types: { context: {} as { n: number } } }).createMachine({
      context: { n: 0 },
      initial: 'a',
      states: {
        a: {
          always: [
            { guard: ({ context }) => context.n >= 1_500, target: 'b' },
            { target: 'a', reenter: true, actions: assign({ n: ({ context }) => context.n + 1 }) },
          ],
        },
        b: {},
      },
    }) as unknown as AnyStateMachine;
    const talk = at(counts);
    talk.say(task('{}'));
    expect(talk.record!.value).toBe('b');
  });
});
