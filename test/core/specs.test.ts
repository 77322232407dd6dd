import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { actorFrom, settingsFrom } from '../../services/adapters/files/environment.ts';
import { loadSpecs, specsOf } from '../../services/adapters/files/spec-files.ts';
import { parseSpecs } from '../../services/adapters/files/spec-parser.ts';
import type { AgentName } from '../../services/core/ids.ts';
import { limits } from '../../services/core/limits.ts';
import { catalogOf, revisionOf, type SpecDocument } from '../../services/core/session/specs.ts';
import type { SpecText } from '../../services/ports/specs.ts';
import { addressOf } from '../../services/runtime/intake.ts';
import { withLastGood } from '../../services/runtime/last-good.ts';
import { eventually } from '../support/eventually.ts';

const desk = join(import.meta.dirname, '../../examples/refund-desk/agents');
const parse = (yaml: string) => parseSpecs(yaml, 'a.yaml');
const documents = (yaml: string) =>
  parse(yaml).map(({ document }) => ({ document: document as SpecDocument, file: 'a.yaml' }));

const whole = `
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: clerk }
spec: { model: m }
---
apiVersion: understudy.dev/v1
kind: Model
metadata: { name: m }
spec: { model: x, price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 2 } }
---
apiVersion: understudy.dev/v1
kind: Tenant
metadata: { name: acme }
spec: { agents: [clerk] }
`;

describe('specs', () => {
  test('the refund desk loads without a problem', async () => {
    const { catalog, problems } = await loadSpecs(desk);
    expect(problems).toEqual([]);
    expect([...catalog.agents.keys()]).toEqual(['fraud-check', 'refund-desk']);
  });

  test('temperature is 0 unless an agent says otherwise', () => {
    expect(
      catalogOf(documents(whole)).catalog.agents.get('clerk' as AgentName)!.bundle.agent
        .temperature,
    ).toBe(0);
  });

  test('a wrong field is named with its file and line', () => {
    const [wrong] = parse(
      'apiVersion: understudy.dev/v1\nkind: Agent\nmetadata: { name: clerk }\nspec:\n  model: m\n  limits:\n    stepsMax: many\n',
    );
    expect(wrong).toMatchObject({
      document: undefined,
      problems: [{ file: 'a.yaml:7', field: 'spec.limits.stepsMax' }],
    });
  });

  test('a field that does not exist is refused, not ignored', () => {
    expect(
      parse(
        'apiVersion: understudy.dev/v1\nkind: Tenant\nmetadata: { name: acme }\nspec: { agent: [x] }\n',
      )[0],
    ).toMatchObject({
      document: undefined,
      problems: [{ message: expect.stringContaining('agent') }],
    });
  });

  test('broken YAML names the line, and the other documents stand', () => {
    const parsed = parse(`a: [1\n---\n${whole}`);
    expect(parsed[0]).toMatchObject({
      document: undefined,
      problems: [{ file: expect.stringMatching(/^a\.yaml:\d+$/) }],
    });
    expect(parsed.filter(({ document }) => document)).toHaveLength(3);
  });

  test('an agent that names what is not there is left out and reported; the others stand', () => {
    const { catalog, problems } = catalogOf(
      documents(
        `${whole}---\napiVersion: understudy.dev/v1\nkind: Agent\nmetadata: { name: lost }\nspec: { model: none, tools: [hammer], agents: [ghost] }\n`,
      ),
    );
    expect([...catalog.agents.keys()]).toEqual(['clerk']);
    expect(problems.map(({ message }) => message)).toEqual([
      'Agent lost names the tool hammer, and there is no such Tool',
      'Agent lost needs the model none, and there is no such Model',
      'there is no Agent ghost',
    ]);
  });

  test('what is there and broken is not missing, and each problem names its line', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'specs-'));
    writeFileSync(
      join(folder, 'all.yaml'),
      `apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: a }
spec: { instructions: i, model: m, tools: [pay, hammer] }
---
apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: pay }
spec: { description: pays, run: { kind: http, url: nowhere } }
---
apiVersion: understudy.dev/v1
kind: Model
metadata: { name: m }
spec: { modle: x }
`,
    );
    const { problems } = await loadSpecs(folder);
    expect(problems.map(({ file, message }) => [file, message])).toEqual(
      expect.arrayContaining([
        ['all.yaml:4', 'Agent a names the tool pay, and its document is refused'],
        ['all.yaml:4', 'Agent a names the tool hammer, and there is no such Tool'],
        ['all.yaml:4', 'Agent a needs the model m, and its document is refused'],
      ]),
    );
    expect(problems.every(({ file }) => /:\d+$/.test(file))).toBe(true);
    rmSync(folder, { recursive: true });
  });

  test('agents that delegate in a circle are refused', () => {
    const circle = `${whole}---\napiVersion: understudy.dev/v1\nkind: Agent\nmetadata: { name: a }\nspec: { model: m, agents: [b] }\n---\napiVersion: understudy.dev/v1\nkind: Agent\nmetadata: { name: b }\nspec: { model: m, agents: [a] }\n`;
    expect(
      catalogOf(documents(circle))
        .problems.map(({ message }) => message)
        .join(),
    ).toContain('circle');
  });

  test('the revision is the content: equal specs agree, a changed word does not', () => {
    const bundle = catalogOf(documents(whole)).catalog.agents.get('clerk' as AgentName)!.bundle;
    expect(revisionOf(JSON.parse(JSON.stringify(bundle)))).toBe(revisionOf(bundle));
    expect(revisionOf({ ...bundle, agent: { ...bundle.agent, instructions: 'other' } })).not.toBe(
      revisionOf(bundle),
    );
  });
});

