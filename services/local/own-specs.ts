/** `SPECS=<folder>`: the reader's own agents beside those of the example. */
import { existsSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { esbuildMachines } from '../adapters/esbuild/machines.ts';
import { foldersTexts, folderTexts, loadSpecs, specsOf } from '../adapters/files/spec-files.ts';
import { Refused } from '../core/errors.ts';
import { toolPool } from '../core/pools.ts';
import type { Catalog } from '../core/session/specs.ts';
import { variablesOf } from '../core/tools/placeholders.ts';
import { root } from './stack.ts';

export interface OwnSpecs {
  readonly folder: string;
  /** What its documents name of this process's environment, as far as it is set. */
  readonly environment: Readonly<Record<string, string>>;
  readonly missing: readonly string[];
  /** What its tools and those of the example name, the pool of all installations first. */
  readonly pools: readonly string[];
}

const exampleAgents = join(root, 'examples/refund-desk/agents');

/** Pools that the tools and servers of these agents name; the one that every installation has comes first. */
export const poolsOf = ({ agents, servers }: Catalog): string[] => [
  ...new Set([
    toolPool,
    ...[...agents.values()].flatMap(({ bundle }) =>
      Object.values(bundle.tools).map(({ pool }) => pool),
    ),
    ...[...servers.values()].map(({ spec }) => spec.pool),
  ]),
];

/** @throws Refused when SPECS is no folder */
export async function ownSpecs(
  environment: Readonly<Record<string, string | undefined>> = process.env,
): Promise<OwnSpecs | undefined> {
  const { SPECS } = environment;
  if (!SPECS) return undefined;
  const folder = resolve(SPECS);
  if (!existsSync(folder) || !statSync(folder).isDirectory())
    throw new Refused('SPECS_MISSING', `SPECS=${SPECS}: there is no such folder`);
  const texts = [...(await folderTexts(folder).read()).values()];
  const names = variablesOf(...texts.filter((text) => typeof text === 'string'));
  const found = Object.fromEntries(
    names.flatMap((name) => {
      const value = environment[name];
      return value ? [[name, value]] : [];
    }),
  );
  const folders = [folder, exampleAgents];
  const { catalog } = await specsOf(foldersTexts(folders), folders, esbuildMachines()).load();
  return {
    folder,
    pools: poolsOf(catalog),
    environment: found,
    missing: names.filter((name) => !Object.hasOwn(found, name)),
  };
}

/** What the reader should know before the first task. */
export const hintsOf = ({ folder, missing }: OwnSpecs, isRealModel: boolean): string[] => [
  `your specs: ${folder}`,
  ...(missing.length > 0
    ? [
        `not set: ${missing.join(', ')}; tools that name it fail. Set it before make, as in NAME=value make dev SPECS=...`,
      ]
    : []),
  ...(isRealModel
    ? []
    : [
        'the scripted model knows the refund desk only: for your own agents set OPENAI_BASE_URL and OPENAI_API_KEY',
      ]),
];

/** What of the folder is refused beside the example's documents, and how its agents are run. */
export async function linesOf({ folder }: OwnSpecs): Promise<string[]> {
  const folders = [folder, exampleAgents];
  const { catalog, problems } = await specsOf(
    foldersTexts(folders),
    folders,
    esbuildMachines(),
  ).load();
  const example = await loadSpecs(exampleAgents);
  const agents = [...catalog.agents.keys()].filter((name) => !example.catalog.agents.has(name));
  return [
    ...problems.map(
      ({ file, field, message }) => `BAD ${file}: ${field ? `${field}: ` : ''}${message}`,
    ),
    ...agents.map((name) => `bin/understudy run ${name} '...'`),
  ];
}
