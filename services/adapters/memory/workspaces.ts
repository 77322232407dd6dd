import { createHash } from 'node:crypto';
import {
  beginningOf,
  headAfter,
  type WorkspaceHead,
  workspaceChanged,
} from '../../core/tools/workspace-head.ts';
import type { Workspaces } from '../../ports/sandboxes.ts';

export function memoryWorkspaces(): Workspaces {
  const heads = new Map<string, WorkspaceHead>();
  const archives = new Map<string, Uint8Array>();
  return {
    latest: async (tenant, session, effect) =>
      beginningOf(heads.get(`${tenant}/${session}`), effect),
    async load(tenant, session, { digest }) {
      const found = archives.get(`${tenant}/${session}/${digest}`);
      if (!found) throw workspaceChanged(session);
      return found;
    },
    async save(tenant, session, effect, before, archive) {
      const key = `${tenant}/${session}`;
      const checkpoint = {
        digest: createHash('sha256').update(archive).digest('hex').slice(0, 32),
        bytes: archive.length,
      };
      const stale = heads.get(key)?.before;
      heads.set(key, headAfter(heads.get(key), { session, effect, before, checkpoint }));
      archives.set(`${key}/${checkpoint.digest}`, Uint8Array.from(archive));
      if (stale && stale.digest !== before?.digest && stale.digest !== checkpoint.digest)
        archives.delete(`${key}/${stale.digest}`);
      return checkpoint;
    },
  };
}
