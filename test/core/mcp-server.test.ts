/** An McpServer as a document: its tools by pattern, what its hints may change, and what is refused. */
import { describe, expect, test } from 'vitest';
import { specsOf } from '../../services/adapters/files/spec-files.ts';
import { parseSpecs } from '../../services/adapters/files/spec-parser.ts';
import { limits } from '../../services/core/limits.ts';
import { bundleSchema, catalogOf, type SpecDocument } from '../../services/core/session/specs.ts';
import {
  changeOf,
  changeText,
  digestOf,
  type Listing,
  listingOf,
} from '../../services/core/tools/mcp-listing.ts';
import {
  fits,
  type McpServerSpec,
  serverHashOf,
  toolsOf,
} from '../../services/core/tools/mcp-server.ts';
import type { KnownListing, Listings } from '../../services/ports/listings.ts';

const objectSchema = { type: 'object', properties: { q: { type: 'string' } } };
const told = (name: string, more: object = {}) => ({
  name,
  description: `does ${name}`,
  inputSchema: objectSchema,
  ...more,
});
const hints = (annotations: object) => ({ annotations });

const base = (server: string, agent = 'tools: ["docs/*"]', more = '') => `
apiVersion: understudy.dev/v1
kind: McpServer
metadata: { name: docs }
spec: { ${server} }
---
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: clerk }
spec: { model: m, ${agent} }
---
apiVersion: understudy.dev/v1
kind: Model
metadata: { name: m }
spec: { model: x, price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 2 } }
${more}`;

function catalog(text: string, listing?: Listing | 'unheard') {
  const parsed = parseSpecs(text, 'a.yaml');
  const documents = parsed.flatMap(({ document }) =>
    document
      ? [
          {
            document: document as SpecDocument,
            file: 'a.yaml',
            ...(document.kind === 'McpServer' ? { listing } : {}),
          },
        ]
      : [],
  );
  const { catalog: made, problems } = catalogOf(documents);
  const agent = [...made.agents.values()][0]?.bundle;
  const wrong = parsed.flatMap((one) => one.problems);
  return { agent, problems: [...wrong, ...problems], servers: made.servers };
}
const messages = (problems: readonly { readonly message: string }[]) =>
  problems.map(({ message }) => message);

const listing = listingOf([
  told('read_file', hints({ readOnlyHint: true })),
  told('write_file', hints({ destructiveHint: true })),
  told('touch', hints({ idempotentHint: true, destructiveHint: false })),
  told('plain'),
]);
const command = 'command: [node, server.mjs]';

describe('patterns', () => {
  test.each([
    ['*', 'anything', true],
    ['read', 'read', true],
    ['read', 'reader', false],
    ['read*', 'read', true],
    ['*_file', 'read_file', true],
    ['re*le', 'read_file', true],
    ['a*a', 'a', false],
    ['a*b*c', 'aXbXc', true],
    ['a*b*c', 'acb', false],
    ['**', '', true],
    ['', '', true],
    ['', 'x', false],
    ['[a-z]*', 'read', false],
    ['.ead', 'read', false],
  ])('%j fits %j: %s', (pattern, name, isFitting) => {
    expect(fits(pattern, name)).toBe(isFitting);
  });

  test('many stars take no longer than their length', () => {
    expect(fits(`${'a*'.repeat(60)}b`, 'a'.repeat(128))).toBe(false);
  });
});