const nested = (levels: number): string => '['.repeat(levels) + ']'.repeat(levels);

describe('the front door', () => {
  const { catalog } = catalogOf(documents(whole));
  const task = (more: object = {}) => ({
    tenant: 'acme',
    agent: 'clerk',
    subject: 's',
    body: '{"input":"x"}',
    headers: {},
    sequence: 7,
    sequenceId: 'task-7',
    ...more,
  });

  test.each<[string, object, string]>([
    ['not JSON', { body: '{' }, 'TASK_NOT_JSON'],
    ['nested deeper than a stack', { body: nested(5_000) }, 'TASK_INVALID'],
    [
      'an input nested deeper than a stack',
      { body: `{"input":{"tree":${nested(5_000)}}}` },
      'TASK_INVALID',
    ],
    ['nested deeper than is allowed', { body: nested(limits.nestingMax + 1) }, 'TASK_INVALID'],
    ['a field beside its input', { body: '{"input":"x","limit":{}}' }, 'TASK_INVALID'],
    ...['"abc"', '"2"', '-5', '1.5', '0'].map(
      (value) =>
        [
          `a limit of ${value}`,
          { body: `{"input":"x","limits":{"stepsMax":${value}}}` },
          'TASK_INVALID',
        ] satisfies [string, object, string],
    ),
    [
      'a limit that there is none of',
      { body: '{"input":"x","limits":{"stepMax":3}}' },
      'TASK_INVALID',
    ],
    ['limits that are none', { body: '{"input":"x","limits":5}' }, 'TASK_INVALID'],
    [
      'headers that could not be read',
      { headersProblem: "' ' is not a valid character" },
      'TASK_HEADERS_INVALID',
    ],
    ['too large', { body: JSON.stringify('x'.repeat(262_144)) }, 'TASK_TOO_LARGE'],
    ['an unknown agent', { agent: 'nobody' }, 'AGENT_UNKNOWN'],
    ['an unknown tenant', { tenant: 'nobody' }, 'TENANT_UNKNOWN'],
    ['a subject with too many tokens', { agent: 'clerk.extra' }, 'AGENT_INVALID'],
    ['a task id beyond reason', { headers: { 'Nats-Msg-Id': 'x'.repeat(300) } }, 'TASK_ID_INVALID'],
  ])('%s is refused by name', (_name, more, code) => {
    expect(() => addressOf(task(more), catalog)).toThrow(expect.objectContaining({ code }));
  });

  test('what is nested as deep as is allowed is taken, and brackets in a text are none', () => {
    for (const body of [
      nested(limits.nestingMax),
      JSON.stringify({ input: `\\"${'['.repeat(5_000)}` }),
    ])
      expect(() => addressOf(task({ body }), catalog)).not.toThrow();
  });

  test('the session derives from the task id, and without one from the place in the stream', () => {
    const first = addressOf(task({ headers: { 'Nats-Msg-Id': 'A' } }), catalog);
    expect(
      addressOf(task({ headers: { 'Nats-Msg-Id': 'A' }, sequenceId: 'task-9' }), catalog).session,
    ).toBe(first.session);
    expect(addressOf(task(), catalog).message.task).toBe('task-7');
  });

  test('a session key addresses the same session for different tasks', () => {
    const one = addressOf(
      task({ headers: { 'Understudy-Session': 'k', 'Nats-Msg-Id': '1' } }),
      catalog,
    );
    const two = addressOf(
      task({ headers: { 'Understudy-Session': 'k', 'Nats-Msg-Id': '2' } }),
      catalog,
    );
    expect([one.session === two.session, one.message.isKeyed]).toEqual([true, true]);
  });

  test.each([
    ['"a text"', 'a text'],
    ['7', '7'],
    ['{"order":1,"limits":{"stepsMax":"abc"}}', '{"order":1,"limits":{"stepsMax":"abc"}}'],
    ['{"input":5}', '5'],
    ['{"input":[1,{"a":null}],"limits":{}}', '[1,{"a":null}]'],
  ])('%s is a task with the input %s', (body, input) => {
    expect(addressOf(task({ body }), catalog).message.input).toBe(input);
  });

  test('a task may ask for less than its agent allows, never for more', () => {
    const { message } = addressOf(
      task({
        body: JSON.stringify({ input: 'x', limits: { stepsMax: 3, tokensMax: 99_000_000 } }),
      }),
      catalog,
    );
    expect(message.limits).toEqual({ stepsMax: 3, tokensMax: 500_000 });
  });

  test('a traceparent goes along, anything else under that name does not', () => {
    const good = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    expect(addressOf(task({ headers: { traceparent: good } }), catalog).message.traceparent).toBe(
      good,
    );
    expect(
      addressOf(task({ headers: { traceparent: 'x; drop' } }), catalog).message.traceparent,
    ).toBeUndefined();
  });
});

