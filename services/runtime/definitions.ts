/** What sessions are made of: bundles by revision, and the modules of users' own machines. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { AnyStateMachine } from 'xstate';
import { Refused, Unavailable } from '../core/errors.ts';
import type { Revision } from '../core/ids.ts';
import { behaviourOf } from '../core/session/behaviour.ts';
import type { Definition } from '../core/session/draft.ts';
import { exportedMachine } from '../core/session/machine-walk.ts';
import type { Bundle } from '../core/session/specs.ts';
import type { Archive } from '../ports/archive.ts';
import type { Machines } from '../ports/machines.ts';

export class Definitions {
  readonly #archive: Pick<Archive, 'bundle' | 'machine'>;
  readonly #machines: Machines;
  readonly #directories: readonly string[];
  readonly #known = new Map<Revision, Promise<Definition>>();

  /** @param directories  where users' own machines lie: the first that has one counts */
  constructor(
    archive: Pick<Archive, 'bundle' | 'machine'>,
    directories: readonly string[],
    machines: Machines,
  ) {
    this.#archive = archive;
    this.#machines = machines;
    this.#directories = directories;
  }

  /** @throws Refused when no bundle of this revision is known or its machine has changed; Unavailable when it cannot be read now */
  get(revision: Revision): Promise<Definition> {
    let found = this.#known.get(revision);
    if (!found) {
      found = this.#load(revision);
      this.#known.set(revision, found);
      found.catch(() => this.#known.delete(revision));
    }
    return found;
  }

  async #load(revision: Revision): Promise<Definition> {
    const bundle = await this.#archive.bundle(revision);
    if (!bundle)
      throw new Refused('REVISION_UNKNOWN', `no bundle of revision ${revision} is stored`, {
        revision,
      });
    return { bundle, machine: await this.#machineOf(bundle) };
  }

  /** What its session began with, whatever its files are now. */
  async #stored(bundle: Bundle, hash: string): Promise<AnyStateMachine> {
    const about = { agent: bundle.name, behaviour: behaviourOf(bundle) };
    const text = await this.#archive.machine(hash);
    if (text === undefined)
      throw new Refused(
        'MACHINE_MISSING',
        `agent ${bundle.name}: its machine is not stored`,
        about,
      );
    try {
      return await this.#machines.load({ hash, text });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      throw new Refused(error.code, `agent ${bundle.name}: ${error.message}`, {
        ...about,
        cause: error,
      });
    }
  }

  /** Of a bundle that has none stored: sessions of an earlier release, while its file is the same. */
  async #machineOf(bundle: Bundle): Promise<AnyStateMachine | undefined> {
    const { machine } = bundle.agent;
    if (machine === undefined) return undefined;
    if (bundle.machineModule !== undefined) return this.#stored(bundle, bundle.machineModule);
    const about = { agent: bundle.name, behaviour: behaviourOf(bundle) };
    const paths = this.#directories.map((directory) => resolve(directory, machine));
    const path = paths.find((one) => existsSync(one)) ?? paths[0] ?? resolve(machine);
    const text = await readFile(path).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT')
        throw new Refused(
          'MACHINE_MISSING',
          `agent ${bundle.name}: there is no file ${machine}`,
          about,
        );
      throw new Unavailable(
        'MACHINE_UNREADABLE',
        `agent ${bundle.name}: ${machine} cannot be read now`,
        { cause: error },
      );
    });
    const hash = createHash('sha256').update(text).digest('hex').slice(0, 16);
    if (bundle.machineHash !== undefined && bundle.machineHash !== hash) {
      throw new Refused(
        'MACHINE_CHANGED',
        `agent ${bundle.name}: ${machine} is not the machine that the session began with (${bundle.machineHash}, now ${hash})`,
        about,
      );
    }
    const loaded = exportedMachine(await import(`${pathToFileURL(path).href}?v=${hash}`));
    if (!loaded)
      throw new Refused(
        'MACHINE_MISSING',
        `agent ${bundle.name}: ${machine} exports no XState machine (default, or "machine")`,
        about,
      );
    return loaded;
  }
}
