/** Signing in on real processes: the command, what the broker sees of it, and executors that are killed. */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ServerSummary } from '../../services/core/wire/control-answers.ts';
import { eventually } from '../support/eventually.ts';
import { SignInWorld } from '../support/sign-in-world.ts';
import { System, script } from '../support/system.ts';

const cli = join(import.meta.dirname, '../../services/cli/main.ts');
let system: System;
let world: SignInWorld;
beforeAll(async () => {
  world = await new SignInWorld().start();
  system = await System.start({
    runtimes: 2,
    executors: 2,
    specs: `apiVersion: understudy.dev/v1
kind: McpServer
metadata: { name: notes }
spec:
  url: ${world.serverUrl}/mcp
  oauth: { issuer: "${world.issuerUrl}", login: true, scope: read, redirectUrl: "http://127.0.0.1:0/callback" }
  tools: [{ match: "*", class: keyed }]
---
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: writer }
spec: { instructions: Follow the script., model: scripted, tools: ["notes/*"] }
`,
  });
});
afterAll(async () => {
  await system.stop();
  world.stop();
});

const understudy = (...args: string[]) => {
  const child = spawn(process.execPath, [cli, '-s', system.stack.nats.url, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let out = '';
  let errors = '';
  child.stdout.on('data', (chunk) => {
    out += chunk;
  });
  child.stderr.on('data', (chunk) => {
    errors += chunk;
  });
  return {
    child,
    out: () => out,
    errors: () => errors,
    ended: new Promise<number>((resolve) => child.once('exit', (code) => resolve(code ?? -1))),
  };
};

test('a person signs in with the command, and the agent goes live; its task has waited', async () => {
  await system.publish('note-1', script('notes__note'), { agent: 'writer' });
  await eventually(async () => {
    const [notes] = await system.ask<ServerSummary[]>('servers');
    return notes?.trouble?.includes('understudy mcp login') ?? false;
  }, 'the server to want a sign-in');
  const login = understudy('mcp', 'login', 'notes');
  const url = await eventually(() => /http\S+\/authorize\S+/.exec(login.out())?.[0], 'the page');
  // Nobody listens at port 0: what the browser ends at is pasted.
  login.child.stdin.write(`${await world.browse(url)}\n`);
  expect(await login.ended).toBe(0);
  expect(login.out()).toContain('signed in to notes');
  expect((await system.endOf('note-1')).data.to).toBe('completed');
});

test('who is killed while it refreshes is replaced, and the broker never sees a token', async () => {
  world.expire();
  world.grantsAfterMs = 4_000;
  await system.publish('note-2', script('notes__note'), { agent: 'writer' });
  const before = world.refreshes;
  await eventually(() => world.refreshes > before, 'a refresh');
  // Of the two the one that has the call: what it was granted is lost with it.
  const busy = await eventually(async () => {
    const all = system.of('executor');
    const counts = await Promise.all(
      all.map((one) => system.metric(one, 'understudy_effects_in_flight')),
    );
    return all[counts.findIndex((count) => count > 0)];
  }, 'the executor that has the call');
  system.stack.kill(busy);
  world.grantsAfterMs = 0;
  const { data } = await system.endOf('note-2');
  expect(['completed', 'failed']).toContain(data.to);
  await system.verifyAll(['note-1', 'note-2']);
  const login = understudy('mcp', 'login', 'notes');
  const url = await eventually(() => /http\S+\/authorize\S+/.exec(login.out())?.[0], 'the page');
  login.child.stdin.write(`${await world.browse(url)}\n`);
  expect(await login.ended).toBe(0);
  await system.publish('note-3', script('notes__note'), { agent: 'writer' });
  expect((await system.endOf('note-3')).data.to).toBe('completed');

  const stream = await system.nats.manager.streams.info('CREDENTIALS');
  expect(stream.state.messages).toBe(1);
  const message = await system.nats.manager.streams.getMessage('CREDENTIALS', {
    last_by_subj: 'understudy.credential.tools.*',
  });
  expect(message.subject).toMatch(/^understudy\.credential\.tools\.[0-9a-f]{32}$/);
  const bytes = Buffer.from(message.data).toString('latin1');
  for (const word of ['token', 'access', 'refresh', 'registered', 'http'])
    expect(bytes).not.toContain(word);
}, 120_000);
