/** The console on real processes: what it shows, what it does, whom it lets in; and in a browser, where there is one. */
import { existsSync, readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort } from '../../services/local/processes.ts';
import { eventually } from '../support/eventually.ts';
import { System, script } from '../support/system.ts';

const token = 'a token of the test console';
let system: System;
let base: string;
let cookie = '';
beforeAll(async () => {
  system = await System.start({ shards: 4 });
  const port = await freePort();
  await system.stack.start('console', {
    UNDERSTUDY_CONSOLE_PORT: String(port),
    UNDERSTUDY_CONSOLE_TOKEN: token,
  });
  base = `http://127.0.0.1:${port}`;
  cookie = (await post('/api/login', { token, name: 'ada' })).headers
    .get('set-cookie')!
    .split(';')[0]!;
});
afterAll(() => system.stop());

const json = { 'content-type': 'application/json' };
const post = (path: string, body: object, headers: Record<string, string> = {}) =>
  fetch(`${base}${path}`, {
    method: 'POST',
    headers: { ...json, cookie, ...headers },
    body: JSON.stringify(body),
  });
const get = (path: string) => fetch(`${base}${path}`, { headers: { cookie } });
const read = async <Value>(path: string): Promise<Value> => {
  const response = await get(path);
  expect(response.status, `${path}: ${await response.clone().text()}`).toBe(200);
  return (await response.json()) as Value;
};
const waiting = (task: string) =>
  eventually(async () => {
    const session = await system.sessionOf(task);
    const found = (
      await read<{ id: string; session: string; tool: string; arguments: string; hash: string }[]>(
        '/api/approvals',
      )
    ).find((one) => one.session === session);
    return found;
  }, `the approval of ${task}`);

/** The first events of a session, as the page hears them. */
async function firstEvents(
  session: string,
  count: number,
): Promise<{ id: string; data: { version: number } }[]> {
  const events: { id: string; data: { version: number } }[] = [];
  let rest = '';
  const stream = await get(`/api/sessions/${session}/events`);
  for await (const chunk of stream.body!.pipeThrough(new TextDecoderStream())) {
    rest += chunk;
    const whole = rest.lastIndexOf('\n\n') + 1;
    for (const [, data] of rest.slice(0, whole).matchAll(/^data: (\{.*\})\n/gm))
      events.push(JSON.parse(data!));
    rest = rest.slice(whole);
    if (events.length >= count) break;
  }
  return events;
}

test('nobody reads or does anything without a name; the page and a login are open', async () => {
  for (const path of ['/api/sessions', '/api/health', '/api/approvals', '/api/dead-letters'])
    expect((await fetch(`${base}${path}`)).status, path).toBe(401);
  expect(
    (await fetch(`${base}/api/sessions/x/halt`, { method: 'POST', headers: json, body: '{}' }))
      .status,
  ).toBe(401);
  expect((await fetch(`${base}/sessions/x`)).status).toBe(200);
  expect(await (await post('/api/login', { token: 'wrong', name: 'ada' })).json()).toMatchObject({
    code: 'LOGIN_REFUSED',
  });

  const entered = await post('/api/login', { token, name: 'ada' });
  expect(entered.status).toBe(200);
  const set = entered.headers.get('set-cookie')!;
  expect(set).toMatch(/HttpOnly/i);
  expect(set).toMatch(/SameSite=Strict/i);
  expect(await read('/api/me')).toEqual({ user: 'ada', asksForToken: true });
});

test('a body that is too large is not read, and one that is none says so', async () => {
  expect(
    await (
      await fetch(`${base}/api/login`, { method: 'POST', headers: json, body: '{bad' })
    ).json(),
  ).toMatchObject({ code: 'BODY_NOT_JSON' });
  expect((await get('/sessions/%E0')).status).toBe(200);
  // Refused by its length: the answer comes, or the connection is closed over what is still being sent.
  const large = fetch(`${base}/api/login`, {
    method: 'POST',
    headers: json,
    body: JSON.stringify({ token: 'x'.repeat(1_000_000), name: 'ada' }),
  });
  expect(
    await large.then(
      ({ status }) => status,
      () => 413,
    ),
  ).toBe(413);
});