test('a wrong environment variable is named', () => {
  expect(() => settingsFrom({ UNDERSTUDY_SHARDS: 'many' })).toThrow(/UNDERSTUDY_SHARDS/);
  expect(settingsFrom({ UNDERSTUDY_SHARDS: '' }).shards).toBe(16);
});

describe('specs that change', () => {
  const agent = (name: string, extra = '') =>
    `apiVersion: understudy.dev/v1\nkind: Agent\nmetadata: { name: ${name} }\nspec: { instructions: i, model: m${extra} }\n`;
  const model =
    'apiVersion: understudy.dev/v1\nkind: Model\nmetadata: { name: m }\nspec: { model: x, price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 } }\n';
  function source(texts: Record<string, string>) {
    const told: { name: string; messages: string[] }[] = [];
    return {
      texts,
      told,
      read: async () => new Map(Object.entries(texts)),
      follow: () => ({ stop: () => undefined }),
      refuse: async (name: string, problems: readonly { message: string }[]) =>
        void told.push({ name, messages: problems.map(({ message }) => message) }),
    };
  }

  test('what is broken stays what it was, is told to whoever wrote it, once, and the others go on', async () => {
    const maps = source({ 'a.yaml': agent('a'), 'm.yaml': model });
    const specs = specsOf([maps], ['.']);
    const first = (await specs.load()).catalog.agents.get('a' as never)?.revision;
    expect(first).toBeDefined();
    maps.texts['a.yaml'] = agent('a', ', modle: y');
    maps.texts['b.yaml'] = agent('b');
    const broken = await specs.load();
    expect(broken.catalog.agents.get('a' as never)?.revision).toBe(first);
    expect([...broken.catalog.agents.keys()].sort()).toEqual(['a', 'b']);
    expect(broken.problems).toMatchObject([{ file: 'a.yaml:4', field: 'spec' }]);
    await specs.load();
    expect(maps.told.map(({ name }) => name)).toEqual(['a.yaml']);
    maps.texts['a.yaml'] = agent('a', ', temperature: 1');
    const mended = await specs.load();
    expect(mended.problems).toEqual([]);
    expect(mended.catalog.agents.get('a' as never)?.revision).not.toBe(first);
  });

  test('a text that cannot be read is refused, and one that was read stays what it was', async () => {
    const texts: Record<string, SpecText> = { 'a.yaml': agent('a'), 'm.yaml': model };
    const specs = specsOf(
      [
        {
          read: async () => new Map(Object.entries(texts)),
          follow: () => ({ stop: () => undefined }),
        },
      ],
      ['.'],
    );
    await specs.load();
    texts['a.yaml'] = { unreadable: 'it cannot be read (EACCES)' };
    texts['b.yaml'] = { unreadable: 'it cannot be read (ENOENT)' };
    const { catalog, problems } = await specs.load();
    expect([...catalog.agents.keys()]).toEqual(['a']);
    expect(problems).toEqual(
      ['a.yaml', 'b.yaml'].map((file) => ({
        file,
        field: '',
        message: expect.stringContaining('cannot be read'),
      })),
    );
  });

  test('an alias without its anchor is refused with its line, and the others go on', async () => {
    const maps = source({
      'a.yaml': agent('a'),
      'm.yaml': model,
      'b.yaml': `# a comment\n${agent('b').replace('instructions: i', 'instructions: *important')}`,
    });
    const { catalog, problems, unsure } = await specsOf([maps], ['.']).load();
    expect([...catalog.agents.keys()]).toEqual(['a']);
    // Whoever starts now does not know b, but that there may be one.
    expect(unsure).toEqual({ names: new Set(['b']), isAny: false });
    expect(problems).toEqual([
      { file: 'b.yaml:2', field: '', message: expect.stringContaining('important') },
    ]);
  });

  test('of a folder what an editor keeps is none, and a link to nowhere is a problem of its own', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'specs-'));
    writeFileSync(join(folder, 'a.yaml'), agent('a'));
    writeFileSync(join(folder, 'm.yaml'), model);
    symlinkSync('somebody@host.1234', join(folder, '.#a.yaml'));
    writeFileSync(join(folder, '.draft.yaml'), agent('draft'));
    symlinkSync('nowhere', join(folder, 'gone.yaml'));
    const { catalog, problems, unsure } = await loadSpecs(folder);
    expect([...catalog.agents.keys()]).toEqual(['a']);
    expect(unsure?.isAny).toBe(true);
    expect(problems).toEqual([
      { file: 'gone.yaml', field: '', message: 'it cannot be read (ENOENT)' },
    ]);
    rmSync(folder, { recursive: true });
  });

  test('a change that cannot be taken up is told of once and tried again, and nothing is tried after the stop', async () => {
    const maps = source({ 'a.yaml': agent('a'), 'm.yaml': model });
    const troubles: string[] = [];
    let tries = 0;
    const following = specsOf([maps], ['.']).follow(
      async () => {
        tries += 1;
        throw new Error('the archive is away');
      },
      (cause) => troubles.push(cause),
    );
    await eventually(() => tries > 1, 'another try');
    following.stop();
    await new Promise((resolve) => setTimeout(resolve, 700));
    const after = tries;
    await new Promise((resolve) => setTimeout(resolve, 1_200));
    expect([troubles, tries]).toEqual([['the archive is away'], after]);
  });

  test('what is taken away is gone, and a document that never was good is only refused', async () => {
    const maps = source({
      'a.yaml': agent('a'),
      'm.yaml': model,
      'c.yaml': agent('c', ', tools: [none]'),
    });
    const specs = specsOf([maps], ['.']);
    expect([...(await specs.load()).catalog.agents.keys()]).toEqual(['a']);
    delete maps.texts['a.yaml'];
    expect([...(await specs.load()).catalog.agents.keys()]).toEqual([]);
  });
});

