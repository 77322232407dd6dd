/** Sign-ins in which several executors, calls and people are at it at once. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { SignIn } from '../../services/adapters/mcp/sign-in.ts';
import { memoryCredentials } from '../../services/adapters/memory/credentials.ts';
import type { Credentials } from '../../services/ports/credentials.ts';

const issuer = 'https://login.example';
const serverUrl = new URL('https://notes.example/mcp');
const metadata = {
  issuer,
  authorization_endpoint: `${issuer}/authorize`,
  token_endpoint: `${issuer}/token`,
  registration_endpoint: `${issuer}/register`,
  response_types_supported: ['code'],
  grant_types_supported: ['authorization_code', 'refresh_token'],
  code_challenge_methods_supported: ['S256'],
  token_endpoint_auth_methods_supported: ['none'],
};

/** Requests for a token, and what is answered. */
let asked: URLSearchParams[];
let answer: (request: URLSearchParams) => Promise<Response> | Response;
let granted: number;
let credentials: Credentials;
const grant = (more: object = {}): Response => {
  granted += 1;
  const tokens = { access_token: `access-${granted}`, refresh_token: `refresh-${granted}` };
  return Response.json({ ...tokens, token_type: 'Bearer', expires_in: 60, ...more });
};
beforeEach(() => {
  [asked, granted, answer, credentials] = [[], 0, () => grant(), memoryCredentials()];
});

/** The server refuses every token; its issuer answers as it is told to. */
async function world(url: string | URL, init?: RequestInit): Promise<Response> {
  const { pathname } = new URL(url);
  if (pathname.includes('oauth-protected-resource'))
    return Response.json({ resource: serverUrl.href, authorization_servers: [issuer] });
  if (pathname.startsWith('/.well-known/')) return Response.json(metadata);
  if (pathname === '/register')
    return Response.json(
      { ...JSON.parse(String(init?.body)), client_id: 'registered' },
      { status: 201 },
    );
  if (pathname === '/mcp')
    return new Response('', { status: 401, headers: { 'www-authenticate': 'Bearer' } });
  const request = new URLSearchParams(String(init?.body));
  asked.push(request);
  return answer(request);
}
const executor = (kept = credentials) =>
  new SignIn({
    oauth: { issuer, login: true, algorithm: 'RS256' },
    serverUrl,
    credentials: kept,
    key: 'k',
    fetch: world,
    expand: (text) => text,
  });
const callback = (url: string, code: string) =>
  `http://127.0.0.1:33418/callback?code=${code}&state=${new URL(url).searchParams.get('state')}`;
const signedIn = async (one: SignIn, code = 'one') => one.finish(callback(await one.begin(), code));
/** A call leaves with the token of now. @returns its refusal */
const refused = async (one: SignIn) => {
  const headers = { authorization: `Bearer ${await one.token()}` };
  return { response: await one.fetch(serverUrl, { headers }) };
};
const kept = async () =>
  (await credentials.read('k'))?.value as {
    tokens?: { access_token: string; refresh_token?: string };
    open?: { url: string; state: string };
  };
const refreshes = () => asked.filter((one) => one.get('grant_type') === 'refresh_token').length;
const held = () => {
  let release: () => void = () => undefined;
  const until = new Promise<void>((resolve) => {
    release = resolve;
  });
  return { until, release };
};
const soon = (ms = 30) => new Promise((resolve) => setTimeout(resolve, ms));
const isRefresh = (request: URLSearchParams) => request.get('grant_type') === 'refresh_token';
const refusal = () => Response.json({ error: 'invalid_grant' }, { status: 400 });

afterEach(() => vi.useRealTimers());

