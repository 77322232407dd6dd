/** ARCHIVE and BUNDLES: baselines as compressed objects, one subject per session; bundles by revision. */
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { z } from 'zod';
import { Refused } from '../../core/errors.ts';
import type { Revision, SessionId } from '../../core/ids.ts';
import { messageSchema } from '../../core/session/messages.ts';
import { parseRecord } from '../../core/session/migrate.ts';
import { positionSchema } from '../../core/session/record.ts';
import { type Bundle, bundleSchema } from '../../core/session/specs.ts';
import type { Archive, Baseline } from '../../ports/archive.ts';
import { ask, type Nats } from './connection.ts';
import { readAll } from './ordered-reader.ts';

const mailSchema = z.array(z.object({ message: messageSchema, at: z.number(), position: positionSchema }));

// Base64 of raw deflate: a publish body is text everywhere in this folder. A third larger, still a fifth of the JSON.
const pack = (baseline: Baseline): string => deflateRawSync(JSON.stringify(baseline), { level: 3 }).toString('base64');

function unpack(text: string): Baseline {
  try {
    const stored = JSON.parse(inflateRawSync(Buffer.from(text, 'base64')).toString('utf8')) as { record: unknown; mail: unknown };
    return { record: parseRecord(JSON.stringify(stored.record)), mail: mailSchema.parse(stored.mail) };
  } catch (error) {
    throw new Refused('BASELINE_POISONED', 'an archived baseline does not parse', { cause: error });
  }
}

export function natsArchive(nats: Nats): Archive {
  const { subjects, streams, publisher } = nats;
  const bundles = new Map<Revision, Promise<Bundle | undefined>>();
  const last = async (stream: string, subject: string): Promise<string | undefined> => {
    const answer = await ask<{ message?: { data: string } }>(nats, `$JS.API.STREAM.MSG.GET.${stream}`, { last_by_subj: subject });
    return answer.message ? Buffer.from(answer.message.data, 'base64').toString('utf8') : undefined;
  };
  return {
    async append(shard, baseline) {
      await publisher.publish(subjects.archive(shard, baseline.record.session), pack(baseline));
    },
    async latest(shard, session) {
      const text = await last(streams.archive, subjects.archive(shard, session));
      return text === undefined ? undefined : unpack(text);
    },
    async chain(shard, session) {
      const found: Baseline[] = [];
      await readAll(nats, { stream: streams.archive, filter: subjects.archive(shard, session), afterSequence: 0 }, (message) => found.push(unpack(message.text())));
      // A baseline that was written twice (its writer died before it could note the first) counts once.
      return found.filter((baseline, index) => index === 0 || baseline.record.version > found[index - 1]!.record.version);
    },
    async *latestOf(shard) {
      const latest = new Map<SessionId, Baseline>();
      await readAll(nats, { stream: streams.archive, filter: subjects.archive(shard, '*'), afterSequence: 0, deliver: 'last-per-subject' }, (message) => {
        const baseline = unpack(message.text());
        latest.set(baseline.record.session, baseline);
      });
      yield* latest.values();
    },
    async putBundle(revision, bundle) {
      await publisher.publish(subjects.bundle(revision), JSON.stringify(bundle));
      bundles.set(revision, Promise.resolve(bundle));
    },
    bundle(revision) {
      let found = bundles.get(revision);
      if (!found) {
        found = last(streams.bundles, subjects.bundle(revision)).then((text) => (text === undefined ? undefined : bundleSchema.parse(JSON.parse(text))));
        bundles.set(revision, found);
        // What was not there, or could not be read, is looked for again next time.
        found.then(
          (bundle) => bundle ?? bundles.delete(revision),
          () => bundles.delete(revision),
        );
      }
      return found;
    },
  };
}
