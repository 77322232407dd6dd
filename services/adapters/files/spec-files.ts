import { readdir, readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { messageOf } from '../../core/errors.ts';
import { catalogOf, type SourceDocument, type SpecProblem } from '../../core/session/specs.ts';
import { serverHashOf } from '../../core/tools/mcp-server.ts';
import type { Listings } from '../../ports/listings.ts';
import type { Machines } from '../../ports/machines.ts';
import type { LoadedSpecs, Specs, SpecText, SpecTexts } from '../../ports/specs.ts';
import { type Found, lookAtMachine } from './machine-look.ts';
import { parseSpecs } from './spec-parser.ts';
import { WatchedFiles } from './watched-files.ts';

export { parseSpecs } from './spec-parser.ts';

/** The YAML files of a folder and its subfolders. Changes are found by looking: mounted ConfigMaps are swapped by links, of which no watcher tells. */
export function folderTexts(
  directory: string,
  { everyMs = 1_000, prefix = '' }: { everyMs?: number; prefix?: string } = {},
): SpecTexts {
  const read = async (): Promise<ReadonlyMap<string, SpecText>> => {
    const texts = new Map<string, SpecText>();
    // `..data` and its like hold what a mounted ConfigMap was and is: the links beside them are the files. What else begins with a dot is an editor's.
    const found = (await readdir(directory, { recursive: true, withFileTypes: true }))
      .filter(
        (entry) =>
          !entry.isDirectory() &&
          /^[^.].*\.ya?ml$/.test(entry.name) &&
          !relative(directory, entry.parentPath).startsWith('..'),
      )
      .map((entry) => join(entry.parentPath, entry.name))
      .sort();
    for (const path of found)
      texts.set(
        prefix + relative(directory, path),
        await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => ({
          unreadable: `it cannot be read (${error.code ?? error.name})`,
        })),
      );
    return texts;
  };
  return {
    read,
    follow(onChange) {
      let before: string | undefined;
      const look = async () => {
        // A folder that cannot be read now, or a file that is being written, is looked at again the next time.
        const now = await read().then(
          (texts) => JSON.stringify([...texts]),
          () => before,
        );
        if (before !== undefined && now !== before) onChange();
        before = now;
      };
      void look();
      const timer = setInterval(() => void look(), everyMs);
      timer.unref();
      return { stop: () => clearInterval(timer) };
    },
  };
}

/** Several folders: the names of their files are told apart by the folder's own. */
export const foldersTexts = (directories: readonly string[]): SpecTexts[] =>
  directories.map((directory) =>
    folderTexts(directory, directories.length > 1 ? { prefix: `${directory}/` } : {}),
  );

/**
 * Make a catalog of texts. A text that was good and is broken now stays what it was: the others go
 * on with it. A name that is defined twice stays what it was.
 *
 * @param directories  where the modules of users' own machines lie: the first that has one counts
 * @param machines  loads them, so that what cannot run is refused; without it no code of users runs
 *                  here, and the hash of their files must do
 * @param listings  what MCP servers can do; without it agents have none of their tools here
 */
export function specsOf(
  sources: readonly SpecTexts[],
  directories: readonly string[],
  machines?: Machines,
  listings?: Listings,
): Specs {
  const modules = new WatchedFiles();
  const goodMachines = new Map<string, Found>();
  const servers = new Set<string>();
  const build = (texts: ReadonlyMap<string, SpecText>, known: ReadonlyMap<string, string>) =>
    built(texts, known, { directories, machines, goodMachines, listings, servers });
  const good = new Map<string, SpecText>();
  const refused = new Map<string, string>();
  let homes: ReadonlyMap<string, string> = new Map();

  const load = async (): Promise<LoadedSpecs> => {
    const from = Date.now();
    const texts = new Map<string, { text: SpecText; source: SpecTexts }>();
    for (const source of sources)
      for (const [name, text] of await source.read()) texts.set(name, { text, source });
    for (const name of good.keys()) if (!texts.has(name)) good.delete(name);
    for (const name of refused.keys()) if (!texts.has(name)) refused.delete(name);
    const current = new Map([...texts].map(([name, { text }]) => [name, text]));
    servers.clear();
    let made = await build(current, homes);
    let { problems } = made;
    const broken = new Set(
      problems
        .filter(isWrong)
        .map(fileOf)
        .filter((name) => good.has(name) && good.get(name) !== current.get(name)),
    );
    const lastGood = new Set<string>();
    if (broken.size > 0) {
      for (const name of broken) {
        const text = good.get(name)!;
        current.set(name, text);
        if (typeof text === 'string') for (const one of namesIn(text)) lastGood.add(one);
      }
      made = await build(current, homes);
      // Of texts that were not put back: the first look has said what is wrong with the others.
      const placeOf = ({ file, field }: SpecProblem) => `${file} ${field}`;
      const told = new Set(problems.map(placeOf));
      const more = made.problems.filter(
        (one) => !broken.has(fileOf(one)) && !told.has(placeOf(one)),
      );
      problems = [...problems, ...more];
    }
    await modules.watch(made.files, from);
    homes = new Map([...homes, ...made.homes]);
    for (const name of made.kept) lastGood.add(name);
    listings?.keep(servers);
    const wrong = new Set(made.problems.filter(isWrong).map(fileOf));
    for (const [name, text] of current) if (!wrong.has(name)) good.set(name, text);
    for (const [name, { text, source }] of texts) {
      const own = problems.filter((problem) => isWrong(problem) && fileOf(problem) === name);
      if (own.length === 0) refused.delete(name);
      else if (refused.get(name) !== JSON.stringify(text)) {
        refused.set(name, JSON.stringify(text));
        void source.refuse?.(name, own).catch(() => undefined); // telling is a courtesy: doctor says the same
      }
    }
    const unclear = [...wrong]
      .map((name) => current.get(name))
      .filter((text) => text !== undefined);
    return {
      catalog: made.catalog,
      problems,
      lastGood,
      unsure: {
        names: new Set(unclear.flatMap((text) => (typeof text === 'string' ? namesIn(text) : []))),
        isAny: unclear.some((text) => typeof text !== 'string'),
      },
    };
  };

  return {
    load,
    follow(onChange, onTrouble) {
      let isBusy = false;
      let isAgain = false;
      let isStopped = false;
      let trouble = '';
      const changed = async () => {
        isAgain = true;
        if (isBusy) return;
        isBusy = true;
        while (isAgain && !isStopped) {
          isAgain = false;
          try {
            await onChange(await load());
            trouble = '';
          } catch (error) {
            // A source or the archive is away for now: what is known stays, and the change is taken up later.
            isAgain = true;
            const cause = messageOf(error);
            if (cause !== trouble) onTrouble?.(cause);
            trouble = cause;
            await new Promise((resolve) => setTimeout(resolve, 500));
          }
        }
        isBusy = false;
      };
      const followed = [...sources, modules, ...(listings ? [listings] : [])];
      const following = followed.map((one) => one.follow(() => void changed()));
      void changed(); // what changed between the first look and now
      return {
        stop() {
          isStopped = true;
          for (const each of following) each.stop();
        },
      };
    },
  };
}

