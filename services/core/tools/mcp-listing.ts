/**
 * What an MCP server says it can do, as it is stored: without what a listing may say by the way, in
 * one order, so that the same tools make the same hash.
 *
 * L1  Nothing of a listing is believed but names, words and schemas. A hint may make a tool stricter;
 *     it makes it looser only where its document trusts the server.
 */
import canonicalize from 'canonicalize';
import { z } from 'zod';
import { sha256 } from '../ids.ts';
import { withoutUnknownFormats } from '../schema/json-schema.ts';

const hintsSchema = z.object({
  readOnly: z.boolean().optional(),
  destructive: z.boolean().optional(),
  idempotent: z.boolean().optional(),
});

const listedToolSchema = z.object({
  name: z.string().min(1).max(128),
  description: z.string(),
  input: z.record(z.string(), z.unknown()),
  hints: hintsSchema,
});
export type ListedTool = z.infer<typeof listedToolSchema>;

export const listedMax = 1_000; // tools of one server
const descriptionMax = 8_000; // characters: a model reads them with every call

export const listingSchema = z.object({ tools: z.array(listedToolSchema).max(listedMax) });
export type Listing = z.infer<typeof listingSchema>;

/** One tool of `tools/list`; what does not parse is left out, and counted. */
const toldSchema = z.looseObject({
  name: z.string().min(1).max(128),
  title: z.string().optional().catch(undefined),
  description: z.string().optional().catch(undefined),
  inputSchema: z.record(z.string(), z.unknown()).catch({ type: 'object' }),
  annotations: z
    .looseObject({
      readOnlyHint: z.boolean().optional().catch(undefined),
      destructiveHint: z.boolean().optional().catch(undefined),
      idempotentHint: z.boolean().optional().catch(undefined),
    })
    .catch({})
    .default({}),
});

const depthMax = 100; // of a tool with its schema

/** Deeper than whoever reads it later may go. */
function isDeep(value: unknown): boolean {
  let level = [value];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > depthMax) return true;
    level = level.flatMap((one) =>
      typeof one === 'object' && one !== null ? Object.values(one) : [],
    );
  }
  return false;
}

/** What a server told, each tool as it came, made one value: sorted, each name once. */
export function listingOf(told: readonly unknown[]): Listing {
  const tools = new Map<string, ListedTool>();
  for (const one of told) {
    if (isDeep(one)) continue;
    const { success, data } = toldSchema.safeParse(one);
    if (!success || tools.has(data.name)) continue;
    const { name, title, description, inputSchema, annotations } = data;
    const { readOnlyHint, destructiveHint, idempotentHint } = annotations;
    tools.set(name, {
      name,
      description: (description || title || name).toWellFormed().slice(0, descriptionMax),
      input: withoutUnknownFormats(inputSchema),
      hints: {
        ...(readOnlyHint === undefined ? {} : { readOnly: readOnlyHint }),
        ...(destructiveHint === undefined ? {} : { destructive: destructiveHint }),
        ...(idempotentHint === undefined ? {} : { idempotent: idempotentHint }),
      },
    });
  }
  return { tools: [...tools.values()].sort((left, right) => (left.name < right.name ? -1 : 1)) };
}

/** Which listing it is, in short. */
export const digestOf = (listing: Listing): string =>
  sha256(canonicalize(listing) ?? '').slice(0, 32);

export interface ListingChange {
  readonly added: readonly string[];
  readonly removed: readonly string[];
  readonly changed: readonly string[];
}

export function changeOf(before: Listing, now: Listing): ListingChange {
  const textOf = (one: ListedTool) => canonicalize(one) ?? '';
  const old = new Map(before.tools.map((one) => [one.name, textOf(one)]));
  const names = new Set(now.tools.map(({ name }) => name));
  return {
    added: now.tools.filter(({ name }) => !old.has(name)).map(({ name }) => name),
    removed: before.tools.filter(({ name }) => !names.has(name)).map(({ name }) => name),
    changed: now.tools
      .filter((one) => old.has(one.name) && old.get(one.name) !== textOf(one))
      .map(({ name }) => name),
  };
}

/** `2 new, 1 changed` */
export const changeText = ({ added, removed, changed }: ListingChange): string =>
  [
    [added.length, 'new'] as const,
    [removed.length, 'gone'] as const,
    [changed.length, 'changed'] as const,
  ]
    .filter(([count]) => count > 0)
    .map(([count, word]) => `${count} ${word}`)
    .join(', ');
