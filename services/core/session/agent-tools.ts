/** The tools of an agent: Tools by name, tools of McpServers by pattern, and what asks a person. */
import { limits } from '../limits.ts';
import { fits, type McpServerSpec, type ServerTool, serverToolsOf } from '../tools/mcp-server.ts';
import type { ToolSpec } from '../tools/tool-spec.ts';
import type { ApprovalRule } from './documents.ts';

/** An McpServer, and its tools: `unasked` where nobody asks, `unheard` where nobody has answered. */
export interface CatalogServer {
  readonly spec: McpServerSpec;
  readonly tools: readonly ServerTool[] | 'unasked' | 'unheard';
}

interface Known {
  readonly tools: ReadonlyMap<string, { readonly spec: ToolSpec }>;
  readonly servers: ReadonlyMap<string, CatalogServer>;
  /** Why there is none of this kind and name. */
  readonly absent: (kind: string, name: string) => string;
}

/** What is wrong with one of its references, as the end of a sentence about the agent. */
interface ToolProblem {
  readonly field: 'spec.tools' | 'spec.approvals';
  readonly message: string;
  readonly index: number;
}

const shownMax = 8; // names of a server's tools in a message

export function resolve(
  spec: { readonly tools: readonly string[]; readonly approvals: readonly ApprovalRule[] },
  { tools, servers, absent }: Known,
): {
  /** By the name that models call. */
  readonly tools: ReadonlyMap<string, ToolSpec>;
  readonly approvals: ApprovalRule[];
  readonly problems: readonly ToolProblem[];
} {
  const found = new Map<string, ToolSpec>();
  const problems: ToolProblem[] = [];
  /** Tools of servers that ask a person, and no rule of the agent says when. */
  const asking = new Set<string>();
  const refuse = (index: number, message: string) =>
    problems.push({ field: 'spec.tools', message, index });
  for (const [index, reference] of spec.tools.entries()) {
    const ofServer = serverToolsOf(reference);
    if (!ofServer) {
      const tool = tools.get(reference);
      if (!tool) refuse(index, `names the tool ${reference}, ${absent('Tool', reference)}`);
      else if (found.has(reference) && found.get(reference) !== tool.spec)
        refuse(index, `has two tools that models would know as ${reference}`);
      else found.set(reference, tool.spec);
      continue;
    }
    const { server, pattern } = ofServer;
    const known = servers.get(server);
    if (!known) {
      refuse(index, `names tools of the McpServer ${server}, ${absent('McpServer', server)}`);
      continue;
    }
    if (known.tools === 'unheard')
      refuse(index, `names tools of the McpServer ${server}, which are not known yet`);
    if (typeof known.tools === 'string') continue;
    const fitting = known.tools.filter(({ tool }) => fits(pattern, tool));
    if (fitting.length === 0) {
      const names = known.tools.slice(0, shownMax).map(({ tool }) => tool);
      const more = known.tools.length > shownMax ? ', ...' : '';
      const there = names.length > 0 ? `; it has ${names.join(', ')}${more}` : '; it has none';
      refuse(index, `names ${reference}, and McpServer ${server} has no such tool${there}`);
    }
    for (const { name, spec: tool, asksPerson } of fitting) {
      if (found.has(name) && found.get(name) !== tool)
        refuse(index, `has two tools that models would know as ${name}`);
      found.set(name, tool);
      if (asksPerson) asking.add(name);
    }
  }
  const approvals: ApprovalRule[] = [];
  for (const [index, rule] of spec.approvals.entries()) {
    const named = namesFor(rule.tool, found, servers);
    if (named.length === 0 && !isUnknown(rule.tool, servers))
      problems.push({
        field: 'spec.approvals',
        message: `wants approvals for ${rule.tool}, which is not among its tools`,
        index,
      });
    for (const tool of named) {
      approvals.push({ ...rule, tool });
      asking.delete(tool);
    }
  }
  for (const tool of asking) approvals.push({ tool, expiresMs: limits.approvalExpiryMs });
  return { tools: found, approvals, problems };
}

/** The agent's tools that a reference of a rule means. */
function namesFor(
  reference: string,
  found: ReadonlyMap<string, ToolSpec>,
  servers: ReadonlyMap<string, CatalogServer>,
): string[] {
  const ofServer = serverToolsOf(reference);
  if (!ofServer) return found.has(reference) ? [reference] : [];
  const { tools } = servers.get(ofServer.server) ?? {};
  return (Array.isArray(tools) ? (tools as readonly ServerTool[]) : [])
    .filter(({ tool, name, spec }) => fits(ofServer.pattern, tool) && found.get(name) === spec)
    .map(({ name }) => name);
}

/** Is it of a server whose tools nobody knows here? */
function isUnknown(reference: string, servers: ReadonlyMap<string, CatalogServer>): boolean {
  const ofServer = serverToolsOf(reference);
  const server = ofServer && servers.get(ofServer.server);
  return typeof server?.tools === 'string';
}
