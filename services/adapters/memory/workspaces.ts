import { createHash } from 'node:crypto';
import { Unavailable } from '../../core/errors.ts';
import type { Checkpoint, Workspaces } from '../../ports/sandboxes.ts';

export function memoryWorkspaces(): Workspaces {
  const held = new Map<string, { checkpoint: Checkpoint; archive: Uint8Array }>();
  return {
    latest: async (tenant, session) => held.get(`${tenant}/${session}`)?.checkpoint,
    async load(tenant, session, { digest }) {
      const found = held.get(`${tenant}/${session}`);
      if (found?.checkpoint.digest !== digest) throw new Unavailable('WORKSPACE_CHANGED', `the workspace of ${session} has been saved anew in the meantime`);
      return found.archive;
    },
    async save(tenant, session, archive) {
      const checkpoint = { digest: createHash('sha256').update(archive).digest('hex').slice(0, 32), bytes: archive.length };
      held.set(`${tenant}/${session}`, { checkpoint, archive: Uint8Array.from(archive) });
      return checkpoint;
    },
  };
}