test('dead letters that are too large for one answer are listed all the same, and the runtime lives', async () => {
  for (let count = 0; count < 8; count += 1)
    await system.publish(`large-${count}`, { text: 'y'.repeat(250_000) }, { agent: 'nobody' });
  await eventually(
    async () =>
      (await read<{ task?: string }[]>('/api/dead-letters')).filter(({ task }) =>
        task?.startsWith('large-'),
      ).length === 8,
    'the letters to be listed',
  );
  expect(system.of('runtime')[0]!.running.isRunning()).toBe(true);
});

test('another page cannot act in the name of who is logged in', async () => {
  await system.publish('foreign', script('guarded'));
  const { session } = await waiting('foreign');
  const foreign: Record<string, string>[] = [
    { 'sec-fetch-site': 'cross-site' },
    { origin: 'http://evil.example' },
    { 'content-type': 'text/plain' },
  ];
  for (const headers of foreign)
    expect(
      (await post(`/api/sessions/${session}/halt`, {}, headers)).status,
      JSON.stringify(headers),
    ).toBe(403);
  const policy = (await fetch(base)).headers.get('content-security-policy')!;
  expect(policy).toContain("default-src 'none'");
  expect(policy).not.toContain('unsafe');
});

test('a session shows what it waits on and every step, and nothing that was said until somebody asks', async () => {
  await system.publish('shown', { ...script('pure', 'guarded'), note: 'SECRET-OF-THE-PROMPT' });
  const { session } = await waiting('shown');
  const text = await (await get(`/api/sessions/${session}`)).text();
  expect(JSON.parse(text)).toMatchObject({
    summary: { status: 'active', waitingOn: expect.stringContaining('guarded') },
    owner: 'runtime-1',
    limits: expect.any(Object),
  });
  expect(text).not.toContain('SECRET-OF-THE-PROMPT');

  const steps = await firstEvents(session, 4);
  expect(steps.map(({ data }) => data.version)).toEqual([1, 2, 3, 4]);
  expect(JSON.stringify(steps)).not.toContain('SECRET-OF-THE-PROMPT');

  expect(JSON.stringify(await read(`/api/sessions/${session}/conversation`))).toContain(
    'SECRET-OF-THE-PROMPT',
  );
  await eventually(
    async () =>
      readFileSync(system.of('console')[0]!.running.logFile, 'utf8').includes(
        'a conversation was shown',
      ),
    'the log to say so',
  );
  expect(await read(`/api/sessions/${session}/verify`)).toMatchObject({ isEqual: true });
});

test('a decision is for what was looked at, and is recorded under the name', async () => {
  await system.publish('decided', script('guarded'));
  const { session, id, hash } = await waiting('decided');
  const path = `/api/sessions/${session}/approvals/${id}`;
  expect((await post(`${path}/approve`, {})).status).toBe(400);
  const changed = await post(`${path}/approve`, { hash: 'f'.repeat(64) });
  expect([changed.status, ((await changed.json()) as { code: string }).code]).toEqual([
    409,
    'APPROVAL_CHANGED',
  ]);
  expect((await post(`${path}/approve`, { hash, reason: 'looks right' })).status).toBe(200);
  expect((await system.endOf('decided')).data).toMatchObject({ to: 'completed' });
  const steps = system.stepsOf(session);
  expect(steps.find(({ data }) => data.details.decision)?.data.details).toMatchObject({
    actor: 'ada',
    decision: 'approve',
  });
  // The answer is for whoever published the task: the page hears that there is one.
  const heard = await firstEvents(session, steps.length + 1);
  expect(heard.at(-1)).toMatchObject({ id: expect.stringContaining('-end') });
  expect(JSON.stringify(heard)).not.toContain('"output"');
});

