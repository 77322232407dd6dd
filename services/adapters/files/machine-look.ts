/** Users' own machines as their documents name them: the module, and why it cannot run durably. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { bounded } from '../../core/bounded.ts';
import { messageOf, Refused, Unavailable } from '../../core/errors.ts';
import {
  unfit,
  unimplemented,
  unknownNames,
  unperformable,
} from '../../core/session/machine-walk.ts';
import type { SourceDocument, SpecDocument } from '../../core/session/specs.ts';
import type { Machines } from '../../ports/machines.ts';

/** A module that a spec names: that of the first folder that has it. */
function moduleIn(directories: readonly string[], module: string): string {
  const paths = directories.map((directory) => resolve(directory, module));
  return paths.find((path) => existsSync(path)) ?? paths[0] ?? resolve(module);
}

/** What a document's machine is: its module, or where no code of users runs, its hash. */
export type Found = Pick<SourceDocument, 'machineHash' | 'module'>;

type AgentDocument = Extract<SpecDocument, { kind: 'Agent' }>['spec'];

const flawsMax = 20; // of one machine, told at once
const walkMs = 500; // over one machine: its objects may have code of users in them

/** A user's own machine as it stands there, and why it cannot run durably. */
export async function lookAtMachine(
  { machine: module = '', tools, agents }: AgentDocument,
  directories: readonly string[],
  machines: Machines | undefined,
): Promise<{
  readonly found: Found;
  readonly flaws: string[];
  readonly files: readonly string[];
}> {
  const path = moduleIn(directories, module);
  let text: Buffer;
  try {
    text = await readFile(path);
  } catch {
    return {
      found: {},
      flaws: [`there is no file ${module} in ${directories.join(', ')}`],
      files: [path],
    };
  }
  if (!machines) {
    const machineHash = createHash('sha256').update(text).digest('hex').slice(0, 16);
    return { found: { machineHash }, flaws: [], files: [path] };
  }
  let files: readonly string[] = [path];
  try {
    const bundled = await machines.bundle(path);
    const { hash, text: code } = bundled;
    files = bundled.files;
    const machine = await machines.load({ hash, text: code });
    // Which tools a server has is known elsewhere: their names have two underscores.
    const hasServers = tools.some((name) => name.includes('/'));
    const has = {
      tool: (name: string) => tools.includes(name) || (hasServers && name.includes('__')),
      agent: (name: string) => (agents as readonly string[]).includes(name),
    };
    const flaws = bounded(
      () =>
        [
          ...unperformable(machine),
          ...unimplemented(machine),
          ...unfit(machine),
          ...unknownNames(machine, has),
        ].slice(0, flawsMax),
      walkMs,
    );
    return {
      found: { module: { hash, text: code } },
      flaws: flaws.map((flaw) => `${module}: ${flaw}`),
      files,
    };
  } catch (error) {
    // Whatever users wrote there is a flaw of their document, and of no other.
    if (error instanceof Unavailable) throw error;
    const details = error instanceof Refused ? error.details : {};
    const { files: wrong = [] } = details as { files?: readonly string[] };
    const why = messageOf(error).split('\n')[0]!.slice(0, 300);
    return { found: {}, flaws: [`${module}: ${why}`], files: [...files, ...wrong] };
  }
}
