/** WORKSPACES: files of sessions between their calls, as compressed archives in chunks named by their digest, and a head that names the digest. */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import { Unavailable } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import type { Workspaces } from '../../ports/sandboxes.ts';
import { ask, lastMessage, type Nats } from './connection.ts';

const headSchema = z.object({ digest: z.string().regex(/^[0-9a-f]{32}$/), bytes: z.number().int().nonnegative(), chunks: z.number().int().positive() });

export function natsWorkspaces(nats: Nats): Workspaces {
  const { subjects, streams, publisher } = nats;
  const digestOf = (archive: Uint8Array) => createHash('sha256').update(archive).digest('hex').slice(0, 32);
  const headOf = async (tenant: string, session: string) => {
    const message = await lastMessage(nats, streams.workspaces, { last_by_subj: subjects.workspace(tenant, session, 'head') });
    return message && headSchema.parse(JSON.parse(message.text));
  };
  return {
    latest: headOf,

    async load(tenant, session, { digest }) {
      const head = await headOf(tenant, session);
      if (head?.digest !== digest) throw new Unavailable('WORKSPACE_CHANGED', `the workspace of ${session} has been saved anew in the meantime`);
      const chunks: Buffer[] = [];
      for (let index = 0; index < head.chunks; index += 1) {
        const message = await lastMessage(nats, streams.workspaces, { last_by_subj: subjects.workspace(tenant, session, `${digest}.${index}`) });
        if (!message) throw new Unavailable('WORKSPACE_INCOMPLETE', `part ${index} of the workspace of ${session} is missing`);
        chunks.push(message.bytes);
      }
      const archive = Buffer.concat(chunks);
      if (digestOf(archive) !== digest) throw new Unavailable('WORKSPACE_INCOMPLETE', `the workspace of ${session} is not what its head says`);
      return archive;
    },

    async save(tenant, session, archive) {
      const digest = digestOf(archive);
      const before = await headOf(tenant, session);
      if (before?.digest === digest) return before;
      const chunks = Math.max(1, Math.ceil(archive.length / limits.workspaceChunkBytes));
      // One after the other, so that a large workspace does not fill the connection. The head comes last: until then the old one stands.
      for (let index = 0; index < chunks; index += 1) {
        const part = archive.subarray(index * limits.workspaceChunkBytes, (index + 1) * limits.workspaceChunkBytes);
        await publisher.publish(subjects.workspace(tenant, session, `${digest}.${index}`), part);
      }
      await publisher.publish(subjects.workspace(tenant, session, 'head'), JSON.stringify({ digest, bytes: archive.length, chunks }));
      // What nobody's head names any more; if this fails, its age removes it.
      if (before) await ask(nats, `$JS.API.STREAM.PURGE.${streams.workspaces}`, { filter: subjects.workspace(tenant, session, `${before.digest}.*`) }).catch(() => undefined);
      return { digest, bytes: archive.length };
    },
  };
}
