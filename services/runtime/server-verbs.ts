/** What operators ask about MCP servers. */
import { z } from 'zod';
import { Refused } from '../core/errors.ts';
import { fitting } from '../core/fitting.ts';
import { limits } from '../core/limits.ts';
import { changeOf, digestOf, type Listing } from '../core/tools/mcp-listing.ts';
import { toolsOf } from '../core/tools/mcp-server.ts';
import type { ServerDetail, ServerSummary } from '../core/wire/control-answers.ts';
import type { Clock } from '../ports/clock.ts';
import { type ServerListings, type ServerState, troubleOf } from './listings.ts';

export interface ServerPorts {
  readonly listings: ServerListings;
  readonly clock: Clock;
}

export const serverSchema = z
  .object({
    name: z.string(),
    ask: z.boolean().default(false).describe('the server, before it is answered'),
  })
  .strict();
export const signInSchema = z
  .object({ name: z.string(), callback: z.string().max(8_192).optional() })
  .strict();
export const acceptSchema = z
  .object({ name: z.string(), digest: z.string().describe('of what was looked at') })
  .strict();

const askedMs = 4_200; // how long an operator waits for a server; it is asked on all the same
const descriptionMax = 200; // characters, in a table

const summaryOf = (server: ServerState): ServerSummary => {
  const { name, spec, inForce, held } = server;
  const there = inForce ? toolsOf(name, spec, inForce.listing) : undefined;
  return {
    name,
    pool: spec.pool,
    tools: there?.tools.length ?? 0,
    refused: there?.refused.length ?? 0,
    number: inForce?.number ?? null,
    digest: inForce ? digestOf(inForce.listing) : null,
    held: held ? digestOf(held) : null,
    trouble: troubleOf(server) ?? null,
  };
};

/** Has it said something by now? It is asked on all the same. */
const isAnswered = (name: string, { listings, clock }: ServerPorts): Promise<boolean> =>
  Promise.race([
    listings.ask(name).then(({ trouble }) => trouble === undefined),
    clock.sleep(askedMs).then(() => false),
  ]);

export const servers = async ({ listings }: ServerPorts): Promise<ServerSummary[]> =>
  listings.states().map(summaryOf);

/** @throws Refused (SERVER_UNKNOWN) */
export async function server(
  { name, ask }: z.infer<typeof serverSchema>,
  { listings, clock }: ServerPorts,
): Promise<ServerDetail> {
  const isAsked = ask && (await isAnswered(name, { listings, clock }));
  return { ...detailOf(listings.named(name)), isAsked: ask ? isAsked : null };
}

/** @throws Refused (SERVER_UNKNOWN, NOTHING_HELD, LISTING_CHANGED) */
export async function acceptListing(
  { name, digest }: z.infer<typeof acceptSchema>,
  { listings, clock }: ServerPorts,
): Promise<ServerDetail> {
  // Another runtime may have heard it.
  const isKnown = listings.named(name).held !== undefined;
  if (!isKnown && !(await isAnswered(name, { listings, clock })))
    throw new Refused('MCP_UNHEARD', `McpServer ${name} was not heard within ${askedMs} ms`);
  return detailOf(await listings.accept(name, digest));
}

/** @throws Refused (SERVER_UNKNOWN, SIGN_IN_REFUSED, SIGN_IN_STALE, CREDENTIAL_KEY_MISSING, MCP_UNHEARD) */
export const signIn = async (
  { name, callback }: z.infer<typeof signInSchema>,
  { listings }: ServerPorts,
) => ({ url: await listings.signIn(name, callback) });

function detailOf(state: ServerState): ServerDetail {
  const { name, spec, inForce, held } = state;
  const there = inForce && toolsOf(name, spec, inForce.listing);
  return {
    ...summaryOf(state),
    list: (there?.tools ?? []).map(({ tool, name: known, spec: one, asksPerson, proposed }) => ({
      tool,
      name: known,
      class: one.class,
      asksPerson,
      proposed,
      description: one.description.slice(0, descriptionMax),
    })),
    leftOut: there?.refused ?? [],
    change: inForce && held ? changeOf(inForce.listing, held) : null,
    isAsked: null,
    heldTools: inForce && held ? changedTools(state, held) : [],
  };
}

/** What a person must see before it is accepted: words and schemas whole, and who is asked. */
function changedTools({ name, spec, inForce }: ServerState, held: ServerState['held']) {
  if (!inForce || !held) return [];
  const { added, changed } = changeOf(inForce.listing, held);
  const names = new Set([...added, ...changed]);
  const rulesIn = (listing: Listing) =>
    new Map(
      toolsOf(name, spec, listing).tools.map(({ tool, spec: one, asksPerson }) => [
        tool,
        { class: one.class, asksPerson },
      ]),
    );
  const [before, now] = [rulesIn(inForce.listing), rulesIn(held)];
  const all = held.tools
    .filter((one) => names.has(one.name))
    .map((one) => ({
      tool: one.name,
      description: one.description,
      input: one.input,
      before: before.get(one.name) ?? null,
      now: now.get(one.name) ?? null,
    }));
  return fitting(all, limits.conversationBytesMax);
}
