/** Documents put together: each agent with everything it names, or why not. */
import type { AgentName, Revision } from '../ids.ts';
import { limits } from '../limits.ts';
import type { Listing } from '../tools/mcp-listing.ts';
import { toolsOf } from '../tools/mcp-server.ts';
import { type CatalogServer, resolve } from './agent-tools.ts';
import { currentBehaviour } from './behaviour.ts';
import { type Bundle, revisionOf, type SpecDocument, type TenantSpec } from './documents.ts';

export * from './documents.ts';

export interface Catalog {
  readonly agents: ReadonlyMap<
    AgentName,
    {
      readonly bundle: Bundle;
      readonly revision: Revision;
      /** Text of the module that the bundle names. */
      readonly module?: string | undefined;
    }
  >;
  readonly tenants: ReadonlyMap<string, TenantSpec>;
  readonly servers: ReadonlyMap<string, CatalogServer>;
}

/** A document, and where it stands. */
export interface SourceDocument {
  readonly document: SpecDocument;
  readonly file: string;
  readonly machineHash?: string | undefined;
  /** Of a user's own machine: all that it runs. */
  readonly module?: { readonly hash: string; readonly text: string } | undefined;
  /** Of an McpServer: what it can do; absent where nobody is asked. */
  readonly listing?: Listing | 'unheard' | undefined;
  /** The line of one of its fields; without it, problems name the file alone. */
  readonly lineOf?: ((path: readonly (string | number)[]) => number) | undefined;
}

/** What is wrong with a document, with the name of the file that holds it. */
export interface SpecProblem {
  readonly file: string;
  readonly field: string;
  readonly message: string;
  /** Worth a look; its document stands all the same. */
  readonly isNote?: true;
}

/**
 * Put documents together into a catalog. An agent that names what is not there is left out and
 * reported; the others stand. Of a name that is defined twice the definition of the file that it
 * came from before stays; where no file is known for it, none is taken, and each is reported.
 *
 * @param refused  documents that are there and broken, as `Tool pay`: they are not missing
 * @param homes  the files that definitions came from before, by `Tool pay`
 * @returns with the files that definitions come from now
 */