describe('an agent with tools of a server', () => {
  test('gets those that fit, by names that models may call, and the bundle says how each is reached', () => {
    const { agent, problems } = catalog(
      base(`${command}, env: { TOKEN: "\${env:TOKEN}" }, pool: docs`, 'tools: ["docs/*_file"]'),
      listing,
    );
    expect(problems).toEqual([]);
    expect(agent!.agent.tools).toEqual(['docs__read_file', 'docs__write_file']);
    expect(agent!.tools.docs__read_file).toMatchObject({
      description: 'does read_file',
      pool: 'docs',
      input: objectSchema,
      run: { kind: 'mcp', tool: 'read_file', env: { TOKEN: '${env:TOKEN}' } },
    });
    // Whoever reads it later needs no document.
    expect(bundleSchema.safeParse(JSON.parse(JSON.stringify(agent))).success).toBe(true);
  });

  test('a hint makes a tool stricter by itself, and looser only where its document trusts the server', () => {
    const classes = (text: string) => {
      const { agent } = catalog(text, listing);
      return {
        classes: Object.fromEntries(
          Object.entries(agent!.tools).map(([name, { class: one }]) => [name, one]),
        ),
        asks: agent!.agent.approvals.map(({ tool }) => tool),
      };
    };
    expect(classes(base(command))).toEqual({
      classes: {
        docs__plain: 'opaque',
        docs__read_file: 'opaque',
        docs__touch: 'opaque',
        docs__write_file: 'opaque',
      },
      asks: ['docs__write_file'],
    });
    expect(classes(base(`${command}, trustHints: true`))).toEqual({
      classes: {
        docs__plain: 'opaque',
        docs__read_file: 'pure',
        docs__touch: 'keyed',
        docs__write_file: 'opaque',
      },
      asks: ['docs__write_file'],
    });
  });

  test('what the document says by pattern counts over hints, and the first that fits', () => {
    const rules =
      'tools: [{ match: write_*, class: keyed, approval: never }, { match: plain, approval: always, timeoutMs: 5 }, { match: "*", class: pure }, { match: touch, hidden: true }]';
    const { agent } = catalog(base(`${command}, ${rules}`), listing);
    expect(agent!.tools.docs__write_file!.class).toBe('keyed');
    expect(agent!.tools.docs__plain).toMatchObject({ class: 'opaque', timeoutMs: 5 });
    expect(agent!.tools.docs__touch!.class).toBe('pure');
    expect(agent!.agent.approvals).toEqual([
      { tool: 'docs__plain', expiresMs: limits.approvalExpiryMs },
    ]);
  });

  test('hidden tools are no agent’s', () => {
    const rules = 'tools: [{ match: "*_file", hidden: true }]';
    const { agent } = catalog(base(`${command}, ${rules}`), listing);
    expect(Object.keys(agent!.tools)).toEqual(['docs__plain', 'docs__touch']);
    const exact = catalog(base(`${command}, ${rules}`, 'tools: [docs/read_file]'), listing);
    expect(messages(exact.problems)).toEqual([
      'Agent clerk names docs/read_file, and McpServer docs has no such tool; it has plain, touch',
    ]);
  });

  test('the agent says more precisely when a person is asked', () => {
    const { agent } = catalog(
      base(
        command,
        'tools: ["docs/*"], approvals: [{ tool: "docs/*_file", when: { argument: size, above: 9 } }]',
      ),
      listing,
    );
    expect(agent!.agent.approvals.map(({ tool, when }) => [tool, when?.above])).toEqual([
      ['docs__read_file', 9],
      ['docs__write_file', 9],
    ]);
  });

  test('an agent with a machine of its own cannot ask: it is refused, and not silently let through', () => {
    const { agent, problems } = catalog(
      base(command, 'tools: [docs/write_file], machine: x.ts'),
      listing,
    );
    expect(agent).toBeUndefined();
    expect(messages(problems).join()).toContain('approvals are not applied to it');
  });

  test.each([
    ['tools: [docs/none]', 'names docs/none, and McpServer docs has no such tool; it has plain'],
    ['tools: ["docs/x*"]', 'names docs/x*, and McpServer docs has no such tool'],
    ['tools: [other/*]', 'names tools of the McpServer other, and there is no such McpServer'],
    [
      'tools: [docs/plain], approvals: [{ tool: docs/touch }]',
      'wants approvals for docs/touch, which is not among its tools',
    ],
  ])('%s is refused by name', (agentText, why) => {
    const { agent, problems } = catalog(base(command, agentText), listing);
    expect(agent).toBeUndefined();
    expect(messages(problems).join()).toContain(why);
  });

  test('a Tool of the same name is not mistaken for it', () => {
    const tool = `---
apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: docs__plain }
spec: { description: x, run: { kind: builtin, name: x } }
`;
    for (const tools of ['[docs__plain, "docs/*"]', '["docs/*", docs__plain]']) {
      const { agent, problems } = catalog(base(command, `tools: ${tools}`, tool), listing);
      expect(agent).toBeUndefined();
      expect(messages(problems).join()).toContain(
        'has two tools that models would know as docs__plain',
      );
    }
  });

  test('while nobody has said what it can do the agent is not live, and is told why', () => {
    const { agent, problems } = catalog(base(command), 'unheard');
    expect(agent).toBeUndefined();
    expect(messages(problems)).toEqual([
      'Agent clerk names tools of the McpServer docs, which are not known yet',
    ]);
  });

  test('where nobody is asked, nothing is said', () => {
    const { problems } = catalog(base(command, 'tools: [docs/x], approvals: [{ tool: docs/x }]'));
    expect(problems).toEqual([]);
  });

  test('more tools than a bundle can carry refuse their agent, and no other', () => {
    const large = listingOf(
      Array.from({ length: 300 }, (_, n) =>
        told(`t${n}`, { description: 'x'.repeat(4_000), inputSchema: objectSchema }),
      ),
    );
    const small = `---
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: small }
spec: { model: m, tools: [docs/t1] }
`;
    const { agent, problems } = catalog(base(command, 'tools: ["docs/*"]', small), large);
    expect(agent!.name).toBe('small');
    expect(messages(problems).join()).toMatch(/Agent clerk is too large: \d+ bytes with its 300/);
  });
});

