/** What an MCP server can do, page by page. */
import type { Client } from '@modelcontextprotocol/client';
import { z } from 'zod';
import { messageOf, Refused } from '../../core/errors.ts';
import { failed, type Outcome } from '../../core/tools/job.ts';
import { type Listing, listedMax, listingOf } from '../../core/tools/mcp-listing.ts';
import type { McpRun } from '../../core/tools/mcp-run.ts';
import { withoutSecrets } from '../../core/tools/placeholders.ts';
import type { Connections, Line } from './connections.ts';
import { orAborted, whyNotReached } from './failures.ts';
import { whyNoToken } from './oauth.ts';

const pagesMax = 200; // a server may lead in circles
const bytesMax = 8 * 1024 * 1024; // of all pages, as JSON
const whyMax = 600; // characters

const pageSchema = z.looseObject({
  tools: z.array(z.unknown()).default([]),
  nextCursor: z.string().min(1).optional().catch(undefined),
});

/** All tools of a server; of what it says by the way nothing. */
export async function listed(
  connections: Connections,
  run: McpRun,
  signal: AbortSignal,
): Promise<Outcome<Listing>> {
  const refused = (failureClass: 'transient' | 'permanent', code: string, why: string) =>
    failed(failureClass, code, withoutSecrets(why, connections.secretsOf(run)).slice(0, whyMax));
  let line: Line;
  try {
    line = connections.lineOf(run, '');
  } catch (error) {
    return refused('transient', 'MCP_BUSY', messageOf(error));
  }
  line.calls += 1;
  let isConnected = false;
  try {
    const client = await orAborted(line.client, signal);
    isConnected = true;
    const told = await pagesOf(client, signal);
    line.heardAt = performance.now();
    return told.length > listedMax
      ? refused('permanent', 'MCP_LISTING_TOO_LARGE', `it has more than ${listedMax} tools`)
      : { ok: true, value: listingOf(told) };
  } catch (error) {
    if (!signal.aborted && run.url) line.retire();
    if (error instanceof Refused) return refused('permanent', error.code, error.message);
    const untold = whyNoToken(error);
    if (untold) return refused('permanent', 'MCP_UNAUTHORIZED', `no token: ${untold.message}`);
    // It may have said why a moment later than it ended.
    await new Promise((resolve) => setTimeout(resolve, 20));
    const said = connections.saidOn(line, undefined, isConnected);
    return isConnected
      ? refused(
          'transient',
          'MCP_BROKEN',
          `its tools could not be listed: ${messageOf(error)}${said}`,
        )
      : refused(
          'transient',
          'MCP_UNREACHABLE',
          `it could not be reached: ${whyNotReached(error)}${said}`,
        );
  } finally {
    connections.left(line);
  }
}

/**
 * Each page once; more than can be kept is not asked for.
 *
 * @throws Refused (MCP_LISTING_TOO_LARGE)
 */
async function pagesOf(client: Client, signal: AbortSignal): Promise<unknown[]> {
  const told: unknown[] = [];
  const seen = new Set<string>();
  let cursor: string | undefined;
  let bytes = 0;
  for (let page = 0; page < pagesMax && told.length <= listedMax; page += 1) {
    const params = cursor === undefined ? {} : { cursor };
    const answer = await client.request({ method: 'tools/list', params }, pageSchema, { signal });
    const { tools, nextCursor } = pageSchema.parse(answer);
    told.push(...tools);
    bytes += JSON.stringify(tools).length;
    if (bytes > bytesMax)
      throw new Refused('MCP_LISTING_TOO_LARGE', `its tools take more than ${bytesMax} bytes`);
    if (nextCursor === undefined || seen.has(nextCursor)) return told;
    seen.add(nextCursor);
    cursor = nextCursor;
  }
  return told;
}
