/** `understudy mcp`: the MCP servers of documents, and what has changed in them. */
import type { Command } from 'commander';
import { Refused } from '../core/errors.ts';
import { cut, escaped, escapedLine, indented } from '../core/format.ts';
import type { ServerDetail, ServerSummary } from '../core/wire/control-answers.ts';
import { isAsked, isYes } from './approve.ts';
import { hint } from './failure.ts';
import { table } from './format.ts';
import { login } from './sign-in.ts';
import type { Terminal } from './terminal.ts';

export function addMcpCommands(program: Command, terminal: Terminal): void {
  const { ask, print } = terminal;
  const mcp = program
    .command('mcp')
    .description('MCP servers: what they can do, and what has changed');
  mcp
    .command('ls', { isDefault: true })
    .description('all McpServers, and whether their tools are known')
    .action(async () => {
      const found = await ask<ServerSummary[]>('servers', {});
      if (found) print(found, () => serverTable(found));
    });
  mcp
    .command('show')
    .description('the tools of one, their classes, and what waits to be accepted')
    .argument('<server>')
    .option('--ask', 'ask the server again first')
    .action(async (name: string, options: { ask?: boolean }) => {
      const found = await ask<ServerDetail>('server', { name, ask: Boolean(options.ask) });
      if (found) print(found, () => serverText(found));
    });
  mcp
    .command('login')
    .description('sign in to a server with a browser; executors keep what comes of it')
    .argument('<server>')
    .action((name: string) => login(name, terminal));
  mcp
    .command('accept')
    .description('take up what a server says now; shows it and asks, or wants its digest')
    .argument('<server>')
    .option('--digest <digest>', 'of what you looked at: anything else is refused')
    .action((name: string, options: { digest?: string }) => accept(name, options, terminal));
}

async function accept(
  name: string,
  { digest }: { readonly digest?: string },
  { ask, tell, print, options }: Terminal,
): Promise<void> {
  let looked = digest;
  if (looked === undefined) {
    if (options().explain)
      throw new Refused('LISTING_DIGEST_NEEDED', 'say --digest, of what you looked at');
    const found = await ask<ServerDetail>('server', { name, ask: true });
    if (!found) return;
    if (!found.held)
      throw new Refused(
        'NOTHING_HELD',
        `McpServer ${name} has no change to accept: ${found.trouble ?? (found.isAsked === false ? 'it was not heard' : 'it says what is in force')}`,
      );
    if (!isAsked(options().output))
      throw new Refused(
        'LISTING_DIGEST_NEEDED',
        `say --digest ${found.held} if that is what you looked at: understudy mcp show ${name}`,
      );
    tell(changeText(found, false));
    if (!(await isYes('Accept exactly this? [y/N] ')))
      throw new Refused('NOT_ACCEPTED', 'not accepted');
    looked = found.held;
  }
  const done = await ask<ServerDetail>('acceptListing', {
    name,
    digest: looked,
  });
  if (done)
    print(
      done,
      () => `accepted: McpServer ${name} has ${done.tools} tools, listing ${done.number}`,
    );
}

export function serverTable(servers: readonly ServerSummary[]): string {
  if (servers.length === 0)
    return hint(
      'no McpServer; docs/mcp.md shows how one is written, understudy doctor what is refused',
    );
  return table(
    ['SERVER', 'POOL', 'TOOLS', 'LISTING', 'STATE'],
    servers.map(({ name, pool, tools, number, digest, trouble }) => [
      name,
      pool,
      number === null ? '-' : String(tools),
      number === null ? '-' : `${number} (${digest})`,
      trouble === null ? 'known' : cut(escapedLine(trouble), 160),
    ]),
  );
}

const words = ({ class: one, asksPerson }: ServerDetail['list'][number]['proposed']): string =>
  `${one}${asksPerson ? ', asks' : ''}`;

export function serverText(found: ServerDetail): string {
  const { name, pool, number, digest, trouble, list, leftOut } = found;
  const lines: [string, string][] = [
    ['server', name],
    ['pool', pool],
    ['listing', number === null ? 'none' : `${number}, digest ${digest}`],
    ...(trouble === null ? [] : [['state', escapedLine(trouble)] as [string, string]]),
    ...(found.isAsked === false
      ? [['asked', 'it was not heard in time: this is what was known'] as [string, string]]
      : []),
  ];
  const tools =
    list.length === 0
      ? []
      : [
          '',
          table(
            ['TOOL', 'FOR MODELS', 'CLASS', 'ITS HINTS SAY', 'DESCRIPTION'],
            list.map((tool) => [
              escapedLine(tool.tool),
              tool.name,
              words(tool),
              words(tool.proposed),
              cut(escapedLine(tool.description), 60),
            ]),
          ),
        ];
  return [
    ...lines.map(([field, value]) => `${field.padEnd(12)}${value}`),
    ...tools,
    ...leftOut.map(({ tool, why }) => `left out: ${escapedLine(tool)}: ${escapedLine(why)}`),
    ...(found.change ? ['', changeText(found)] : []),
  ].join('\n');
}

/** All that a model would read of it anew. */
function changeText({ name, held, change, heldTools }: ServerDetail, isOffered = true): string {
  if (!change) return 'nothing has changed';
  const total = change.added.length + change.changed.length;
  const shown = heldTools.length;
  const list = (word: string, names: readonly string[]) =>
    names.length > 0 ? [`${word.padEnd(12)}${names.map(escapedLine).join(', ')}`] : [];
  return [
    ...list('new', change.added),
    ...list('gone', change.removed),
    ...list('changed', change.changed),
    ...heldTools.flatMap(({ tool, description, input, before, now }) => [
      '',
      `${escapedLine(tool)}  ${before ? `${words(before)} -> ` : ''}${now ? words(now) : 'left out'}`,
      indented(escaped(description)),
      indented(escaped(JSON.stringify(input))),
    ]),
    ...(shown < total ? ['', `${total - shown} more are too large to be shown here`] : []),
    ...(isOffered ? ['', hint(`next: understudy mcp accept ${name} --digest ${held}`)] : []),
  ].join('\n');
}