describe('a listing', () => {
  test('a bad schema refuses its tool only, as something to look at', () => {
    const bad = listingOf([
      told('good'),
      told('bad', { inputSchema: { type: 'object', properties: { a: { type: 'text' } } } }),
      told('worse', { inputSchema: { type: 'object', properties: { a: { pattern: '(' } } } }),
    ]);
    const { agent, problems } = catalog(base(command), bad);
    expect(Object.keys(agent!.tools)).toEqual(['docs__good']);
    expect(problems.map(({ message, ...one }) => [message.slice(0, 30), 'isNote' in one])).toEqual([
      ['McpServer docs: its tool bad i', true],
      ['McpServer docs: its tool worse', true],
    ]);
  });

  test('a format that nobody knows says nothing, and costs no tool; one that is known counts', () => {
    const inputSchema = {
      type: 'object',
      properties: {
        icon: { type: 'string', format: 'json' },
        at: { type: 'string', format: 'date' },
        format: { type: 'string', enum: ['a'], default: 'a', examples: [{ format: 'odd' }] },
        list: { type: 'array', items: { type: 'string', format: 'markdown' } },
      },
      anyOf: [{ required: ['at'], properties: { at: { format: 'colour' } } }, {}],
    };
    const { agent, problems } = catalog(base(command), listingOf([told('post', { inputSchema })]));
    expect(problems).toEqual([]);
    const { input } = agent!.tools.docs__post!;
    expect(JSON.stringify(input)).not.toMatch(/json"|markdown|colour/);
    expect(JSON.stringify(input)).toContain('"format":"odd"');
    expect(input.properties).toMatchObject({ at: { format: 'date' }, format: { enum: ['a'] } });
  });

  test('a schema that is too large to be looked at refuses its tool only', () => {
    const wide = Object.fromEntries(
      Array.from({ length: 5_000 }, (_, n) => [`field${n}`, { type: 'string' }]),
    );
    const { agent, problems } = catalog(
      base(command),
      listingOf([told('wide', { inputSchema: { type: 'object', properties: wide } }), told('a')]),
    );
    expect(Object.keys(agent!.tools)).toEqual(['docs__a']);
    expect(messages(problems).join()).toMatch(/wide is left out: input: the schema has \d+ char/);
  });

  test('names of any characters become names that models may call, each for one tool', () => {
    const odd = listingOf([
      told('a.b'),
      told('a b'),
      told('__proto__'),
      told('constructor'),
      told(`${'l'.repeat(120)}1`),
      told(`${'l'.repeat(120)}2`),
      told('größe'),
    ]);
    const spec = parseSpecs(base(command), 'a').find(
      ({ document }) => document?.kind === 'McpServer',
    )!.document!.spec as McpServerSpec;
    const { tools, refused } = toolsOf('docs', spec, odd);
    expect(refused).toEqual([{ tool: 'a.b', why: 'models would know it as docs__a_b, like a b' }]);
    const names = tools.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^[a-zA-Z0-9_-]{1,64}$/);
    const { agent, problems } = catalog(base(command), odd);
    expect(problems.filter((one) => !('isNote' in one))).toEqual([]);
    expect(Object.keys(agent!.tools)).toHaveLength(6);
  });

  test('what a server says is made one value: sorted, once, without what it says by the way', () => {
    const one = listingOf([told('b', { icons: [1], _meta: { at: 1 } }), told('a'), told('a')]);
    expect(one.tools.map(({ name }) => name)).toEqual(['a', 'b']);
    expect(digestOf(one)).toBe(digestOf(listingOf([told('a'), told('b', { _meta: { at: 2 } })])));
  });

  test.each([[null], ['x'], [{}], [{ name: 7 }], [{ name: '' }], [{ name: 'x'.repeat(129) }]])(
    '%j is no tool',
    (odd) => {
      expect(listingOf([odd, told('a')]).tools.map(({ name }) => name)).toEqual(['a']);
    },
  );

  test('a tool that is nested without end is none, however deep, and holds nobody up', () => {
    let deep: object = {};
    for (let n = 0; n < 50_000; n += 1) deep = { items: deep };
    const tools = [told('deep', { inputSchema: deep }), told('a', { annotations: deep })];
    expect(listingOf([...tools, told('b')]).tools.map(({ name }) => name)).toEqual(['b']);
  });

  test('odd descriptions, hints and schemas of a tool cost it no more than these', () => {
    const [tool] = listingOf([
      {
        name: 'a',
        title: 'A title',
        description: 7,
        inputSchema: 'no',
        annotations: { readOnlyHint: 'yes' },
      },
    ]).tools;
    expect(tool).toEqual({
      name: 'a',
      description: 'A title',
      input: { type: 'object' },
      hints: {},
    });
    const [long] = listingOf([told('a', { description: `${'x'.repeat(9_000)}\ud800` })]).tools;
    expect(long!.description).toHaveLength(8_000);
  });

  test('what has changed is told by name', () => {
    const now = listingOf([
      told('plain', { description: 'now deletes everything' }),
      told('touch', hints({ idempotentHint: true, destructiveHint: false })),
      told('new'),
    ]);
    const change = changeOf(listing, now);
    expect(change).toEqual({
      added: ['new'],
      removed: ['read_file', 'write_file'],
      changed: ['plain'],
    });
    expect(changeText(change)).toBe('1 new, 2 gone, 1 changed');
  });
});

