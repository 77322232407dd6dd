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
import { bounded } from '../../core/bounded.ts';
import { messageOf, Refused } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import { exportedMachine } from '../../core/session/machine-walk.ts';
import type { Machine, MachineModule, Machines } from '../../ports/machines.ts';

const scheme = 'understudy-machine:';

const loadMs = 2_000; // a module of a machine makes objects, and does no work

const require = createRequire(import.meta.url);

/** Texts of modules that are to be loaded, or have been, by hash. */
const texts = new Map<string, string>();
let isHooked = false;

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
      return { format: 'module', source: texts.get(url.slice(scheme.length))!, shortCircuit: true };
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
    let module: object;
    try {
      // At once, and not by `import()`: what is awaited nobody can end.
      module = bounded(() => require(`${scheme}${hash}`) as object, loadMs);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ERR_REQUIRE_ASYNC_MODULE')
        throw new Refused('MACHINE_UNREADABLE', 'it awaits something while it is loaded');
      throw new Refused('MACHINE_UNREADABLE', `it cannot be loaded: ${firstLine(error)}`, {
        cause: error,
      });
    }
    const machine = exportedMachine(module);
    if (!machine)
      throw new Refused('MACHINE_MISSING', 'it exports no XState machine (default, or "machine")');
    return machine;
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
