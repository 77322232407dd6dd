/** The official MCP conformance suite, scenarios of clients: what an executor is passes. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { fromNpm } from '../support/fetched.ts';

const version = '0.1.16';
const file = 'node_modules/@modelcontextprotocol/conformance/dist/index.js';
const from = fromNpm(
  `mcp-conformance/${version}`,
  file,
  `@modelcontextprotocol/conformance@${version}`,
);
const program = 'at' in from ? join(from.at, file) : '';
const why = 'why' in from ? from.why : undefined;

/** Scenarios, and how many checks each makes. */
const passed: readonly (readonly [string, number])[] = [
  ['initialize', 1],
  ['tools_call', 1],
  ['sse-retry', 3],
  ['auth/metadata-default', 15],
  ['auth/metadata-var1', 15],
  ['auth/metadata-var2', 15],
  ['auth/metadata-var3', 15],
  ['auth/basic-cimd', 15],
  ['auth/scope-from-www-authenticate', 16],
  ['auth/scope-from-scopes-supported', 16],
  ['auth/scope-omitted-when-undefined', 16],
  ['auth/scope-step-up', 23],
  ['auth/scope-retry-limit', 17],
  ['auth/token-endpoint-auth-basic', 20],
  ['auth/token-endpoint-auth-post', 20],
  ['auth/token-endpoint-auth-none', 20],
  ['auth/pre-registration', 15],
  ['auth/2025-03-26-oauth-endpoint-fallback', 8],
  ['auth/resource-mismatch', 4],
  ['auth/offline-access-scope', 15],
  ['auth/offline-access-not-supported', 16],
  ['auth/client-credentials-basic', 10],
  ['auth/client-credentials-jwt', 10],
];

/** What an executor is not. */
const others: readonly (readonly [RegExp, string])[] = [
  [/^elicitation-/, 'questions to a person are not offered to servers'],
  [/^auth\/cross-app-access/, 'tokens of another issuer are not exchanged'],
  [/^auth\/2025-03-26-oauth-metadata/, 'its metadata name an issuer that is not where they stand'],
];

const out = mkdtempSync(join(tmpdir(), 'mcp-conformance-'));
afterAll(() => rmSync(out, { recursive: true, force: true }));
const suite = (...args: string[]) =>
  spawnSync(process.execPath, [program, ...args], { encoding: 'utf8', timeout: 120_000 });

describe.skipIf(why !== undefined)(
  `MCP conformance, clients${why ? ` (skipped: ${why})` : ''}`,
  () => {
    test.each(passed)(
      '%s',
      (scenario, checks) => {
        const client = join(import.meta.dirname, '../support/mcp-conformance-client.ts');
        const command = `${process.execPath} ${client}`;
        const { stdout, stderr } = suite(
          'client',
          ...['--command', command, '--scenario', scenario, '--timeout', '60000', '-o', out],
        );
        expect(`${stdout}${stderr}`).toContain(`Passed: ${checks}/${checks}, 0 failed`);
      },
      130_000,
    );

    test('each other scenario is one that no executor meets', () => {
      const { stdout } = suite('list');
      const clients = stdout.slice(stdout.indexOf('\nClient')).matchAll(/^ {2}- (\S+)/gm);
      const names = [...clients].map(([, name]) => name!);
      expect(names.length).toBe(26);
      const known = new Set(passed.map(([name]) => name));
      const unnamed = names.filter(
        (name) => !known.has(name) && !others.some(([form]) => form.test(name)),
      );
      expect(unnamed).toEqual([]);
    });
  },
);