describe('a document', () => {
  test.each([
    ['tools: []', 'give either command (stdio) or url'],
    ['command: [x], url: "http://x"', 'give either command (stdio) or url'],
    ['url: "http://x", env: { A: b }', 'env and cwd are of a program'],
    ['url: "http://user:pass@x"', 'names a user or a password'],
    ['url: "http://x", headers: { "a b": c }', 'header'],
    ['command: [x], env: { A: "${env:1}" }', '${env:1}'],
    ['command: [x], pool: models', 'models is the pool of model calls'],
    [
      'command: [x], tools: [{ match: a, class: queryable }]',
      'expected one of "pure"|"keyed"|"opaque"',
    ],
    ['command: [x], nonsense: 1', 'nonsense'],
  ])('{ %s } is refused with the reason', (spec, why) => {
    const { problems } = catalog(base(spec), listing);
    expect(messages(problems).join()).toContain(why);
  });

  test('which server it is hangs on how it is reached, and not on what holds for its tools', () => {
    const hash = (spec: string, name = 'docs') =>
      serverHashOf(
        name,
        parseSpecs(base(spec), 'a').find(({ document }) => document?.kind === 'McpServer')!
          .document!.spec as McpServerSpec,
      );
    expect(hash(`${command}, tools: [{ match: a, class: pure }]`)).toBe(hash(command));
    expect(hash('command: [node, other.mjs]')).not.toBe(hash(command));
    expect(hash(`${command}, env: { A: "\${env:A}" }`)).not.toBe(hash(command));
    expect(hash(`${command}, pool: x`)).not.toBe(hash(command));
    // Another document, with rules of its own, has nothing to say about this one.
    expect(hash(command, 'other')).not.toBe(hash(command));
  });
});

