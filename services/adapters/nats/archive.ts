/** ARCHIVE and BUNDLES: baselines as compressed objects, one subject per session; bundles by revision. */
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { z } from 'zod';
import { isNewer, issuesOf, messageOf, Refused } from '../../core/errors.ts';
import type { AgentName, Revision, SessionId, ShardId } from '../../core/ids.ts';
import { jsonStored } from '../../core/json.ts';
import { currentBehaviour } from '../../core/session/behaviour.ts';
import { messageSchema } from '../../core/session/messages.ts';
import { parseRecord } from '../../core/session/migrate.ts';
import { positionSchema } from '../../core/session/record.ts';
import { type Bundle, bundleSchema, revisionOf } from '../../core/session/specs.ts';
import { type Listing, listingSchema } from '../../core/tools/mcp-listing.ts';
import type { Archive, Baseline } from '../../ports/archive.ts';
import { chunksOf, isChunk, joined } from './baseline-chunks.ts';
import { lastMessage, type Nats } from './connection.ts';
import { readAll } from './ordered-reader.ts';
import { isOvertaken } from './publisher.ts';

const mailSchema = z.array(
  z.object({ message: messageSchema, at: z.number(), position: positionSchema }),
);

const packedBytesMax = 700_000; // of the broker's max_payload of 1 MiB
const pack = (record: string, mail: readonly string[], part: number): Buffer =>
  deflateRawSync(`{"record":${record},"mail":[${mail.join(',')}],"part":${part}}`, { level: 6 });

/** A baseline as it is stored. @throws Refused (BASELINE_POISONED, BASELINE_NEWER) for what does not parse here */
export function unpack(packed: Uint8Array): Baseline & { part: number } {
  try {
    const stored = JSON.parse(inflateRawSync(packed).toString('utf8')) as {
      record: unknown;
      mail: unknown;
      part?: number;
    };
    return {
      record: parseRecord(JSON.stringify(stored.record)),
      mail: mailSchema.parse(stored.mail),
      part: stored.part ?? 0,
    };
  } catch (error) {
    if (isNewer(error)) throw new Refused('BASELINE_NEWER', error.message, { cause: error });
    throw new Refused('BASELINE_POISONED', 'an archived baseline does not parse', { cause: error });
  }
}

const withoutPart = ({ record, mail }: Baseline): Baseline => ({ record, mail });

/** @throws Refused for one that this version cannot read */
function bundleOf(revision: Revision, text: string): Bundle {
  const stored = jsonStored(text);
  const { behaviour } = (stored ?? {}) as { behaviour?: unknown };
  if (typeof behaviour === 'number' && behaviour > currentBehaviour)
    throw new Refused(
      'BUNDLE_NEWER',
      `the bundle of revision ${revision} has behaviour ${behaviour}; this release knows ${currentBehaviour}`,
    );
  // From it a session takes its prompts, its tools and its code.
  if (stored !== undefined && revisionOf(stored as Bundle) !== revision)
    throw new Refused(
      'BUNDLE_CHANGED',
      `what is stored as the bundle of revision ${revision} is another`,
    );
  const parsed = bundleSchema.safeParse(stored);
  if (!parsed.success)
    throw new Refused(
      'BUNDLE_UNREADABLE',
      `the bundle of revision ${revision} does not parse here: ${issuesOf(parsed.error)}`,
    );
  return parsed.data;
}

const listingLengthMax = 4 * 1024 * 1024; // characters, as JSON: each has three bytes at the most

/** @returns undefined for what does not parse */
function listingIn(bytes: Uint8Array): Listing | undefined {
  try {
    const text = inflateRawSync(bytes, { maxOutputLength: 3 * listingLengthMax });
    return listingSchema.safeParse(jsonStored(text.toString('utf8'))).data;
  } catch {
    return undefined;
  }
}

