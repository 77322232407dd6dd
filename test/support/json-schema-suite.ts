/**
 * The official JSON-Schema-Test-Suite, out of the source distribution of PyPI's jsonschema, which
 * carries it whole. It is fetched once, and kept beside the packages.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const version = '4.23.0';
const folder = join(
  import.meta.dirname,
  '../../node_modules/.cache/json-schema-test-suite',
  version,
);

export interface SuiteGroup {
  readonly file: string;
  readonly description: string;
  readonly schema: unknown;
  readonly tests: readonly {
    readonly description: string;
    readonly data: unknown;
    readonly valid: boolean;
  }[];
}

/** @returns why it cannot be had; undefined when it is there */
export function fetchSuite(): string | undefined {
  if (existsSync(join(folder, 'tests'))) return undefined;
  const place = mkdtempSync(join(tmpdir(), 'json-schema-suite-'));
  try {
    const download = [
      '-m',
      'pip',
      'download',
      `jsonschema==${version}`,
      '--no-deps',
      // What builds it may come built: from source it takes minutes.
      '--no-binary',
      'jsonschema',
      '-d',
      place,
    ];
    execFileSync('python3', download, { stdio: 'pipe', timeout: 180_000 });
    mkdirSync(folder, { recursive: true });
    const archive = join(place, `jsonschema-${version}.tar.gz`);
    execFileSync('tar', [
      'xzf',
      archive,
      '-C',
      folder,
      '--strip-components=2',
      `jsonschema-${version}/json/tests`,
    ]);
    return undefined;
  } catch (error) {
    return `pip cannot fetch jsonschema ${version}: ${String((error as { stderr?: Buffer }).stderr ?? error).slice(-300)}`;
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
}

export function suiteOf(draft: string): SuiteGroup[] {
  const from = join(folder, 'tests', draft);
  const files = readdirSync(from, { recursive: true, encoding: 'utf8' });
  return files
    .filter((file) => file.endsWith('.json'))
    .sort()
    .flatMap((file) =>
      (JSON.parse(readFileSync(join(from, file), 'utf8')) as SuiteGroup[]).map((group) => ({
        ...group,
        file,
      })),
    );
}
