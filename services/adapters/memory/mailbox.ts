/** MAIL in memory: an array and its readers. Deliveries may be made to fail on purpose. */
import { Unavailable } from '../../core/errors.ts';
import type { ShardId } from '../../core/ids.ts';
import { encodeEnvelope, parseMail } from '../../core/wire/envelopes.ts';
import type { Clock } from '../../ports/clock.ts';
import type { MailBatch, Mailbox, Reading } from '../../ports/mailbox.ts';

interface Stored {
  readonly sequence: number;
  readonly shard: ShardId;
  readonly at: number;
  readonly text: string;
}

export interface MemoryMailbox extends Mailbox {
  /** While set, deliveries are refused as if the broker were away. */
  isDown: boolean;
  /** Put a raw body into the log, well-formed or not. */
  inject(shard: ShardId, text: string): void;
}

export function memoryMailbox(clock: Pick<Clock, 'now'>): MemoryMailbox {
  const log: Stored[] = [];
  const created = clock.now();
  let last = 0;
  let first = 1;
  const readers = new Set<{
    shard: ShardId;
    next: number;
    isPaused: boolean;
    isScheduled: boolean;
    onBatch: (batch: MailBatch) => void;
  }>();
  const feed = (reader: Parameters<typeof readers.add>[0]) => {
    if (reader.isScheduled || reader.isPaused) return;
    reader.isScheduled = true;
    setImmediate(() => {
      reader.isScheduled = false;
      for (const { sequence, shard, at, text } of log.slice(Math.max(0, reader.next - first))) {
        if (reader.isPaused || !readers.has(reader)) return;
        if (sequence < reader.next) continue;
        reader.next = sequence + 1;
        // Parsed from text, as on the wire: what JSON would lose is lost here as well.
        if (shard === reader.shard) reader.onBatch({ shard, sequence, at, items: parseMail(text) });
      }
    });
  };
  const append = (shard: ShardId, text: string) => {
    last += 1;
    log.push({ sequence: last, shard, at: clock.now(), text });
    for (const reader of readers) if (reader.shard === shard) feed(reader);
  };
  const mailbox: MemoryMailbox = {
    isDown: false,
    inject: append,
    async deliver(shard, envelope) {
      if (mailbox.isDown) throw new Unavailable('MAILBOX_DOWN', 'the mailbox is down');
      append(shard, encodeEnvelope(envelope));
    },
    async read(shard, afterSequence, onBatch): Promise<Reading> {
      const reader = {
        shard,
        next: afterSequence + 1,
        isPaused: false,
        isScheduled: false,
        onBatch,
      };
      readers.add(reader);
      feed(reader);
      return {
        pause: () => {
          reader.isPaused = true;
        },
        resume: () => {
          reader.isPaused = false;
          feed(reader);
        },
        stop: async () => void readers.delete(reader),
      };
    },
    async readTo(shard, afterSequence, upTo, onBatch) {
      for (const stored of log.slice(Math.max(0, afterSequence + 1 - first))) {
        if (stored.shard === shard && stored.sequence > afterSequence && stored.sequence <= upTo)
          onBatch({
            shard,
            sequence: stored.sequence,
            at: stored.at,
            items: parseMail(stored.text),
          });
      }
    },
    timeOf: async (sequence) => log.find((stored) => stored.sequence === sequence)?.at,
    bounds: async () => ({ first, last, created }),
    lastOf: async (shard) => log.findLast((stored) => stored.shard === shard)?.sequence ?? 0,
    answers: async () => true,
    trouble: () => '',
    async trim(beforeSequence) {
      const count = Math.min(log.length, Math.max(0, beforeSequence - first));
      log.splice(0, count);
      first += count;
    },
  };
  return mailbox;
}