/** The specs of one folder, once. */
export const loadSpecs = (directory: string, machines?: Machines): Promise<LoadedSpecs> =>
  specsOf([folderTexts(directory)], [directory], machines).load();

/** What a text may define, also one that is no YAML. */
const namesIn = (text: string): string[] =>
  [...text.matchAll(/\bname['"]?\s*:\s*['"]?([A-Za-z0-9_-]+)/g)].map(([, name]) => name!);

const isWrong = ({ isNote }: SpecProblem): boolean => !isNote;

const fileOf = ({ file }: SpecProblem): string => file.replace(/:\d+$/, '');

/** What documents are made of beside their texts. */
interface Beside {
  readonly directories: readonly string[];
  readonly machines: Machines | undefined;
  /** As they were last, where they were good. */
  readonly goodMachines: Map<string, Found>;
  readonly listings: Listings | undefined;
  /** Hashes of the servers that were asked about. */
  readonly servers: Set<string>;
}

async function built(
  texts: ReadonlyMap<string, SpecText>,
  homes: ReadonlyMap<string, string>,
  { directories, machines, goodMachines, listings, servers }: Beside,
): Promise<
  Pick<ReturnType<typeof catalogOf>, 'catalog' | 'problems' | 'homes'> & {
    readonly files: ReadonlySet<string>;
    /** Agents whose machines are broken now, and stay what they were. */
    readonly kept: ReadonlySet<string>;
  }
> {
  const files = new Set<string>();
  const kept = new Set<string>();
  const seenMachines = new Set<string>();
  const documents: SourceDocument[] = [];
  const refused = new Set<string>();
  const problems: SpecProblem[] = [];
  for (const [file, text] of texts) {
    if (typeof text !== 'string') {
      problems.push({ file, field: '', message: text.unreadable });
      continue;
    }
    for (const { document, problems: wrong, named, lineOf } of parseSpecs(text, file)) {
      problems.push(...wrong);
      if (!document) {
        if (named) refused.add(named);
        continue;
      }
      if (document.kind === 'Agent' && document.spec.machine !== undefined) {
        const seen = await lookAtMachine(document.spec, directories, machines);
        const { name } = document.metadata;
        const { found, flaws } = seen;
        for (const one of seen.files) files.add(one);
        const key = `${name} ${document.spec.machine}`;
        seenMachines.add(key);
        const before = goodMachines.get(key);
        if (flaws.length === 0) {
          goodMachines.set(key, found);
          documents.push({ document, file, lineOf, ...found });
        } else if (before) {
          kept.add(name);
          documents.push({ document, file, lineOf, ...before });
        } else refused.add(`Agent ${name}`);
        const place = lineOf ? `${file}:${lineOf(['spec', 'machine'])}` : file;
        for (const message of flaws) problems.push({ file: place, field: 'spec.machine', message });
      } else if (document.kind === 'McpServer' && listings) {
        const { metadata, spec } = document;
        servers.add(serverHashOf(metadata.name, spec));
        const { listing, trouble } = await listings.of(metadata.name, spec);
        documents.push({ document, file, lineOf, listing: listing ?? 'unheard' });
        const place = lineOf ? `${file}:${lineOf(['metadata', 'name'])}` : file;
        const message = `McpServer ${metadata.name}: ${trouble}`;
        if (trouble)
          problems.push({ file: place, field: '', message, ...(listing ? { isNote: true } : {}) });
      } else documents.push({ document, file, lineOf });
    }
  }
  for (const key of goodMachines.keys()) if (!seenMachines.has(key)) goodMachines.delete(key);
  const built = catalogOf(documents, refused, homes);
  return { ...built, problems: [...problems, ...built.problems], files, kept };
}