describe('a name that is defined twice', () => {
  const envelope = (kind: string, name: string, spec: string) =>
    `apiVersion: understudy.dev/v1\nkind: ${kind}\nmetadata: { name: ${name} }\nspec: { ${spec} }\n`;
  const agent = (name: string, more = '') =>
    envelope('Agent', name, `instructions: i, model: m${more}`);
  const price = 'price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 }';
  const model = envelope('Model', 'm', `model: x, ${price}`);
  const start = (texts: Record<string, string>) => {
    const specs = specsOf(
      [
        {
          read: async () => new Map(Object.entries(texts).sort()),
          follow: () => ({ stop: () => undefined }),
        },
      ],
      ['.'],
    );
    const look = async () => {
      const loaded = await specs.load();
      const found = loaded.catalog.agents.get('a' as AgentName);
      return {
        ...loaded,
        temperature: found?.bundle.agent.temperature,
        told: loaded.problems.map(({ file, message }) => `${file} ${message}`),
      };
    };
    return { texts, look };
  };
  const stays = (file: string, place: string) =>
    `${file} Agent a is defined twice: it stays as in ${place}`;

  test('keeps the definition that ran, and the new file is reported, whatever it is called', async () => {
    const { texts, look } = start({ 'f.yaml': agent('a'), 'm.yaml': model });
    await look();
    texts['b.yaml'] = `${agent('a', ', temperature: 1')}---\n${agent('other')}`;
    texts['z.yaml'] = agent('a', ', temperature: 2');
    for (let times = 0; times < 2; times += 1) {
      const { temperature, told, catalog } = await look();
      expect(temperature).toBe(0);
      expect(told).toEqual([stays('b.yaml:3', 'f.yaml:3'), stays('z.yaml:3', 'f.yaml:3')]);
      expect([...catalog.agents.keys()].sort()).toEqual(['a', 'other']);
    }
  });

  test('goes on changing in the file that it came from', async () => {
    const { texts, look } = start({ 'f.yaml': agent('a'), 'm.yaml': model });
    await look();
    texts['b.yaml'] = agent('a', ', temperature: 1');
    await look();
    texts['f.yaml'] = agent('a', ', temperature: 2');
    expect(await look()).toMatchObject({ temperature: 2, told: [stays('b.yaml:3', 'f.yaml:3')] });
  });

  test('stays what it was while the document that it came from is broken', async () => {
    const broken = [agent('a', ', modle: y'), `${agent('a')}: [`];
    for (const text of broken) {
      const { texts, look } = start({ 'f.yaml': agent('a'), 'm.yaml': model });
      await look();
      texts['f.yaml'] = text;
      texts['b.yaml'] = agent('a', ', temperature: 1');
      const { temperature, told } = await look();
      expect(temperature).toBe(0);
      expect(told).toHaveLength(2);
      expect(told.map((one) => one.slice(0, 6)).sort()).toEqual(['b.yaml', 'f.yaml']);
    }
  });

  test('moves to another file when the first has it no more', async () => {
    const { texts, look } = start({ 'f.yaml': agent('a'), 'm.yaml': model });
    await look();
    texts['b.yaml'] = agent('a', ', temperature: 1');
    await look();
    delete texts['f.yaml'];
    expect(await look()).toMatchObject({ temperature: 1, told: [] });
    texts['f.yaml'] = agent('a');
    expect(await look()).toMatchObject({ temperature: 1, told: [stays('f.yaml:3', 'b.yaml:3')] });
  });

  test('is not added to a file that was good: all of that file stays what it was', async () => {
    const { texts, look } = start({ 'f.yaml': agent('a'), 'b.yaml': agent('b'), 'm.yaml': model });
    await look();
    texts['b.yaml'] = `${agent('b', ', temperature: 1')}---\n${agent('a', ', temperature: 1')}`;
    const { temperature, catalog, told } = await look();
    expect(temperature).toBe(0);
    expect(catalog.agents.get('b' as AgentName)?.bundle.agent.temperature).toBe(0);
    expect(told).toEqual([stays('b.yaml:8', 'f.yaml:3')]);
  });

  test('is not taken at a start, each place is reported, and the agent runs as it last ran', async () => {
    const ran = (await start({ 'f.yaml': agent('a'), 'm.yaml': model }).look()).catalog.agents.get(
      'a' as AgentName,
    )!;
    const loaded = await start({
      'b.yaml': agent('a', ', temperature: 1'),
      'f.yaml': agent('a'),
      'm.yaml': model,
    }).look();
    expect(loaded.catalog.agents.size).toBe(0);
    expect(loaded.told).toEqual([
      'b.yaml:3 Agent a is defined twice, also in f.yaml:3: none of them is taken',
      'f.yaml:3 Agent a is defined twice, also in b.yaml:3: none of them is taken',
    ]);
    const known = await withLastGood(loaded, {
      lastBundles: async () => new Map([['a' as AgentName, ran]]),
    });
    expect(known.catalog.agents.get('a' as AgentName)).toEqual(ran);
    expect(known.lastGood).toEqual(new Set(['a']));
  });

  test('is not taken at a start where its other document is refused', async () => {
    const { catalog, told } = await start({
      'b.yaml': agent('a', ', temperature: 1'),
      'f.yaml': agent('a', ', modle: y'),
      'm.yaml': model,
    }).look();
    expect(catalog.agents.size).toBe(0);
    expect(told).toContain(
      'b.yaml:3 Agent a is defined twice, and its other document is refused: none of them is taken',
    );
  });

  test('is not taken at a start in one file, nor are the agents that need it; a tenant waits', async () => {
    const tenant = envelope('Tenant', 'acme', '');
    const { catalog, told, unsure } = await start({
      'all.yaml': [agent('a'), model, model, tenant].join('---\n'),
      't.yaml': tenant,
    }).look();
    expect([catalog.agents.size, catalog.tenants.size]).toEqual([0, 0]);
    expect(told).toContain('all.yaml:4 Agent a needs the model m, which is defined twice');
    expect(told.filter((one) => one.includes('Model m is defined twice'))).toHaveLength(2);
    expect([...(unsure?.names ?? [])]).toEqual(expect.arrayContaining(['a', 'acme']));
  });
});

