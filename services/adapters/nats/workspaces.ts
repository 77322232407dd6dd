/**
 * WORKSPACES: files of sessions between their calls, as compressed archives in chunks named by their digest, and a head that names the digest,
 * the effect that saved it, and what was there before that effect.
 */
import { createHash } from 'node:crypto';
import { Refused } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import {
  beginningOf,
  headAfter,
  workspaceChanged,
  workspaceHeadSchema,
} from '../../core/tools/workspace-head.ts';
import type { Workspaces } from '../../ports/sandboxes.ts';
import { ask, lastMessage, type Nats } from './connection.ts';
import { isOvertaken } from './publisher.ts';

export function natsWorkspaces(nats: Nats): Workspaces {
  const { subjects, streams, publisher } = nats;
  const digestOf = (archive: Uint8Array) =>
    createHash('sha256').update(archive).digest('hex').slice(0, 32);
  const headOf = async (tenant: string, session: string) => {
    const message = await lastMessage(nats, streams.workspaces, {
      last_by_subj: subjects.workspace(tenant, session, 'head'),
    });
    return (
      message && {
        sequence: message.seq,
        head: workspaceHeadSchema.parse(JSON.parse(message.text)),
      }
    );
  };
  return {
    latest: async (tenant, session, effect) =>
      beginningOf((await headOf(tenant, session))?.head, effect),

    async load(tenant, session, { digest, bytes }) {
      const chunks: Buffer[] = [];
      for (
        let index = 0;
        index < Math.max(1, Math.ceil(bytes / limits.workspaceChunkBytes));
        index += 1
      ) {
        const message = await lastMessage(nats, streams.workspaces, {
          last_by_subj: subjects.workspace(tenant, session, `${digest}.${index}`),
        });
        if (!message) throw workspaceChanged(session);
        chunks.push(message.bytes);
      }
      const archive = Buffer.concat(chunks);
      if (digestOf(archive) !== digest)
        throw new Refused(
          'WORKSPACE_UNREADABLE',
          `the workspace of ${session} is not what its head says`,
        );
      return archive;
    },

    async save(tenant, session, effect, before, archive) {
      const digest = digestOf(archive);
      const checkpoint = { digest, bytes: archive.length };
      const stored = await headOf(tenant, session);
      const next = headAfter(stored?.head, { session, effect, before, checkpoint });
      // One after the other, so that a large workspace does not fill the connection. The head comes last: until then the old one stands.
      for (
        let index = 0;
        index < Math.max(1, Math.ceil(archive.length / limits.workspaceChunkBytes));
        index += 1
      ) {
        const part = archive.subarray(
          index * limits.workspaceChunkBytes,
          (index + 1) * limits.workspaceChunkBytes,
        );
        await publisher.publish(subjects.workspace(tenant, session, `${digest}.${index}`), part);
      }
      try {
        await publisher.publish(subjects.workspace(tenant, session, 'head'), JSON.stringify(next), {
          headers: { 'Nats-Expected-Last-Subject-Sequence': String(stored?.sequence ?? 0) },
        });
      } catch (error) {
        // Or it was our own first copy, whose ack was lost: then it stands.
        if (!isOvertaken(error)) throw error;
        const now = (await headOf(tenant, session))?.head;
        if (now?.effect !== effect || now.digest !== digest) throw workspaceChanged(session);
      }
      // What no head names any more, neither as now nor as before; if this fails, its age removes it.
      for (const stale of [stored?.head.digest, stored?.head.before?.digest]) {
        if (stale === undefined || stale === digest || stale === before?.digest) continue;
        await ask(nats, `$JS.API.STREAM.PURGE.${streams.workspaces}`, {
          filter: subjects.workspace(tenant, session, `${stale}.*`),
        }).catch(() => undefined);
      }
      return checkpoint;
    },
  };
}
