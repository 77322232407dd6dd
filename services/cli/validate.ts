/** `understudy validate`: the messages of `doctor` about a folder of specs, offline. */
import { existsSync, statSync } from 'node:fs';
import { Refused } from '../core/errors.ts';
import type { SpecProblem } from '../core/session/specs.ts';
import type { LoadedSpecs } from '../ports/specs.ts';

export interface Validated {
  readonly agents: readonly {
    readonly name: string;
    readonly revision: string;
    readonly tools: number;
  }[];
  readonly tenants: readonly string[];
  /** McpServers: what they can do is not looked at here. */
  readonly servers: readonly string[];
  readonly problems: readonly SpecProblem[];
}

/** @throws Refused (USAGE) for what is not a folder */
export async function validate(
  folder: string,
  load: (folder: string) => Promise<LoadedSpecs>,
): Promise<Validated> {
  if (!existsSync(folder) || !statSync(folder).isDirectory())
    throw new Refused('USAGE', `${folder} is not a folder`);
  const { catalog, problems } = await load(folder);
  return {
    agents: [...catalog.agents].map(([name, { bundle, revision }]) => ({
      name,
      revision,
      tools: Object.keys(bundle.tools).length,
    })),
    tenants: [...catalog.tenants.keys()],
    servers: [...catalog.servers.keys()],
    problems,
  };
}

export function validatedText({ agents, tenants, servers, problems }: Validated): string {
  const lines = [
    ...agents.map(
      ({ name, revision, tools }) =>
        `ok  agent ${name}@${revision.slice(0, 8)} (${tools} ${tools === 1 ? 'tool' : 'tools'})`,
    ),
    ...(servers.length > 0
      ? [`see McpServers: ${servers.join(', ')}; their executors say which tools they have`]
      : []),
    ...(tenants.length > 0
      ? [`ok  tenants: ${tenants.join(', ')}`]
      : ['see tenants: none; tasks are refused until there is a Tenant']),
    ...problems.map(
      ({ file, field, message }) => `BAD ${file}: ${field ? `${field}: ` : ''}${message}`,
    ),
  ];
  return lines.join('\n');
}