test('sessions are paused, resumed and halted with a reason; what cannot be done now says why', async () => {
  await system.publish('steered', script('guarded'));
  const { session } = await waiting('steered');
  expect(
    await (await post(`/api/sessions/${session}/pause`, { reason: 'wait' })).json(),
  ).toMatchObject({ status: 'paused' });
  expect(await (await post(`/api/sessions/${session}/pause`, {})).json()).toMatchObject({
    code: 'NOT_NOW',
  });
  expect(await (await post(`/api/sessions/${session}/resume`, {})).json()).toMatchObject({
    status: 'active',
  });
  expect(
    await (await post(`/api/sessions/${session}/halt`, { reason: 'enough of it' })).json(),
  ).toMatchObject({
    status: 'halted',
    reason: expect.stringContaining('enough of it'),
  });
  const listed = await read<{ session: string; status: string }[]>(
    '/api/sessions?ended=true&status=halted&agent=desk',
  );
  expect(listed).toContainEqual(expect.objectContaining({ session, status: 'halted' }));
  expect((await get('/api/sessions/nobody-knows-it')).status).toBe(404);
  expect((await get('/api/sessions?max=many')).status).toBe(400);
  expect(await (await get('/api/nothing')).json()).toMatchObject({ code: 'PATH_UNKNOWN' });
});

test('a dead letter shows its cause, its body to who asks, and goes back edited', async () => {
  await system.publish('lost', script('pure'), { agent: 'nobody' });
  const letter = await eventually(
    async () =>
      (await read<{ id: number; task?: string; code: string }[]>('/api/dead-letters')).find(
        ({ task }) => task === 'lost',
      ),
    'the dead letter',
  );
  expect(letter).toMatchObject({ code: 'AGENT_UNKNOWN' });
  expect(letter).not.toHaveProperty('body');
  expect(await read(`/api/dead-letters/${letter.id}/body`)).toMatchObject({
    body: expect.stringContaining('pure'),
  });
  // To the same agent, which is still none: it comes back as a new letter, with the body that was given.
  expect(
    (await post(`/api/dead-letters/${letter.id}/requeue`, { body: '{"input":"edited"}' })).status,
  ).toBe(200);
  const again = await eventually(
    async () =>
      (await read<{ id: number; task?: string }[]>('/api/dead-letters')).find(({ task }) =>
        task?.startsWith('lost-requeued'),
      ),
    'the new letter',
  );
  expect(await read(`/api/dead-letters/${again.id}/body`)).toEqual({ body: '{"input":"edited"}' });
  expect((await post(`/api/dead-letters/${letter.id}/requeue`, {})).status).toBe(404);
});

const browserPath = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
].find((path) => path && existsSync(path));
describe.skipIf(!browserPath)('in a browser (skipped where no Chromium is installed)', () => {
  test('a person logs in, finds what waits, approves it, and sees it end', {
    timeout: 60_000,
  }, async () => {
    await system.publish('seen', script('guarded'));
    const { session } = await waiting('seen');
    const browser = await chromium.launch({ executablePath: browserPath!, args: ['--no-sandbox'] });
    try {
      const page = await browser.newPage();
      const troubles: string[] = [];
      page.on('pageerror', (error) => troubles.push(error.message));
      page.on('console', (message) => message.type() === 'error' && troubles.push(message.text()));
      await page.goto(`${base}/approvals`);
      await page.getByLabel('your name').fill('grace');
      await page.getByLabel('token').fill(token);
      await page.getByRole('button', { name: 'enter' }).click();
      await page.getByRole('link', { name: session }).click();
      await page.getByRole('img', { name: 'time line of the session' }).waitFor();
      await page.getByRole('button', { name: 'approve' }).click();
      await page.getByLabel('Why? (recorded)').fill('fine');
      await page.getByRole('button', { name: 'approve' }).click();
      await page.locator('h1 .badge.completed').waitFor();
      await page.locator('.steps td', { hasText: 'approve' }).first().waitFor();
      expect(troubles).toEqual([]);
      expect(
        system.stepsOf(session).find(({ data }) => data.details.decision)?.data.details,
      ).toMatchObject({ actor: 'grace' });
    } finally {
      await browser.close();
    }
  });
});
