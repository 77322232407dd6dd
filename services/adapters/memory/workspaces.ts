import { createHash } from 'node:crypto';
import { Unavailable } from '../../core/errors.ts';
import type { Checkpoint, Workspaces } from '../../ports/sandboxes.ts';

interface Held {
  readonly effect: string;
  readonly checkpoint: Checkpoint;
  readonly before: Checkpoint | undefined;
}

export function memoryWorkspaces(): Workspaces {
  const heads = new Map<string, Held>();
  const archives = new Map<string, Uint8Array>();
  const seenBy = (key: string, effect: string) => {
    const head = heads.get(key);
    return head?.effect === effect ? head.before : head?.checkpoint;
  };
  const changed = (session: string) => new Unavailable('WORKSPACE_CHANGED', `the workspace of ${session} has been saved anew in the meantime`);
  return {
    latest: async (tenant, session, effect) => seenBy(`${tenant}/${session}`, effect),
    async load(tenant, session, { digest }) {
      const found = archives.get(`${tenant}/${session}/${digest}`);
      if (!found) throw changed(session);
      return found;
    },
    async save(tenant, session, effect, before, archive) {
      const key = `${tenant}/${session}`;
      if (seenBy(key, effect)?.digest !== before?.digest) throw changed(session);
      const checkpoint = { digest: createHash('sha256').update(archive).digest('hex').slice(0, 32), bytes: archive.length };
      archives.set(`${key}/${checkpoint.digest}`, Uint8Array.from(archive));
      const stale = heads.get(key)?.before;
      heads.set(key, { effect, checkpoint, before });
      if (stale && stale.digest !== before?.digest && stale.digest !== checkpoint.digest) archives.delete(`${key}/${stale.digest}`);
      return checkpoint;
    },
  };
}
