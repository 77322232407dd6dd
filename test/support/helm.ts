/** helm and kubectl, where they are: on PATH, or with the cluster that lies beside this project on some machines. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

const cluster = join(import.meta.dirname, '../../../shared/cluster/cluster');

function environmentOf(): NodeJS.ProcessEnv {
  if (spawnSync('helm', ['version'], { stdio: 'ignore' }).status === 0 || !existsSync(cluster))
    return process.env;
  const environment: NodeJS.ProcessEnv = { ...process.env };
  try {
    // Lines like `export PATH=...`, for a shell to read.
    const text = execFileSync(
      '/bin/sh',
      ['-c', `eval "$(${cluster} env 2>/dev/null)"; printf '%s\\n%s' "$PATH" "$KUBECONFIG"`],
      { encoding: 'utf8' },
    );
    const [path, kubeconfig] = text.split('\n');
    if (path) environment.PATH = path;
    if (kubeconfig) environment.KUBECONFIG = kubeconfig;
  } catch {
    // then there is none
  }
  return environment;
}

export const environment = environmentOf();
const answers = (program: string, ...args: string[]) =>
  spawnSync(program, args, { env: environment, stdio: 'ignore', timeout: 10_000 }).status === 0;

export const hasHelm = answers('helm', 'version');
export const hasCluster = hasHelm && answers('kubectl', 'get', '--raw', '/readyz');

/** @returns what it printed, and whether it went well */
export function helm(...args: string[]): { ok: boolean; text: string } {
  const { status, stdout, stderr } = spawnSync('helm', args, {
    env: environment,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  });
  return { ok: status === 0, text: status === 0 ? stdout : stderr };
}