test('a callback is redeemed once, also where two executors hear it', async () => {
  const [one, other] = [executor(), executor()];
  const back = callback(await one.begin(), 'code');
  const ends = await Promise.allSettled([one.finish(back), other.finish(back)]);
  expect(asked.filter((request) => request.get('code') === 'code')).toHaveLength(1);
  expect(ends.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
});

test('two that begin at once are told one page, which can be finished', async () => {
  const urls = await Promise.all([executor().begin(), executor().begin()]);
  expect(urls[0]).toBe(urls[1]);
  expect(new URL(urls[0]!).searchParams.get('state')).toBe((await kept()).open?.state);
  await executor().finish(callback(urls[0]!, 'code'));
  expect((await kept()).tokens?.access_token).toBe('access-1');
});

test('what is stored of a page belongs together, however slow the store is', async () => {
  for (let times = 0; times < 30; times += 1) {
    const store = memoryCredentials();
    const slow: Credentials = {
      read: (key) => soon(Math.random() * 3).then(() => store.read(key)),
      write: (...given) => soon(Math.random() * 3).then(() => store.write(...given)),
    };
    const one = executor(slow);
    await Promise.all([one.begin(), one.begin()]);
    const { open } = (await store.read('k'))!.value as { open: { url: string; state: string } };
    expect(new URL(open.url).searchParams.get('state')).toBe(open.state);
  }
});

test.each([
  ['is refused', refusal],
  ['comes late', () => grant({ access_token: 'of-before', scope: 'less' })],
])(
  'a refresh that %s takes nothing of what a person has signed in for meanwhile',
  async (_how, end) => {
    const [one, other] = [executor(), executor()];
    await signedIn(one);
    const page = await other.begin();
    const { until, release } = held();
    answer = async (request) => {
      if (!isRefresh(request)) return grant({ access_token: 'of-now' });
      await until;
      return end();
    };
    const refreshing = one.onUnauthorized(await refused(one)).catch(() => undefined);
    await soon();
    expect(refreshes()).toBe(1);
    await other.finish(callback(page, 'two'));
    release();
    await refreshing;
    expect((await kept()).tokens?.access_token).toBe('of-now');
  },
);

test('the refusal of a token of before refreshes nothing', async () => {
  const one = executor();
  await signedIn(one);
  const [first, second] = [await refused(one), await refused(one)];
  await one.onUnauthorized(first);
  await one.onUnauthorized(second);
  expect(refreshes()).toBe(1);
  expect((await kept()).tokens?.access_token).toBe('access-2');
});

test('a page that a person opened while a refresh was under way stays theirs', async () => {
  const [one, other] = [executor(), executor()];
  await signedIn(one);
  const { until, release } = held();
  answer = async () => {
    await until;
    return refusal();
  };
  const refreshing = one.onUnauthorized(await refused(one)).catch(() => undefined);
  await soon();
  const page = await other.begin();
  release();
  await refreshing;
  expect(refreshes()).toBe(1);
  answer = () => grant();
  await other.finish(callback(page, 'two'));
  expect((await kept()).tokens?.access_token).toBe('access-2');
});

test('who signs in anew has nothing of who signed in before', async () => {
  const one = executor();
  await signedIn(one, 'ann');
  answer = () => Response.json({ access_token: 'of-bob', token_type: 'Bearer' });
  await signedIn(one, 'bob');
  expect((await kept()).tokens).toMatchObject({ access_token: 'of-bob' });
  expect((await kept()).tokens?.refresh_token).toBeUndefined();
});

test('an ack that is lost does not make a refresher wait for itself', async () => {
  await signedIn(executor());
  let isLost = false;
  const lossy: Credentials = {
    read: (key) => credentials.read(key),
    async write(key, value, version) {
      const counts = await credentials.write(key, value, version);
      if (isLost || !(value as { refreshing?: object }).refreshing) return counts;
      isLost = true;
      return false;
    },
  };
  const one = executor(lossy);
  await one.onUnauthorized(await refused(one));
  expect(isLost).toBe(true);
  expect(refreshes()).toBe(1);
});

test('a call beside a sign-in anew does not take a strange value for none', async () => {
  let stored: { value: unknown; version: number } = { value: undefined, version: 7 };
  const strange: Credentials = {
    read: () => soon(5).then(() => stored),
    async write(_key, value, version) {
      if (version !== stored.version) return false;
      stored = { value, version: version + 1 };
      return true;
    },
  };
  const one = executor(strange);
  const beginning = one.begin();
  await expect(one.token()).rejects.toMatchObject({ code: 'MCP_UNAUTHORIZED' });
  expect(await beginning).toContain('/authorize');
});

test('an issuer that sends no other refresh token means the same one on', async () => {
  const one = executor();
  await signedIn(one);
  answer = () => Response.json({ access_token: 'next', token_type: 'Bearer' });
  await one.onUnauthorized(await refused(one));
  expect((await kept()).tokens).toMatchObject({
    access_token: 'next',
    refresh_token: 'refresh-1',
  });
});

test('a page is good for ten minutes, and then another is opened', async () => {
  const one = executor();
  vi.useFakeTimers({ toFake: ['Date'] });
  const page = await one.begin();
  vi.setSystemTime(Date.now() + 599_000);
  expect(await one.begin()).toBe(page);
  vi.setSystemTime(Date.now() + 2_000);
  await expect(one.finish(callback(page, 'late'))).rejects.toMatchObject({ code: 'SIGN_IN_STALE' });
  expect(asked).toEqual([]);
  expect(await one.begin()).not.toBe(page);
});

test('an issuer that calls itself another than its document says is not asked for a token', async () => {
  const one = new SignIn({
    oauth: { issuer: 'https://other.example', login: true, algorithm: 'RS256' },
    serverUrl,
    credentials,
    key: 'k',
    fetch: world,
    expand: (text) => text,
  });
  await expect(one.begin()).rejects.toMatchObject({ code: 'MCP_UNAUTHORIZED' });
  expect(asked).toEqual([]);
});