export function natsArchive(nats: Nats): Archive {
  const { subjects, streams, publisher } = nats;
  const bundles = new Map<Revision, Promise<Bundle | undefined>>();
  const last = async (stream: string, subject: string): Promise<string | undefined> =>
    (await lastMessage(nats, stream, { last_by_subj: subject }))?.text;
  const chainOf = async (shard: ShardId, session: SessionId): Promise<Baseline[]> => {
    const packed: Uint8Array[] = [];
    await readAll(
      nats,
      { stream: streams.archive, filter: subjects.archive(shard, session), afterSequence: 0 },
      (message) => packed.push(message.bytes()),
    );
    // A baseline that was written twice (its writer died before it could note the first) counts once.
    const kept: (Baseline & { part: number })[] = [];
    for (const baseline of joined(packed).map(unpack)) {
      const before = kept.at(-1);
      if (
        !before ||
        baseline.record.version > before.record.version ||
        (baseline.record.version === before.record.version && baseline.part > before.part)
      )
        kept.push(baseline);
    }
    return kept.map(withoutPart);
  };
  return {
    async append(shard, record, all) {
      const subject = subjects.archive(shard, record.session);
      const recordText = JSON.stringify(record);
      let alone: number | undefined;
      const isRecordLarge = () => {
        alone ??= pack(recordText, [], 0).length;
        return alone > packedBytesMax;
      };
      const write = async (mail: readonly string[], part: number): Promise<number> => {
        const packed = pack(recordText, mail, part);
        // Where the record alone is too large, halves would each hold it.
        if (packed.length <= packedBytesMax || mail.length <= 1 || isRecordLarge()) {
          const messages =
            packed.length <= packedBytesMax ? [packed] : chunksOf(packed, packedBytesMax);
          for (const message of messages)
            await publisher.publish(subject, message, { pace: 'soon' });
          return part + 1;
        }
        // Halves, in order, each with the record: one message holds one, if it can.
        const half = Math.ceil(mail.length / 2);
        return write(mail.slice(half), await write(mail.slice(0, half), part));
      };
      await write(all, 0);
    },
    async latest(shard, session) {
      const message = await lastMessage(nats, streams.archive, {
        last_by_subj: subjects.archive(shard, session),
      });
      // Nothing fences the archive: an owner that was paused may write one of its past after the last. What counts is the version.
      return message && (await chainOf(shard, session)).at(-1);
    },
    chain: chainOf,
    async *latestOf(shard, onUnreadable, since) {
      const latest = new Map<SessionId, Baseline>();
      const newer: Refused[] = [];
      const inChunks = new Set<SessionId>();
      const which = since === undefined ? ({ deliver: 'last-per-subject' } as const) : { since };
      await readAll(
        nats,
        {
          stream: streams.archive,
          filter: subjects.archive(shard, '*'),
          afterSequence: 0,
          ...which,
        },
        (message) => {
          if (isChunk(message.bytes())) {
            inChunks.add(subjects.sessionOfArchive(message.subject));
            return;
          }
          try {
            const baseline = withoutPart(unpack(message.bytes()));
            latest.set(baseline.record.session, baseline);
          } catch (error) {
            if (isNewer(error)) newer.push(error);
            onUnreadable(subjects.sessionOfArchive(message.subject), messageOf(error));
          }
        },
      );
      for (const session of inChunks) {
        try {
          const baseline = (await chainOf(shard, session)).at(-1);
          if (baseline) latest.set(session, baseline);
        } catch (error) {
          if (!(error instanceof Refused)) throw error;
          if (isNewer(error)) newer.push(error);
          onUnreadable(session, messageOf(error));
        }
      }
      if (newer[0]) throw newer[0];
      yield* latest.values();
    },
    async putBundle(revision, bundle) {
      await publisher.publish(subjects.bundle(revision), JSON.stringify(bundle));
      bundles.set(revision, Promise.resolve(bundle));
    },
    async putMachine({ hash, text }) {
      await publisher.publish(subjects.machine(hash), text);
    },
    machine: (hash) => last(streams.bundles, subjects.machine(hash)),
    async putListing(hash, number, listing) {
      const text = JSON.stringify(listing);
      if (text.length > listingLengthMax)
        throw new Refused(
          'MCP_LISTING_TOO_LARGE',
          `what it says of its tools has ${text.length} characters, of ${listingLengthMax}`,
        );
      try {
        await publisher.publish(subjects.listing(hash, number), deflateRawSync(text), {
          headers: { 'Nats-Expected-Last-Subject-Sequence': '0' },
        });
        return true;
      } catch (error) {
        if (!isOvertaken(error)) throw error;
        return false;
      }
    },
    async lastListing(hash) {
      // They are stored in the order of their numbers.
      const query = { last_by_subj: subjects.listing(hash, '*') };
      const message = await lastMessage(nats, streams.bundles, query);
      if (!message) return undefined;
      const number = Number(message.subject.split('.').at(-1));
      return { number, listing: listingIn(message.bytes) };
    },
    async lastBundles() {
      const found = new Map<AgentName, { revision: Revision; bundle: Bundle }>();
      for (let seq = 1; ; seq += 1) {
        const message = await lastMessage(nats, streams.bundles, {
          seq,
          next_by_subj: subjects.bundle('*' as Revision),
        });
        if (!message) return found;
        seq = message.seq;
        const revision = message.subject.split('.').at(-1) as Revision;
        try {
          const bundle = bundleOf(revision, message.text);
          found.set(bundle.name, { revision, bundle });
        } catch (error) {
          if (!(error instanceof Refused)) throw error; // written by another version
        }
      }
    },
    bundle(revision) {
      let found = bundles.get(revision);
      if (!found) {
        found = last(streams.bundles, subjects.bundle(revision)).then((text) =>
          text === undefined ? undefined : bundleOf(revision, text),
        );
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
