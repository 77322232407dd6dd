/**
 * A broken spec removes nothing: its agents keep their last good revision.
 *
 * B1  An agent whose text is broken goes on with the revision that ran last, also in a runtime that
 *     never saw it whole.
 * B2  A task whose agent or tenant may stand in a text that is broken waits; it is no dead letter.
 */
import type { AgentName } from '../core/ids.ts';
import type { Archive } from '../ports/archive.ts';
import type { LoadedSpecs } from '../ports/specs.ts';

/** The catalog, with the last revision of each agent that a broken text names (B1). */
export async function withLastGood(
  loaded: LoadedSpecs,
  archive: Pick<Archive, 'lastBundles'>,
): Promise<LoadedSpecs> {
  const { agents } = loaded.catalog;
  const unsure = loaded.unsure?.names ?? [];
  const wanted = new Set([...unsure].filter((name) => !agents.has(name as AgentName)));
  if (wanted.size === 0) return loaded;
  const last = await archive.lastBundles();
  const all = new Map(agents);
  const lastGood = new Set(loaded.lastGood);
  for (const [name, found] of last) {
    if (!wanted.has(name)) continue;
    all.set(name, found);
    lastGood.add(name);
  }
  return { ...loaded, catalog: { ...loaded.catalog, agents: all }, lastGood };
}

/** May it stand in a text that is broken now? (B2) */
export const isUnsure = ({ unsure }: LoadedSpecs, name: string): boolean =>
  unsure !== undefined && (unsure.isAny || unsure.names.has(name));