export function catalogOf(
  documents: readonly SourceDocument[],
  refused: ReadonlySet<string> = new Set(),
  homes: ReadonlyMap<string, string> = new Map(),
): {
  catalog: Catalog;
  problems: SpecProblem[];
  homes: ReadonlyMap<string, string>;
} {
  const problems: SpecProblem[] = [];
  const homesNow = new Map<string, string>();
  const doubled = new Set<string>();
  const absent = (kind: string, name: string): string => {
    if (doubled.has(`${kind} ${name}`)) return 'which is defined twice';
    if (refused.has(`${kind} ${name}`)) return 'and its document is refused';
    return `and there is no such ${kind}`;
  };
  const byKind = <Kind extends SpecDocument['kind']>(kind: Kind) => {
    type Spec = Extract<SpecDocument, { kind: Kind }>['spec'];
    const found = new Map<string, Omit<SourceDocument, 'document'> & { readonly spec: Spec }>();
    const ofKind = documents.filter(({ document }) => document.kind === kind);
    const byName = Map.groupBy(ofKind, ({ document }) => document.metadata.name);
    for (const [name, sources] of byName) {
      const key = `${kind} ${name}`;
      const chosen = chosenOf(sources, homes.get(key), refused.has(key));
      if (chosen) {
        const { document, ...rest } = chosen;
        found.set(name, { ...rest, spec: (document as { spec: unknown }).spec as Spec });
        homesNow.set(key, chosen.file);
      } else doubled.add(key);
      for (const source of sources)
        if (source !== chosen) problems.push(doubleOf(source, key, sources, chosen));
    }
    return found;
  };
  const tools = byKind('Tool');
  const models = byKind('Model');
  const agents = byKind('Agent');
  const tenants = byKind('Tenant');
  const servers = new Map<string, CatalogServer>();
  for (const [name, { spec, listing, ...place }] of byKind('McpServer')) {
    if (listing === undefined || listing === 'unheard') {
      servers.set(name, { spec, tools: listing ?? 'unasked' });
      continue;
    }
    const { tools: found, refused: left } = toolsOf(name, spec, listing);
    servers.set(name, { spec, tools: found });
    for (const { tool, why } of left)
      problems.push({
        file: placeIn(place, ['spec']),
        field: '',
        message: `McpServer ${name}: its tool ${tool} is left out: ${why}`,
        isNote: true,
      });
  }

  const done = new Map<AgentName, { bundle: Bundle; revision: Revision; module?: string }>();
  const building = new Set<string>();
  const build = (
    name: string,
    neededBy: string,
  ): { bundle: Bundle; revision: Revision } | undefined => {
    const ready = done.get(name as AgentName);
    if (ready) return ready;
    const source = agents.get(name);
    if (!source) {
      const message = doubled.has(`Agent ${name}`)
        ? `Agent ${name} is defined twice`
        : refused.has(`Agent ${name}`)
          ? `the document of Agent ${name} is refused`
          : `there is no Agent ${name}`;
      problems.push({ file: neededBy, field: 'spec.agents', message });
      return undefined;
    }
    const { spec, machineHash, module } = source;
    if (building.has(name)) {
      problems.push({
        file: placeIn(source, ['spec', 'agents']),
        field: 'spec.agents',
        message: `Agent ${name} delegates to itself in a circle`,
      });
      return undefined;
    }
    building.add(name);
    let isWhole = true;
    const missing = (field: string, message: string, index?: number) => {
      const path = [...field.split('.'), ...(index === undefined ? [] : [index])];
      problems.push({ file: placeIn(source, path), field, message });
      isWhole = false;
    };
    const bundle: Bundle = {
      name: name as AgentName,
      agent: spec,
      tools: {},
      models: [],
      agents: {},
      ...(machineHash ? { machineHash } : {}),
      ...(module ? { machineModule: module.hash } : {}),
      behaviour: currentBehaviour,
    };
    const resolved = resolve(spec, { tools, servers, absent });
    for (const { field, message, index } of resolved.problems)
      missing(field, `Agent ${name} ${message}`, index);
    for (const [tool, found] of resolved.tools) bundle.tools[tool] = found;
    bundle.agent = { ...spec, tools: [...resolved.tools.keys()], approvals: resolved.approvals };
    if (spec.machine !== undefined && resolved.approvals.length > 0) {
      missing(
        'spec.approvals',
        `Agent ${name} has a machine of its own: approvals are not applied to it; invoke "human" before the call instead`,
      );
    }
    let modelName: string | undefined = spec.model;
    const seen = new Set<string>();
    while (modelName !== undefined && !seen.has(modelName)) {
      seen.add(modelName);
      const model = models.get(modelName);
      if (!model)
        missing(
          'spec.model',
          `Agent ${name} needs the model ${modelName}, ${absent('Model', modelName)}`,
        );
      else bundle.models.push({ ...model.spec, name: modelName });
      modelName = model?.spec.fallback;
    }
    for (const [index, child] of spec.agents.entries()) {
      const built = build(child, placeIn(source, ['spec', 'agents', index]));
      if (built)
        bundle.agents[child] = {
          description: built.bundle.agent.description,
          limits: built.bundle.agent.limits,
          revision: built.revision,
        };
      else isWhole = false;
    }
    building.delete(name);
    const bytes = isWhole ? Buffer.byteLength(JSON.stringify(bundle)) : 0;
    if (bytes > limits.bundleBytesMax)
      missing(
        'spec.tools',
        `Agent ${name} is too large: ${bytes} bytes with its ${resolved.tools.size} tools, of ${limits.bundleBytesMax}; name fewer`,
      );
    if (!isWhole) return undefined;
    const built = {
      bundle,
      revision: revisionOf(bundle),
      ...(module ? { module: module.text } : {}),
    };
    done.set(name as AgentName, built);
    return built;
  };
  for (const [name, source] of agents) build(name, placeIn(source, []));
  return {
    catalog: {
      agents: done,
      tenants: new Map([...tenants].map(([name, { spec }]) => [name, spec])),
      servers,
    },
    problems: dedupe(problems),
    homes: homesNow,
  };
}

/**
 * The definition of a name that counts.
 *
 * @param home  the file that it came from before
 * @param isRefused  there is a broken document of this name as well
 */
function chosenOf(
  sources: readonly SourceDocument[],
  home: string | undefined,
  isRefused: boolean,
): SourceDocument | undefined {
  const atHome = sources.filter(({ file }) => file === home);
  if (atHome.length === 1) return atHome[0];
  return sources.length === 1 && !isRefused ? sources[0] : undefined;
}

/** What is wrong with a definition that is not taken, because there is another. */
function doubleOf(
  source: SourceDocument,
  key: string,
  sources: readonly SourceDocument[],
  chosen: SourceDocument | undefined,
): SpecProblem {
  const path = ['metadata', 'name'];
  const others = sources.filter((one) => one !== source).map((one) => placeIn(one, path));
  const message = chosen
    ? `${key} is defined twice: it stays as in ${placeIn(chosen, path)}`
    : others.length > 0
      ? `${key} is defined twice, also in ${others.join(', ')}: none of them is taken`
      : `${key} is defined twice, and its other document is refused: none of them is taken`;
  return { file: placeIn(source, path), field: 'metadata.name', message };
}

const placeIn = (
  { file, lineOf }: Pick<SourceDocument, 'file' | 'lineOf'>,
  path: readonly (string | number)[],
): string => (lineOf ? `${file}:${lineOf(path)}` : file);

function dedupe(problems: SpecProblem[]): SpecProblem[] {
  const seen = new Set<string>();
  return problems.filter((problem) => {
    const key = JSON.stringify(problem);
    return seen.has(key) ? false : seen.add(key);
  });
}
