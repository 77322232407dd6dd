/** Files of users' own machines change while sessions run: what is good is taken up, what is broken is not. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createMachine } from 'xstate';
import { esbuildMachines } from '../../services/adapters/esbuild/machines.ts';
import { folderTexts, specsOf } from '../../services/adapters/files/spec-files.ts';
import { WatchedFiles } from '../../services/adapters/files/watched-files.ts';
import type { LoadedSpecs } from '../../services/ports/specs.ts';

const documents = `apiVersion: understudy.dev/v1
kind: Model
metadata: { name: m }
spec: { model: m, price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 } }
---
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: desk }
spec: { instructions: x, model: m, machine: desk.machine.ts }
`;
const machine = `import { createMachine } from 'xstate';
import { waitMs } from './how-long.ts';
export default createMachine({ initial: 'a', states: { a: { after: { [waitMs]: 'b' } }, b: { type: 'final' } } });
`;

let folder: string;
const write = (name: string, text: string) => writeFileSync(join(folder, name), text);
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'machine-files-'));
  symlinkSync(resolve('node_modules'), join(folder, 'node_modules'));
  write('desk.yaml', documents);
  write('desk.machine.ts', machine);
  write('how-long.ts', 'export const waitMs = 1;');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test('a file that a machine imports is its file, and one that breaks takes nothing away', async () => {
  // Which machine it is says its module: none is run here.
  const machines = { ...esbuildMachines(), load: async () => createMachine({}) };
  const specs = specsOf([folderTexts(folder)], [folder], machines);
  const seen: LoadedSpecs[] = [await specs.load()];
  const last = () => seen.at(-1)!;
  const agent = () => last().catalog.agents.get('desk' as never);
  const revision = () => agent()?.revision;
  const following = specs.follow(async (loaded) => void seen.push(loaded));
  const next = (is: () => boolean) =>
    vi.waitFor(() => expect(is()).toBe(true), { timeout: 20_000, interval: 50 });
  try {
    const first = revision();
    expect(first).toBeDefined();
    write('how-long.ts', 'export const waitMs = 2;');
    await next(() => revision() !== first);
    const second = revision();

    write('how-long.ts', 'export const waitMs = ;');
    await next(() => last().problems.length > 0);
    expect(last().problems[0]?.message).toMatch(/how-long\.ts:1/);
    expect(revision()).toBe(second);
    expect(last().lastGood).toContain('desk');

    write('how-long.ts', 'export const waitMs = 1;');
    await next(() => revision() === first);
    expect(last().problems).toEqual([]);

    rmSync(join(folder, 'desk.yaml'));
    await next(() => agent() === undefined);
    write('desk.machine.ts', 'no way');
    write('desk.yaml', documents);
    await next(() => last().problems.length > 0);
    expect(agent()).toBeUndefined();
  } finally {
    following.stop();
  }
}, 60_000);

test('what was written while it was read counts as not read', async () => {
  const file = join(folder, 'how-long.ts');
  const files = new WatchedFiles(10);
  const told = vi.fn();
  await files.watch(new Set([file]), Date.now() - 60_000);
  const following = files.follow(told);
  await vi.waitFor(() => expect(told).toHaveBeenCalledTimes(1), { timeout: 20_000 });
  // Once: a file whose time is that of another clock is not read for ever.
  await files.watch(new Set([file]), Date.now() - 60_000);
  await new Promise((done) => setTimeout(done, 100));
  expect(told).toHaveBeenCalledTimes(1);
  following.stop();
});

test.each([
  'export default { transition() {}, root: {} };',
  "export default { transition() {}, root: { get states() { throw new Error('x'); } } };",
  'export default { transition() {}, get root() { throw null; } };',
])('a module that is no machine is a flaw of its document, and of no other', async (text) => {
  write('desk.machine.ts', text);
  const { catalog, problems } = await specsOf(
    [folderTexts(folder)],
    [folder],
    esbuildMachines(),
  ).load();
  expect(problems.map(({ field }) => field)).toContain('spec.machine');
  expect(catalog.agents.size).toBe(0);
});

test('a module that was too slow once, because the process stood still, is loaded all the same', async () => {
  write(
    'desk.machine.ts',
    `import { createMachine } from 'xstate';
     const all = globalThis as { seenSlow?: { times: number } };
     const seen = (all.seenSlow ??= { times: 0 });
     seen.times += 1;
     while (seen.times === 1);
     export default createMachine({});`,
  );
  const machines = esbuildMachines();
  const { hash, text: code } = await machines.bundle(join(folder, 'desk.machine.ts'));
  expect(await machines.load({ hash, text: code })).toHaveProperty('root');
}, 20_000);

test('the example of docs/machines.md is valid as it stands there', () => {
  const page = readFileSync(resolve('docs/machines.md'), 'utf8');
  const block = (language: string) =>
    new RegExp(`\`\`\`${language}\n(.*?)\`\`\``, 's').exec(page)![1]!;
  rmSync(join(folder, 'desk.yaml'));
  rmSync(join(folder, 'node_modules'));
  write('order.machine.ts', block('ts'));
  write('order.yaml', block('yaml'));
  const { status, stdout, stderr } = spawnSync(resolve('bin/understudy'), ['validate', folder], {
    encoding: 'utf8',
  });
  expect(`${stdout}${stderr}`).toContain('order');
  expect(status).toBe(0);
}, 60_000);

test.each([
  ['runs in circles', 'for (;;) {}', /cannot be loaded: its machine did not come to an end/],
  ['awaits something', 'await 1; export default 1;', /it awaits something/],
  ['throws', "throw new Error('no');", /cannot be loaded: no/],
  ['throws nothing', 'throw null;', /cannot be loaded/],
  [
    'has code where a machine has objects',
    'export default { transition() {}, get root() { for (;;); } };',
    /did not come to an end/,
  ],
  ['exports none', 'export const x = 1;', /exports no XState machine/],
])(
  'a module that %s while it is loaded is refused, and holds up nobody',
  async (_how, text, why) => {
    write('desk.machine.ts', text);
    const machines = esbuildMachines();
    const { hash, text: code } = await machines.bundle(join(folder, 'desk.machine.ts'));
    await expect(machines.load({ hash, text: code })).rejects.toThrow(why);
  },
);
