/**
 * The client under test of the official suite: one call of one Tool, as an executor makes it.
 *
 * An operator writes the issuer into the Tool; here it is what the suite's server names.
 */
import { mcpRunner } from '../../services/adapters/mcp/tool.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import type { ToolRunner } from '../../services/ports/performers.ts';

const url = process.argv.at(-1)!;
const { MCP_CONFORMANCE_SCENARIO: scenario = '', MCP_CONFORMANCE_CONTEXT: context = '{}' } =
  process.env;
const given = JSON.parse(context) as Record<string, string | undefined>;

async function oauth(): Promise<object | undefined> {
  if (!scenario.startsWith('auth/')) return undefined;
  const { origin, pathname } = new URL(url);
  const answer = await fetch(`${origin}/.well-known/oauth-protected-resource${pathname}`);
  const { authorization_servers: servers } = (await answer.json()) as Record<string, string[]>;
  return {
    issuer: servers![0],
    clientId: '${env:ID}',
    ...(given.private_key_pem === undefined
      ? { clientSecret: '${env:SECRET}' }
      : { privateKey: '${env:KEY}', algorithm: given.signing_algorithm }),
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
const runner = mcpRunner(environment) as unknown as ToolRunner<never>;
const run = { kind: 'mcp', tool, url, oauth: await oauth() };
const spec = toolSpecSchema.parse({ description: 'x', class: 'pure', timeoutMs: 15_000, run });
const job = { tool, spec, arguments: args, tenant: 't', session: 's', idempotencyKey: 'e1' };
const { signal } = new AbortController();
const outcome = await runner.run(job as never, spec.run as never, signal);
console.log(JSON.stringify(outcome));
await runner.close?.();
process.exit(outcome.ok || scenario === 'initialize' ? 0 : 1);