test('a console that others can reach wants to know who they are', () => {
  const open = { UNDERSTUDY_CONSOLE_ADDRESS: '0.0.0.0' };
  expect(() => settingsFrom(open)).toThrow(/UNDERSTUDY_CONSOLE_TOKEN/);
  expect(() => settingsFrom({ ...open, UNDERSTUDY_CONSOLE_TOKEN: 'short' })).toThrow(
    /16 characters/,
  );
  expect(
    settingsFrom({ ...open, UNDERSTUDY_CONSOLE_TOKEN: 'sixteen letters!' }).console.token,
  ).toBe('sixteen letters!');
  expect(
    settingsFrom({ ...open, UNDERSTUDY_CONSOLE_USER_HEADER: 'X-User' }).console.userHeader,
  ).toBe('X-User');
  expect(settingsFrom({}).console.address).toBe('127.0.0.1');
});

test('who acts has a name where the user of the machine has none', () => {
  expect(actorFrom({ UNDERSTUDY_ACTOR: 'ada' })).toBe('ada');
  expect(actorFrom({}, () => ({ username: 'grace' }))).toBe('grace');
  const nameless = () => {
    throw new Error('uv_os_get_passwd returned ENOENT');
  };
  expect(actorFrom({}, nameless)).toMatch(/^uid-\d+@/);
});
