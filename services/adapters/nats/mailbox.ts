/** MAIL: the log of what sessions hear. Envelopes for one shard that gather during a publish leave as one message. */
import { Unavailable } from '../../core/errors.ts';
import type { ShardId } from '../../core/ids.ts';
import { encodeEnvelope, parseMail } from '../../core/wire/envelopes.ts';
import type { MailBatch, Mailbox } from '../../ports/mailbox.ts';
import { ask, batchBytesOf, lastMessage, type Nats } from './connection.ts';
import { Gatherer, joined } from './gatherer.ts';
import { decodeMail, encodeMail } from './mail-codec.ts';
import { lastSequenceOf, type OrderedMessage, OrderedReader, readAll } from './ordered-reader.ts';

export function natsMailbox(nats: Nats): Mailbox {
  const { subjects, streams, publisher } = nats;
  const gatherer = new Gatherer(
    (shard, texts) =>
      publisher.publish(subjects.mailBatch(Number(shard)), encodeMail(joined(texts))),
    () => batchBytesOf(nats),
  );
  const batchOf = (shard: ShardId, { sequence, at, bytes }: OrderedMessage): MailBatch => ({
    shard,
    sequence,
    at,
    items: parseMail(decodeMail(bytes())),
  });
  return {
    deliver: (shard, envelope, company) =>
      gatherer.add(String(shard), encodeEnvelope(envelope), company),

    async read(shard, afterSequence, onBatch, onReset) {
      const reader = new OrderedReader(
        nats,
        { stream: streams.mail, filter: subjects.mailOf(shard), afterSequence },
        (message) => onBatch(batchOf(shard, message)),
        onReset ?? (() => undefined),
      );
      await reader.start();
      return reader;
    },

    readTo: (shard, afterSequence, upTo, onBatch) =>
      readAll(
        nats,
        { stream: streams.mail, filter: subjects.mailOf(shard), afterSequence, upTo },
        (message) => onBatch(batchOf(shard, message)),
      ),

    async bounds() {
      const info = await ask<{ created: string; state: { first_seq: number; last_seq: number } }>(
        nats,
        `$JS.API.STREAM.INFO.${streams.mail}`,
        undefined,
      );
      if (info.error)
        throw new Unavailable(
          'NATS_UNAVAILABLE',
          `stream ${streams.mail}: ${info.error.description}`,
        );
      return {
        first: info.state.first_seq,
        last: info.state.last_seq,
        created: Date.parse(info.created),
      };
    },

    async timeOf(sequence) {
      if (sequence < 1) return undefined;
      return (await lastMessage(nats, streams.mail, { seq: sequence }))?.at;
    },

    lastOf: (shard) => lastSequenceOf(nats, streams.mail, subjects.mailOf(shard)),

    async answers(withinMs) {
      try {
        const info = await ask<object>(
          nats,
          `$JS.API.STREAM.INFO.${streams.mail}`,
          undefined,
          withinMs,
        );
        return info.error === undefined;
      } catch {
        return false;
      }
    },

    trouble: () => publisher.trouble,

    async trim(beforeSequence) {
      if (beforeSequence <= 1) return;
      // By sequence only: a purge by subject stalls all publishers on NATS 2.9.
      await ask(nats, `$JS.API.STREAM.PURGE.${streams.mail}`, { seq: beforeSequence }, 30_000);
    },
  };
}
