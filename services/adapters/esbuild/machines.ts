/**
 * Users' own machines as modules: esbuild makes one file of many, and Node loads it from memory.
 *
 * A module of a machine has an address of its own (`understudy-machine:<hash>`), so that it needs no
 * file; what it imports is found from here, as if it lay beside this one.
 */
import { createHash } from 'node:crypto';
import { createRequire, registerHooks } from 'node:module';
import { basename, dirname, resolve } from 'node:path';
import { type BuildFailure, build, stop } from 'esbuild';
import { bounded, Stuck } from '../../core/bounded.ts';
import { messageOf, Refused } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import { exportedMachine } from '../../core/session/machine-walk.ts';
import type { Machine, MachineModule, Machines } from '../../ports/machines.ts';

const scheme = 'understudy-machine:';

const loadMs = 800; // a module of a machine makes objects, and does no work; twice, it is less than a lease

const require = createRequire(import.meta.url);

/** Texts of modules that are to be loaded, or have been, by hash. */
const texts = new Map<string, string>();
let isHooked = false;

const hashIn = (url: string): string => url.slice(scheme.length).split('?')[0]!;

/** Modules are known by their hash alone: the hook is needed once for a process. */
function hookOnce(): void {
  if (isHooked) return;
  isHooked = true;
  registerHooks({
    resolve(specifier, context, next) {
      if (specifier.startsWith(scheme)) return { url: specifier, shortCircuit: true };
      if (context.parentURL?.startsWith(scheme))
        return next(specifier, { ...context, parentURL: import.meta.url });
      return next(specifier, context);
    },
    load(url, context, next) {
      if (!url.startsWith(scheme)) return next(url, context);
      return { format: 'module', source: texts.get(hashIn(url))!, shortCircuit: true };
    },
  });
}

const hashOf = (text: string): string => createHash('sha256').update(text).digest('hex');

export function esbuildMachines(): Machines {
  const loaded = new Map<string, Promise<Machine>>();
  const run = async ({ hash, text }: MachineModule): Promise<Machine> => {
    if (hashOf(text) !== hash)
      throw new Refused('MACHINE_CHANGED', `a machine is stored that is not the one of ${hash}`);
    hookOnce();
    texts.set(hash, text);
    // Late once, the process itself may have stood still.
    return machineIn(hash) ?? machineIn(hash, true)!;
  };
  return {
    async bundle(file) {
      const { text, files } = await bundled(file);
      const bytes = Buffer.byteLength(text);
      if (bytes > limits.machineBytesMax)
        throw new Refused(
          'MACHINE_UNREADABLE',
          `with all that it imports it has ${bytes} bytes; ${limits.machineBytesMax} are allowed`,
        );
      return { hash: hashOf(text), text, files };
    },
    load(module) {
      let found = loaded.get(module.hash);
      if (!found) {
        found = run(module);
        loaded.set(module.hash, found);
        found.catch(() => loaded.delete(module.hash));
      }
      return found;
    },
  };
}

let loads = 0;

/** @returns undefined for what ran in circles, unless it is the last try. @throws Refused */
function machineIn(hash: string, isLast = false): Machine | undefined {
  let machine: Machine | undefined;
  try {
    // Each try has an address of its own: of a module that was ended half is kept. And at once, not
    // by `import()`: what is awaited nobody can end.
    loads += 1;
    const address = `${scheme}${hash}?${loads}`;
    machine = bounded(() => exportedMachine(require(address) as object), loadMs);
  } catch (error) {
    if (error instanceof Stuck && !isLast) return undefined;
    const { code } = (error ?? {}) as { code?: unknown };
    throw new Refused(
      'MACHINE_UNREADABLE',
      code === 'ERR_REQUIRE_ASYNC_MODULE'
        ? 'it awaits something while it is loaded'
        : `it cannot be loaded: ${firstLine(error)}`,
      { cause: error },
    );
  }
  if (!machine)
    throw new Refused('MACHINE_MISSING', 'it exports no XState machine (default, or "machine")');
  return machine;
}

let building = 0;

/** esbuild is a process of its own, which is not left behind. */
async function alone<Result>(work: () => Promise<Result>): Promise<Result> {
  building += 1;
  try {
    return await work();
  } finally {
    building -= 1;
    if (building === 0) await stop();
  }
}

/** Nothing of the path is in the text: the same files make the same module anywhere. */
async function bundled(file: string): Promise<{ text: string; files: string[] }> {
  try {
    const { outputFiles, metafile } = await alone(() =>
      build({
        absWorkingDir: dirname(file),
        entryPoints: [`./${basename(file)}`],
        bundle: true,
        write: false,
        metafile: true,
        format: 'esm',
        platform: 'node',
        target: 'node24',
        external: ['xstate', 'xstate/*'],
        legalComments: 'none',
        logLevel: 'silent',
        charset: 'utf8',
        // Comments that name files would change with the folder.
        minifyWhitespace: true,
        keepNames: true,
      }),
    );
    const files = Object.keys(metafile.inputs).map((one) => resolve(dirname(file), one));
    return { text: outputFiles[0]!.text, files };
  } catch (error) {
    throw new Refused('MACHINE_UNREADABLE', `it cannot be made one module: ${whyNot(error)}`, {
      cause: error,
      files: placesOf(error).map((one) => resolve(dirname(file), one)),
    });
  }
}

/** Files that are wrong: they are watched, too. */
const placesOf = (error: unknown): string[] =>
  ((error as Partial<BuildFailure>).errors ?? []).flatMap(({ location }) => location?.file ?? []);

function whyNot(error: unknown): string {
  const [first] = (error as Partial<BuildFailure>).errors ?? [];
  if (!first) return firstLine(error);
  const { location, text } = first;
  return (location ? `${location.file}:${location.line}: ${text}` : text).slice(0, 300);
}

const firstLine = (error: unknown): string => messageOf(error).split('\n')[0]!.slice(0, 300);
