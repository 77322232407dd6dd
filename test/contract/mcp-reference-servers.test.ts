/** The reference servers of the protocol: all their tools are had, with their schemas, and answer. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { parseSpecs } from '../../services/adapters/files/spec-parser.ts';
import { mcpRunner } from '../../services/adapters/mcp/tool.ts';
import { compiledSchema } from '../../services/core/schema/json-schema.ts';
import { type McpServerSpec, runOf, toolsOf } from '../../services/core/tools/mcp-server.ts';
import { type Fetched, fromNpm, fromPyPi } from '../support/fetched.ts';

const folder = mkdtempSync(join(tmpdir(), 'mcp-reference-'));
const runner = mcpRunner({});
afterAll(async () => {
  await runner.close?.();
  rmSync(folder, { recursive: true, force: true });
});
writeFileSync(join(folder, 'a.txt'), 'hello from a file');

const npmVersion = '2026.8.31';
const npmNames = ['everything', 'filesystem', 'memory', 'sequential-thinking'];
const npm = fromNpm(
  `mcp-reference/npm-${npmVersion}`,
  'node_modules/.bin/mcp-server-memory',
  ...npmNames.map((name) => `@modelcontextprotocol/server-${name}@${npmVersion}`),
);
const python = fromPyPi(
  'mcp-reference/python',
  'bin/mcp-server-fetch',
  'mcp-server-git==2026.10.19',
  'mcp-server-time==2026.10.19',
  'mcp-server-fetch==2026.10.24',
);

interface Case {
  readonly name: string;
  readonly from: Fetched;
  readonly bin: string;
  readonly args?: readonly string[];
  /** At the least: a server's next version may have more. */
  readonly tools: number;
  readonly call: readonly [string, object];
  readonly says: RegExp;
  /** What arguments its schema refuses, before anything is sent. */
  readonly wrong: object;
}
const node = (name: string) => `node_modules/.bin/mcp-server-${name}`;
const bin = (name: string) => `bin/mcp-server-${name}`;
const cases: readonly Case[] = [
  {
    name: 'everything',
    from: npm,
    bin: node('everything'),
    tools: 10,
    call: ['echo', { message: 'hi' }],
    says: /Echo: hi/,
    wrong: { message: 7 },
  },
  {
    name: 'filesystem',
    from: npm,
    bin: node('filesystem'),
    args: [folder],
    tools: 10,
    call: ['read_text_file', { path: join(folder, 'a.txt') }],
    says: /hello from a file/,
    wrong: {},
  },
  {
    name: 'memory',
    from: npm,
    bin: node('memory'),
    tools: 9,
    call: [
      'create_entities',
      { entities: [{ name: 'A', entityType: 'thing', observations: ['is one'] }] },
    ],
    says: /thing/,
    wrong: { entities: [{ name: 7 }] },
  },
  {
    name: 'sequential-thinking',
    from: npm,
    bin: node('sequential-thinking'),
    tools: 1,
    call: [
      'sequentialthinking',
      { thought: 'one', nextThoughtNeeded: false, thoughtNumber: 1, totalThoughts: 1 },
    ],
    says: /thoughtNumber/,
    wrong: { thought: 7, nextThoughtNeeded: 'maybe', thoughtNumber: -1, totalThoughts: 1 },
  },
  {
    name: 'git',
    from: python,
    bin: bin('git'),
    tools: 10,
    call: ['git_status', { repo_path: folder }],
    says: /a\.txt/,
    wrong: {},
  },
  {
    name: 'time',
    from: python,
    bin: bin('time'),
    tools: 2,
    call: ['get_current_time', { timezone: 'Europe/Madrid' }],
    says: /Europe\/Madrid/,
    wrong: { timezone: 7 },
  },
  {
    name: 'fetch',
    from: python,
    bin: bin('fetch'),
    tools: 1,
    call: ['fetch', { url: 'http://127.0.0.1:1/' }],
    says: /connect|robots|fetch/i,
    wrong: { url: 7 },
  },
];

/** As an operator writes it. */
function specOf({ from, bin: path, args = [] }: Case): McpServerSpec {
  const command = ['at' in from ? join(from.at, path) : '', ...args];
  const env = { MEMORY_FILE_PATH: join(folder, 'memory.json'), HOME: folder };
  const [parsed] = parseSpecs(
    JSON.stringify({
      apiVersion: 'understudy.dev/v1',
      kind: 'McpServer',
      metadata: { name: 'ref' },
      spec: { command: node24(command), env },
    }),
    'a.yaml',
  );
  if (parsed?.document?.kind !== 'McpServer') throw new Error(JSON.stringify(parsed?.problems));
  return parsed.document.spec;
}
/** Packages of npm begin with `env node`, of whichever version is found: ours is at hand. */
const node24 = (command: readonly string[]) =>
  command[0]?.includes('node_modules/.bin') ? [process.execPath, ...command] : [...command];

describe.each(cases)('$name', (one) => {
  const why = 'why' in one.from ? one.from.why : undefined;
  test.skipIf(why !== undefined)(
    `has all its tools, and one answers${why ? ` (skipped: ${why})` : ''}`,
    async () => {
      if (one.name === 'git') execFileSync('git', ['init', '-q', folder]);
      const spec = specOf(one);
      const run = runOf(spec);
      const listed = await runner.list(run, AbortSignal.timeout(60_000));
      if (!listed.ok) throw new Error(listed.failure.message);
      const { tools, refused } = toolsOf(one.name, spec, listed.value);
      expect(refused).toEqual([]);
      expect(tools.length).toBeGreaterThanOrEqual(one.tools);
      const [name, args] = one.call;
      const tool = tools.find(({ tool: at }) => at === name)!;
      const compiled = compiledSchema(tool.spec.input);
      if (!compiled.ok) throw new Error(compiled.problem);
      expect(compiled.check(args)).toBeUndefined();
      expect(compiled.check(one.wrong)).not.toBeUndefined();
      const job = {
        tool: tool.name,
        spec: tool.spec,
        arguments: { ...args },
        tenant: 't',
        session: 's',
        idempotencyKey: 'k',
      };
      if (tool.spec.run.kind !== 'mcp') throw new Error('of kind mcp');
      const outcome = await runner.run(job, tool.spec.run, AbortSignal.timeout(60_000));
      expect(JSON.stringify(outcome)).toMatch(one.says);
    },
    120_000,
  );
});
