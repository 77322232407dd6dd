/**
 * The client under test of the official suite: one call of one Tool, as an executor makes it.
 *
 * An operator writes the issuer into the document; here it is what the suite's server names. Where
 * nobody has signed in, a person does what `understudy mcp login` says, and the call is made again.
 */

import { mcpRunner } from '../../services/adapters/mcp/tool.ts';
import { memoryCredentials } from '../../services/adapters/memory/credentials.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import type { ToolJob } from '../../services/ports/performers.ts';

const url = process.argv.at(-1)!;
const { MCP_CONFORMANCE_SCENARIO: scenario = '', MCP_CONFORMANCE_CONTEXT: context = '{}' } =
  process.env;
const given = JSON.parse(context) as Record<string, string | undefined>;
const { origin, pathname } = new URL(url);
const isForProgram = scenario.startsWith('auth/client-credentials');

/** As the suite's server names it, where it says so. */
async function issuer(): Promise<string> {
  const challenge = await fetch(url, { method: 'POST', body: '{}' });
  const [, named] =
    /resource_metadata="([^"]+)"/.exec(challenge.headers.get('www-authenticate') ?? '') ?? [];
  const known = `${origin}/.well-known/oauth-protected-resource`;
  for (const place of [named, `${known}${pathname}`, known]) {
    if (!place) continue;
    const answer = await fetch(place);
    if (!answer.ok) continue;
    const { authorization_servers: servers } = (await answer.json()) as Record<string, string[]>;
    if (servers?.[0]) return servers[0];
  }
  return origin;
}

async function oauth(): Promise<object | undefined> {
  if (!scenario.startsWith('auth/')) return undefined;
  if (isForProgram)
    return {
      issuer: await issuer(),
      clientId: '${env:ID}',
      ...(given.private_key_pem === undefined
        ? { clientSecret: '${env:SECRET}' }
        : { privateKey: '${env:KEY}', algorithm: given.signing_algorithm }),
    };
  return {
    issuer: await issuer(),
    login: true,
    clientMetadataUrl: 'https://conformance-test.local/client-metadata.json',
    ...(given.client_id === undefined ? {} : { clientId: '${env:ID}' }),
    ...(given.client_secret === undefined ? {} : { clientSecret: '${env:SECRET}' }),
  };
}

const tools: Readonly<Record<string, readonly [string, object]>> = {
  tools_call: ['add_numbers', { a: 5, b: 3 }],
  'sse-retry': ['test_reconnection', {}],
};
const [tool, args] = tools[scenario] ?? ['test-tool', {}];
const environment = {
  ID: given.client_id,
  SECRET: given.client_secret,
  KEY: given.private_key_pem,
};
const runner = mcpRunner(environment, { credentials: memoryCredentials() });
const run = { kind: 'mcp', tool, url, oauth: await oauth() };
const spec = toolSpecSchema.parse({ description: 'x', class: 'pure', timeoutMs: 15_000, run });
if (spec.run.kind !== 'mcp') throw new Error('this Tool is of kind mcp');
const job = { tool, spec, arguments: args, tenant: 't', session: 's', idempotencyKey: 'e1' };
const { signal } = new AbortController();

/** What a person does with the address that they are given. */
async function signIn(mcp: typeof spec.run & { kind: 'mcp' }): Promise<boolean> {
  const begun = await runner.signIn(mcp, undefined);
  console.log('sign in', JSON.stringify(begun));
  if (!begun.ok || begun.value.url === null) return false;
  const answer = await fetch(begun.value.url, { redirect: 'manual' });
  const done = await runner.signIn(mcp, answer.headers.get('location') ?? '');
  console.log('signed in', JSON.stringify(done));
  return done.ok;
}

for (let times = 0; ; times += 1) {
  if (scenario.startsWith('auth/')) {
    const listed = await runner.list(spec.run, signal);
    console.log(JSON.stringify(listed));
  }
  const outcome = await runner.run(job as ToolJob, spec.run, signal);
  console.log(JSON.stringify(outcome));
  const isUnauthorized = !outcome.ok && outcome.failure.code === 'MCP_UNAUTHORIZED';
  if (isUnauthorized && !isForProgram && times < 4 && (await signIn(spec.run))) continue;
  await runner.close?.();
  process.exit(outcome.ok || scenario === 'initialize' ? 0 : 1);
}
