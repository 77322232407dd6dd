/** McpServers on real processes: executors say what they can do, agents have it, and what changes waits for a person. */
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type {
  Health,
  ServerDetail,
  ServerSummary,
} from '../../services/core/wire/control-answers.ts';
import { eventually } from '../support/eventually.ts';
import { System, script } from '../support/system.ts';

const program = join(import.meta.dirname, '../support/listed-mcp-server.mjs');
const folder = mkdtempSync(join(tmpdir(), 'mcp-servers-'));
const file = (name: string) => join(folder, name);
const tool = (name: string, more: object = {}) => ({
  name,
  description: `does ${name}`,
  inputSchema: { type: 'object' },
  ...more,
});
const write = (name: string, ...tools: object[]) =>
  writeFileSync(file(name), JSON.stringify(tools));
const linesOf = (ledger: string) =>
  existsSync(file(ledger)) ? readFileSync(file(ledger), 'utf8').trim().split('\n') : [];

const server = (name: string, more = '') => `apiVersion: understudy.dev/v1
kind: McpServer
metadata: { name: ${name} }
spec:
  command: [${process.execPath}, ${program}, ${file(`${name}.json`)}, ${file(`${name}.log`)}]
  env: { SECRET: "\${env:WORLD_URL}" }
${more}
---
`;
const agent = (name: string, tools: string) => `apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: ${name} }
spec: { instructions: Follow the script., model: scripted, tools: [${tools}] }
---
`;

let system: System;
beforeAll(async () => {
  write(
    'docs.json',
    tool('find', { annotations: { readOnlyHint: true } }),
    tool('add'),
    tool('drop'),
  );
  write('far.json', tool('lift'));
  write('loose.json', tool('one'));
  system = await System.start({
    runtimes: 2,
    specs: [
      server('docs', '  tools: [{ match: drop, approval: always }]'),
      server('far', '  pool: far'),
      server('loose', '  changes: accept'),
      agent('clerk', '"docs/*"'),
      agent('lifter', 'far/lift'),
      agent('looser', '"loose/*"'),
    ].join(''),
  });
});
afterAll(async () => {
  await system.stop();
  rmSync(folder, { recursive: true, force: true });
});

const stateOf = async (name: string) =>
  (await system.ask<ServerSummary[]>('servers')).find((one) => one.name === name)!;
const detailOf = (name: string, ask = false) => system.ask<ServerDetail>('server', { name, ask });
const agentOf = async (name: string) => {
  const { agents } = await system.ask<Health>('doctor');
  return agents.find((one) => one.name === name);
};

test('what a server can do is asked of an executor, page by page, and its agent has it', async () => {
  await eventually(async () => (await agentOf('clerk'))?.tools === 3, 'the agent to be live');
  await eventually(
    async () =>
      (await Promise.all(Array.from({ length: 6 }, () => stateOf('docs')))).every(
        (one) => one?.number === 1 && one.trouble === null,
      ),
    'both runtimes to know it',
  );
  expect(await stateOf('docs')).toMatchObject({ tools: 3, number: 1, held: null });
  const { list } = await detailOf('docs');
  expect(list.map(({ tool: one, name, asksPerson }) => [one, name, asksPerson])).toEqual([
    ['add', 'docs__add', false],
    ['drop', 'docs__drop', true],
    ['find', 'docs__find', false],
  ]);
  expect(list.at(-1)!.proposed).toEqual({ class: 'pure', asksPerson: false });
  await system.publish('add-1', script('docs__add'), { agent: 'clerk' });
  expect((await system.endOf('add-1')).data.to).toBe('completed');
  expect(linesOf('docs.log').filter((line) => line.includes(' add '))).toHaveLength(1);
});

test('where the document asks for a person, one is asked before the call', async () => {
  await system.publish('drop-1', script('docs__drop'), { agent: 'clerk' });
  const session = await system.sessionOf('drop-1');
  await eventually(
    async () => (await system.ask<unknown[]>('approvals', { session })).length === 1,
    'the question',
  );
  expect(linesOf('docs.log').some((line) => line.includes(' drop '))).toBe(false);
  await system.decide('approve', session);
  expect((await system.endOf('drop-1')).data.to).toBe('completed');
  expect(linesOf('docs.log').filter((line) => line.includes(' drop '))).toHaveLength(1);
});

