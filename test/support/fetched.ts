/** Programs of others that a test runs: fetched once, and kept beside the packages. No part of what is installed. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { isUnit } from './unit.ts';

const cache = join(import.meta.dirname, '../../node_modules/.cache');

/** Where it is; or why it cannot be had here. */
export type Fetched = { readonly at: string } | { readonly why: string };

function fetched(name: string, proof: string, ...steps: (readonly string[])[]): Fetched {
  const at = join(cache, name);
  if (existsSync(join(at, proof))) return { at };
  if (isUnit) return { why: 'is fetched from a registry' };
  mkdirSync(at, { recursive: true });
  try {
    for (const [program = '', ...args] of steps)
      execFileSync(program, args, { stdio: 'pipe', timeout: 120_000, cwd: at });
  } catch (error) {
    const said = String((error as { stderr?: Buffer }).stderr ?? error);
    return { why: `no registry has it here: ${said.slice(-300)}` };
  }
  return existsSync(join(at, proof)) ? { at } : { why: `${proof} was fetched, and is not there` };
}

/** @param proof  a file that is there when all is */
export const fromNpm = (name: string, proof: string, ...packages: string[]): Fetched =>
  fetched(name, proof, [
    'npm',
    'install',
    ...['--prefix', '.', '--no-save', '--no-audit', '--no-fund', '--ignore-scripts'],
    ...['--fetch-retries=1', '--fetch-timeout=20000'],
    ...packages,
  ]);

export const fromPyPi = (name: string, proof: string, ...packages: string[]): Fetched =>
  fetched(
    name,
    proof,
    ['python3', '-m', 'venv', '.'],
    [join('.', 'bin', 'pip'), 'install', '-q', '--retries', '1', '--timeout', '20', ...packages],
  );
