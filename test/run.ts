/** `make test`: types, lint and layout, then all tests; real servers are found or installed first. Ends with one line that counts. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serverPrograms, versionOf } from '../services/local/servers.ts';

const say = (line: string) => process.stdout.write(`${line}\n`);
const run = (command: string, ...args: string[]): boolean =>
  spawnSync(command, args, { stdio: 'inherit' }).status === 0;
const folder = mkdtempSync(join(tmpdir(), 'understudy-results-'));
let passed = 0;
let failed = 0;

function tests(name: string, ...args: string[]): void {
  const results = join(folder, `${name}.json`);
  say(`\n# ${name}`);
  const isGood = run(
    'vitest',
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${results}`,
    ...args,
  );
  try {
    const { numPassedTests, numFailedTests } = JSON.parse(readFileSync(results, 'utf8')) as {
      numPassedTests: number;
      numFailedTests: number;
    };
    passed += numPassedTests;
    failed += numFailedTests;
    if (!isGood && numFailedTests === 0) failed += 1;
  } catch {
    failed += 1;
  }
}

const programs = serverPrograms(say);
say(
  `nats-server ${versionOf(programs.nats)}, redis ${versionOf(programs.redis)}, node ${process.version}`,
);
say('\n# types');
if (!run('tsc', '--noEmit')) failed += 1;
if (!run('tsc', '--noEmit', '-p', 'services/console/page')) failed += 1;
say('\n# lint and layout');
if (!run('biome', 'check', '.')) failed += 1;
tests(
  'unit and contracts',
  'test/core',
  'test/golden',
  'test/contract',
  'test/runtime',
  'test/executor',
  'test/gateway',
  'test/console',
  'test/cli',
  'test/chart',
  'test/chaos',
  'test/bench',
  'test/architecture.test.ts',
  'test/features.test.ts',
  'test/refund-desk.test.ts',
);
tests('real processes', 'test/integration', '--no-file-parallelism');
rmSync(folder, { recursive: true, force: true });
say(`\n${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
