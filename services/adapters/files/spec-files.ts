/** Agents, tools, models and tenants from YAML texts: a folder's, or any other source's. What is wrong names file, line and field; the rest stands. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { LineCounter, parseAllDocuments } from 'yaml';
import { z } from 'zod';
import { bounded } from '../../core/bounded.ts';
import { messageOf, Refused, Unavailable } from '../../core/errors.ts';
import { catalogOf, type SourceDocument, type SpecProblem } from '../../core/session/catalog.ts';
import {
  unfit,
  unimplemented,
  unknownNames,
  unperformable,
} from '../../core/session/machine-walk.ts';
import { documentSchema, type SpecDocument } from '../../core/session/specs.ts';
import { serverHashOf } from '../../core/tools/mcp-server.ts';
import type { Listings } from '../../ports/listings.ts';
import type { Machines } from '../../ports/machines.ts';
import type { LoadedSpecs, Specs, SpecText, SpecTexts } from '../../ports/specs.ts';
import { WatchedFiles } from './watched-files.ts';

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

/** A module that a spec names: that of the first folder that has it. */
export function moduleIn(directories: readonly string[], module: string): string {
  const paths = directories.map((directory) => resolve(directory, module));
  return paths.find((path) => existsSync(path)) ?? paths[0] ?? resolve(module);
}

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
        servers.add(serverHashOf(spec));
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

/** What a document's machine is: its module, or where no code of users runs, its hash. */
type Found = Pick<SourceDocument, 'machineHash' | 'module'>;

type AgentDocument = Extract<SpecDocument, { kind: 'Agent' }>['spec'];

const flawsMax = 20; // of one machine, told at once
const walkMs = 500; // over one machine: its objects may have code of users in them

/** A user's own machine as it stands there, and why it cannot run durably. */
async function lookAtMachine(
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

export interface ParsedSpec {
  readonly document: SpecDocument | undefined;
  readonly problems: SpecProblem[];
  /** Kind and name of a document that is refused, as far as they can be read. */
  readonly named?: string | undefined;
  readonly lineOf?: SourceDocument['lineOf'];
}

const headSchema = z.object({ kind: z.string(), metadata: z.object({ name: z.string() }) });

/** Parse the YAML documents of one file, each for itself. */
export function parseSpecs(text: string, file: string): ParsedSpec[] {
  const lines = new LineCounter();
  return [...parseAllDocuments(text, { lineCounter: lines, prettyErrors: true })].flatMap(
    (yaml): ParsedSpec[] => {
      if ('empty' in yaml) return [];
      if (yaml.errors.length > 0) {
        return [
          {
            document: undefined,
            problems: yaml.errors.map((error) => ({
              file: `${file}:${error.linePos?.[0].line ?? 1}`,
              field: '',
              message: error.message.split('\n')[0]!,
            })),
          },
        ];
      }
      let value: unknown;
      try {
        value = yaml.toJS();
      } catch (error) {
        // An alias without its anchor, or too many of them.
        const line = yaml.contents?.range ? lines.linePos(yaml.contents.range[0]).line : 1;
        return [
          {
            document: undefined,
            problems: [
              { file: `${file}:${line}`, field: '', message: messageOf(error).split('\n')[0]! },
            ],
          },
        ];
      }
      if (value === null) return [];
      const lineOf = (path: readonly PropertyKey[]): number => {
        const node = nearest(yaml, path);
        return node?.range ? lines.linePos(node.range[0]).line : 1;
      };
      const parsed = documentSchema.safeParse(value);
      if (parsed.success) return [{ document: parsed.data, problems: [], lineOf }];
      const head = headSchema.safeParse(value);
      return [
        {
          document: undefined,
          ...(head.success ? { named: `${head.data.kind} ${head.data.metadata.name}` } : {}),
          problems: parsed.error.issues.map(({ path, message }) => ({
            file: `${file}:${lineOf(path)}`,
            field: path.join('.'),
            message,
          })),
        },
      ];
    },
  );
}

/** The YAML node of a path, or of the longest part of it that is there. */
function nearest(
  yaml: { getIn(path: Iterable<unknown>, keepScalar?: boolean): unknown },
  path: readonly PropertyKey[],
): { range?: [number, number, number] | null } | undefined {
  for (let length = path.length; length >= 0; length -= 1) {
    const node = yaml.getIn(path.slice(0, length), true);
    if (node && typeof node === 'object' && 'range' in node)
      return node as { range?: [number, number, number] };
  }
  return undefined;
}