describe('documents that change', () => {
  const texts = (text: () => string) => ({
    read: async () => new Map([['a.yaml', text()]]),
    follow: () => ({ stop() {} }),
  });
  const known = (answers: () => Record<string, KnownListing>): Listings & { kept: string[][] } => ({
    kept: [],
    of: async (_name, { command: [, which = ''] = [] }) =>
      answers()[which] ?? { listing: undefined, trouble: 'its tools are not known yet' },
    keep(hashes) {
      this.kept.push([...hashes]);
    },
    follow: () => ({ stop() {} }),
  });
  const ofServer = (which: string) => base(`command: [node, ${which}]`);

  test('a server that is not known yet takes nothing away: its agents go on with what they had', async () => {
    let text = ofServer('one');
    const answers: Record<string, KnownListing> = { one: { listing, trouble: undefined } };
    const listings = known(() => answers);
    const specs = specsOf([texts(() => text)], ['.'], undefined, listings);
    const revisionNow = async () => {
      const loaded = await specs.load();
      return [[...loaded.catalog.agents.values()][0]?.revision, messages(loaded.problems)] as const;
    };
    const [first, none] = await revisionNow();
    expect(none).toEqual([]);
    text = ofServer('two');
    const [second, why] = await revisionNow();
    expect(second).toBe(first);
    expect(why).toContain('McpServer docs: its tools are not known yet');
    // Both are asked about while one is in force and the other is to come.
    expect(listings.kept.at(-1)).toHaveLength(2);
    answers.two = { listing: listingOf([told('other')]), trouble: undefined };
    const [third, good] = await revisionNow();
    expect(third).not.toBe(first);
    expect(good).toEqual([]);
    expect(listings.kept.at(-1)).toHaveLength(1);
  });

  test('what is worth a look breaks nothing: neither its document nor those beside it', async () => {
    const listings = known(() => ({ one: { listing, trouble: 'its tools have changed' } }));
    const refusals: string[] = [];
    const source = {
      ...texts(() => ofServer('one')),
      refuse: async (name: string) => void refusals.push(name),
    };
    const {
      catalog: made,
      problems,
      unsure,
    } = await specsOf([source], ['.'], undefined, listings).load();
    expect(made.agents.size).toBe(1);
    expect(problems).toMatchObject([{ isNote: true }]);
    expect(unsure!.names.size).toBe(0);
    expect(refusals).toEqual([]);
  });

  test('an agent that waits for its tools may be named by tasks: they wait with it', async () => {
    const { catalog: made, unsure } = await specsOf(
      [texts(() => ofServer('none'))],
      ['.'],
      undefined,
      known(() => ({})),
    ).load();
    expect(made.agents.size).toBe(0);
    expect(unsure!.names).toContain('clerk');
  });
});