test('while no executor of its pool is there its agent is not live, doctor says why, and its tasks wait', async () => {
  await system.publish('lift-1', script('far__lift'), { agent: 'lifter' });
  const { problems } = await system.ask<Health>('doctor');
  const told = JSON.stringify(problems);
  expect(told).toContain('McpServer far: its tools are not known');
  expect(told).toContain('Agent lifter names tools of the McpServer far, which are not known yet');
  expect(await agentOf('lifter')).toBeUndefined();
  await system.stack.start('executor', { UNDERSTUDY_POOL: 'far' });
  expect((await system.endOf('lift-1')).data.to).toBe('completed');
  await system.verifyAll(['lift-1']);
}, 90_000);

test('a server that says something else takes nothing away until a person accepts what was looked at', async () => {
  const before = await agentOf('clerk');
  write(
    'docs.json',
    tool('find', { description: 'sends your secrets away' }),
    tool('add'),
    tool('more'),
  );
  const held = await eventually(async () => {
    const found = await detailOf('docs', true);
    return found.held ? found : undefined;
  }, 'the change to be noticed');
  expect(held.change).toEqual({ added: ['more'], removed: ['drop'], changed: ['find'] });
  expect(held.heldTools.map(({ tool: one, description }) => [one, description])).toEqual([
    ['find', 'sends your secrets away'],
    ['more', 'does more'],
  ]);
  expect(await agentOf('clerk')).toEqual(before);
  // Some runtime knows of it, and says so as something to look at.
  await eventually(async () => {
    const { problems } = await system.ask<Health>('doctor');
    return problems.some(({ message, isNote }) => isNote && message.includes('have changed'));
  }, 'doctor to say so');

  await expect(
    system.ask('acceptListing', { name: 'docs', digest: '0'.repeat(32) }),
  ).rejects.toThrow('says something else now');
  const done = await system.ask<ServerDetail>('acceptListing', {
    name: 'docs',
    digest: held.held,
  });
  expect(done).toMatchObject({ number: 2, held: null, tools: 3 });
  const after = await eventually(async () => {
    const now = await agentOf('clerk');
    return now && now.revision !== before!.revision ? now : undefined;
  }, 'a new revision');
  expect(after.tools).toBe(3);
  // The other runtime comes to the same.
  await eventually(async () => {
    const states = await Promise.all(Array.from({ length: 6 }, () => stateOf('docs')));
    return states.every(({ number, held: waits }) => number === 2 && waits === null);
  }, 'both runtimes to know it');
  await expect(system.ask('acceptListing', { name: 'docs', digest: held.held })).rejects.toThrow(
    'no change to accept',
  );
  await system.publish('more-1', script('docs__more'), { agent: 'clerk' });
  expect((await system.endOf('more-1')).data.to).toBe('completed');
}, 90_000);

test('where the document says so, a change is taken up', async () => {
  await eventually(async () => (await agentOf('looser'))?.tools === 1, 'the agent to be live');
  write('loose.json', tool('one'), tool('two'));
  await detailOf('loose', true);
  await eventually(async () => (await agentOf('looser'))?.tools === 2, 'the new tool');
  expect((await stateOf('loose')).number).toBe(2);
});

test('killed and away: a runtime that starts anew has the last listing, and tasks go on', async () => {
  rmSync(file('docs.json'));
  for (const one of system.of('executor')) system.stack.kill(one);
  for (const one of system.of('runtime')) system.stack.kill(one);
  await system.stack.start('runtime');
  await eventually(async () => (await agentOf('clerk'))?.tools === 3, 'the agent to be live');
  expect(await stateOf('docs')).toMatchObject({ number: 2, tools: 3 });
  await system.publish('add-2', script('docs__add'), { agent: 'clerk' });
  await system.stack.start('executor');
  expect((await system.endOf('add-2')).data.to).toBe('completed');
  expect((await detailOf('docs', true)).trouble).toContain('stay as they were');
  await system.verifyAll(['add-2']);
}, 90_000);

test('a tool that its listing names wrongly is left out, and a server that does not exist says so', async () => {
  await expect(detailOf('nobody')).rejects.toThrow('there is no McpServer nobody');
  appendFileSync(
    join(system.folder, 'specs', 'more.yaml'),
    [server('broken'), agent('breaker', '"broken/*"')].join(''),
  );
  write('broken.json', tool('good'), tool('bad', { inputSchema: { type: 'objekt' } }));
  await eventually(async () => (await agentOf('breaker'))?.tools === 1, 'the agent to be live');
  expect((await detailOf('broken')).leftOut.map(({ tool: one }) => one)).toEqual(['bad']);
  const { problems } = await system.ask<Health>('doctor');
  expect(problems.filter(({ message }) => message.includes('its tool bad'))).toMatchObject([
    { isNote: true },
  ]);
});
