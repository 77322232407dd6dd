/** People who sign in to MCP servers: what executors keep of it, who refreshes it, and what an attacker can do. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { type McpRunner, mcpRunner } from '../../services/adapters/mcp/tool.ts';
import { memoryCredentials } from '../../services/adapters/memory/credentials.ts';
import { type McpRun, mcpRunSchema } from '../../services/core/tools/mcp-run.ts';
import { type ToolSpec, toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import { sealed } from '../../services/executor/sealed.ts';
import type { Credentials, SealedStore } from '../../services/ports/credentials.ts';
import { SignInWorld } from '../support/sign-in-world.ts';

let world: SignInWorld;
let credentials: Credentials;
let executors: McpRunner[];
beforeEach(async () => {
  world = await new SignInWorld().start();
  credentials = memoryCredentials();
  executors = [1, 2].map(() => mcpRunner({}, { credentials }));
});
afterEach(async () => {
  for (const one of executors) await one.close?.();
  world.stop();
  vi.restoreAllMocks();
});

const run = (more: object = {}): McpRun =>
  mcpRunSchema.parse({
    kind: 'mcp',
    tool: 'note',
    url: `${world.serverUrl}/mcp`,
    oauth: { issuer: world.issuerUrl, login: true, scope: 'read', ...more },
  });
let keys = 0;
async function call(executor: McpRunner, more: { run?: McpRun; args?: object } = {}) {
  const { run: one = run(), args = {} } = more;
  keys += 1;
  const spec: ToolSpec = toolSpecSchema.parse({ description: 'x', timeoutMs: 20_000, run: one });
  const job = {
    tool: 'note',
    spec,
    arguments: { ...args },
    tenant: 't',
    session: 's',
    idempotencyKey: `e${keys}`,
  };
  return executor.run(job, one, new AbortController().signal);
}
const begin = async (executor = executors[0]!) => {
  const begun = await executor.signIn(run(), undefined);
  if (!begun.ok || begun.value.url === null) throw new Error(JSON.stringify(begun));
  return begun.value.url;
};
async function signIn(): Promise<void> {
  const back = await world.browse(await begin());
  expect(await executors[1]!.signIn(run(), back)).toEqual({ ok: true, value: { url: null } });
}
const unauthorized = (why: string | RegExp) => ({
  ok: false,
  failure: {
    class: 'permanent',
    code: 'MCP_UNAUTHORIZED',
    hasBegun: false,
    message: expect.stringMatching(why),
  },
});

describe('signing in', () => {
  test('until somebody has, a call has not begun and says where it is done; then every executor may', async () => {
    for (const executor of executors)
      expect(await call(executor)).toMatchObject(
        unauthorized('a person must sign in: understudy mcp login'),
      );
    await signIn();
    for (const executor of executors) expect(await call(executor)).toMatchObject({ ok: true });
    const asked = world.issued.find(({ path }) => path.startsWith('/authorize'))!;
    const params = new URL(asked.path, 'http://x').searchParams;
    expect(params.get('code_challenge_method')).toBe('S256');
    expect(params.get('redirect_uri')).toBe('http://127.0.0.1:33418/callback');
    expect(params.get('client_id')).toBe('registered');
  });

  test('calls that fail meanwhile do not take the page away from under the person', async () => {
    await call(executors[0]!);
    const url = await begin();
    await Promise.all(executors.flatMap((one) => [call(one), call(one), call(one)]));
    expect(await begin(executors[1])).toBe(url);
    expect(await executors[1]!.signIn(run(), await world.browse(url))).toMatchObject({ ok: true });
  });

  test('a callback counts once, and with its own state only', async () => {
    const back = new URL(await world.browse(await begin()));
    const forged = new URL(back);
    forged.searchParams.set('state', 'x');
    const stale = { ok: false, failure: { code: 'SIGN_IN_STALE' } };
    expect(await executors[0]!.signIn(run(), forged.href)).toMatchObject(stale);
    expect(await executors[0]!.signIn(run(), 'no address')).toMatchObject(stale);
    expect(await executors[0]!.signIn(run(), back.href)).toMatchObject({ ok: true });
    expect(await executors[0]!.signIn(run(), back.href)).toMatchObject(stale);
  });

  test('who says no is told so, and may begin again', async () => {
    const back = new URL(await world.browse(await begin()));
    back.searchParams.delete('code');
    back.searchParams.set('error', 'access_denied');
    expect(await executors[0]!.signIn(run(), back.href)).toMatchObject({
      ok: false,
      failure: { code: 'SIGN_IN_REFUSED', message: expect.stringContaining('access_denied') },
    });
    await signIn();
  });

  test('a server that names another issuer sends nobody there', async () => {
    const other = await new SignInWorld().start();
    world.namedIssuer = other.issuerUrl;
    expect(await executors[0]!.signIn(run(), undefined)).toMatchObject({
      ok: false,
      failure: { code: 'MCP_UNAUTHORIZED' },
    });
    expect(await call(executors[0]!)).toMatchObject({ ok: false });
    expect(other.issued).toEqual([]);
    other.stop();
  });

  test('without a place to keep it nobody signs in, and it is said', async () => {
    const store: SealedStore = { read: async () => undefined, write: async () => true };
    for (const secret of [undefined, 'short']) {
      const keyless = mcpRunner({}, { credentials: sealed(store, 'p', secret) });
      expect(await keyless.signIn(run(), undefined)).toMatchObject({
        ok: false,
        failure: { code: 'CREDENTIAL_KEY_MISSING' },
      });
      expect(await call(keyless)).toMatchObject({ ok: false, failure: { hasBegun: false } });
      await keyless.close?.();
    }
  });
});

describe('tokens that end', () => {
  test('one executor refreshes, and the others use what it got: a refresh token is good once', async () => {
    await signIn();
    for (const executor of executors) await call(executor);
    world.grantsAfterMs = 100;
    for (let round = 1; round <= 3; round += 1) {
      world.expire();
      const outcomes = await Promise.all(
        executors.flatMap((one) => [call(one), call(one), call(one), call(one)]),
      );
      expect(outcomes.filter(({ ok }) => !ok)).toEqual([]);
      expect(world.refreshes).toBe(round);
    }
  });

  test('who died while it refreshed is waited for, and then replaced', async () => {
    await signIn();
    await call(executors[0]!);
    world.expire();
    const [key] = await keysOf();
    const { value, version } = (await credentials.read(key!))!;
    const refreshing = { by: 'gone', until: Date.now() + 700 };
    await credentials.write(key!, { ...(value as object), refreshing }, version);
    const from = Date.now();
    expect(await call(executors[0]!)).toMatchObject({ ok: true });
    expect(Date.now() - from).toBeGreaterThan(500);
    expect(world.refreshes).toBe(1);
  });

  test('an issuer that is away costs nobody a sign-in', async () => {
    vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    await signIn();
    await call(executors[0]!);
    world.expire();
    world.refusal = { status: 503, body: {} };
    expect(await call(executors[0]!)).toMatchObject({
      ok: false,
      failure: { class: 'transient', code: 'MCP_UNAUTHORIZED', hasBegun: false },
    });
    world.refusal = undefined;
    expect(await call(executors[0]!)).toMatchObject({ ok: true });
    expect(await call(executors[1]!)).toMatchObject({ ok: true });
  });

  test('what is no longer good is said, and the next sign-in mends it', async () => {
    vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    await signIn();
    await call(executors[0]!);
    world.forget();
    expect(await call(executors[0]!)).toMatchObject(unauthorized('no longer good.*mcp login'));
    expect(await call(executors[1]!)).toMatchObject(unauthorized('mcp login'));
    await signIn();
    for (const executor of executors) expect(await call(executor)).toMatchObject({ ok: true });
  });

  test('a server that takes no token, however new, has refused the call: it has not begun', async () => {
    await signIn();
    expect(await call(executors[0]!)).toMatchObject({ ok: true });
    world.isShut = true;
    expect(await call(executors[0]!)).toMatchObject({ ok: false, failure: { hasBegun: false } });
    world.isShut = false;
    expect(await call(executors[0]!)).toMatchObject({ ok: true });
  });

  test('a code that is refused costs nobody the tokens there are', async () => {
    vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    await signIn();
    const back = new URL(await world.browse(await begin()));
    back.searchParams.set('code', 'forged');
    expect(await executors[0]!.signIn(run(), back.href)).toMatchObject({ ok: false });
    for (const executor of executors) expect(await call(executor)).toMatchObject({ ok: true });
  });

  test('an executor with another key breaks nothing of what the others have', async () => {
    const kept = new Map<string, { bytes: Uint8Array; version: number }>();
    const store: SealedStore = {
      read: async (key) => kept.get(key),
      async write(key, bytes, version) {
        if ((kept.get(key)?.version ?? 0) !== version) return false;
        return Boolean(kept.set(key, { bytes, version: version + 1 }));
      },
    };
    const of = (letter: string) =>
      mcpRunner({}, { credentials: sealed(store, 'tools', letter.repeat(32)) });
    const [right, wrong] = [of('a'), of('b')];
    executors.push(right, wrong);
    const back = await world.browse(await begin(right));
    expect(await right.signIn(run(), back)).toMatchObject({ ok: true });
    expect(await call(wrong)).toMatchObject(unauthorized('kept under another key'));
    expect(await call(right)).toMatchObject({ ok: true });
    // A person may begin anew all the same.
    const again = await world.browse(await begin(wrong));
    expect(await wrong.signIn(run(), again)).toMatchObject({ ok: true });
    expect(await call(wrong)).toMatchObject({ ok: true });
  });

  test('more than was granted is named, and asked for by the next sign-in', async () => {
    await signIn();
    world.needed = 'write';
    expect(await call(executors[0]!)).toMatchObject(unauthorized('wants write.*sign in again'));
    const url = await begin();
    expect(new URL(url).searchParams.get('scope')?.split(' ').sort()).toEqual(['read', 'write']);
    await executors[0]!.signIn(run(), await world.browse(url));
    expect(await call(executors[0]!)).toMatchObject({ ok: true });
  });

  test('a token that ends while a person is at a wider sign-in does not take their page away', async () => {
    vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    await signIn();
    world.needed = 'write';
    await call(executors[0]!);
    const url = await begin();
    world.expire();
    await call(executors[1]!);
    expect(world.refreshes).toBe(1);
    expect(await begin()).toBe(url);
    world.forget();
    await call(executors[1]!);
    expect(await begin()).toBe(url);
    await executors[0]!.signIn(run(), await world.browse(url));
    expect(await call(executors[1]!)).toMatchObject({ ok: true });
  });

  test('a server that says a token again does not say it to the model', async () => {
    await signIn();
    const told = JSON.stringify(await call(executors[0]!, { args: { odd: true } }));
    expect(told).toContain('bad for Bearer ***');
    expect(told).not.toContain('access-token');
  });
});

async function keysOf(): Promise<string[]> {
  const keysSeen: string[] = [];
  const spying: Credentials = {
    read: (key) => {
      keysSeen.push(key);
      return credentials.read(key);
    },
    write: (...given) => credentials.write(...given),
  };
  const one = mcpRunner({}, { credentials: spying });
  await one.signIn(run(), undefined);
  await one.close?.();
  return keysSeen;
}

describe('what is kept', () => {
  const kept = new Map<string, Uint8Array>();
  const store: SealedStore = {
    read: async (key) => {
      const bytes = kept.get(key);
      return bytes && { bytes, version: 1 };
    },
    write: async (key, bytes) => Boolean(kept.set(key, bytes)),
  };
  const secret = 'k'.repeat(32);
  test('is read by nobody without the key of its pool, and under no other name', async () => {
    const own = sealed(store, 'tools', secret);
    await own.write('a', { tokens: 'access-token-1' }, 0);
    expect(Buffer.from(kept.get('a')!).toString('latin1')).not.toContain('access-token');
    expect((await own.read('a'))?.value).toEqual({ tokens: 'access-token-1' });
    expect((await sealed(store, 'tools', 'x'.repeat(32)).read('a'))?.value).toBeUndefined();
    expect((await sealed(store, 'other', secret).read('a'))?.value).toBeUndefined();
    kept.set('b', kept.get('a')!);
    expect((await own.read('b'))?.value).toBeUndefined();
    const cut = Buffer.from(kept.get('a')!);
    cut[cut.length - 1]! ^= 1;
    kept.set('a', cut);
    expect((await own.read('a'))?.value).toBeUndefined();
    kept.set('a', Buffer.from('short'));
    expect((await own.read('a'))?.value).toBeUndefined();
  });

  test('never twice in the same words', async () => {
    const own = sealed(store, 'tools', secret);
    await own.write('a', { n: 1 }, 0);
    const first = Buffer.from(kept.get('a')!);
    await own.write('a', { n: 1 }, 0);
    expect(first.equals(Buffer.from(kept.get('a')!))).toBe(false);
  });
});
