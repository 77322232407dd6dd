/**
 * Ends of tasks, each stored exactly once, without a subject for each: compare and append.
 *
 * Owns     for each subject the last sequence that it wrote or read, and which ends stand there
 * lately.
 *
 * N1  One publish is in flight for a subject, with the sequence that its last message must have. So
 *     a publish that was sent again, and a paused owner beside its heir, are refused by the stream.
 * N2  Refused, or new to a subject, it reads the subject's tail first: an end that stands there is
 *     told, and only the rest is published. A session ends a task once, whatever it folds to later.
 * N3  Several ends gather in one message while one is in flight.
 */
import { isTooLarge, messageOf, Unavailable } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import { Recent } from '../../core/recent.ts';
import { cutAnswer } from '../../core/session/draft.ts';
import { parseEvents, type UnderstudyEvent } from '../../core/wire/cloud-event.ts';
import { isEndEvent } from '../../core/wire/event-end.ts';
import { batchBytesOf, lastMessage, type Nats } from './connection.ts';
import { readAll } from './ordered-reader.ts';
import { isOvertaken } from './publisher.ts';

/** Clocks of brokers lie less apart; an end is told after the message that it came of. */
const slackMs = 60_000;
const toldKept = 2_048; // ends of a subject that are remembered; others are read from the stream

interface Waiting {
  readonly event: UnderstudyEvent;
  readonly key: string;
  text: string;
  readonly resolve: (isNew: boolean) => void;
  readonly reject: (error: unknown) => void;
  /** It was sent before: should it stand there, it is ours. */
  wasSent: boolean;
}

const keyOf = ({ data }: UnderstudyEvent): string => `${data.session}\n${data.task}`;

export class EndWriter {
  readonly #nats: Nats;
  readonly #subject: string;
  readonly #told = new Recent<string, string>(toldKept);
  #waiting: Waiting[] = [];
  /** The sequence that the last message of the subject has; undefined until it was looked at. */
  #last: number | undefined;
  #readTo = 0;
  #isWriting = false;

  constructor(nats: Nats, subject: string) {
    this.#nats = nats;
    this.#subject = subject;
  }

  get isIdle(): boolean {
    return !this.#isWriting && this.#waiting.length === 0;
  }

  /** @returns false when this end had been told before. @throws Unavailable; tell it again */
  tell(event: UnderstudyEvent): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const text = JSON.stringify(event);
      this.#waiting.push({ event, key: keyOf(event), text, resolve, reject, wasSent: false });
      if (!this.#isWriting) void this.#write();
    });
  }

  async #write(): Promise<void> {
    this.#isWriting = true;
    while (this.#waiting.length > 0) {
      const batch = this.#take();
      try {
        await this.#append(batch);
      } catch (error) {
        this.#last = undefined;
        for (const { reject } of batch) reject(error);
      }
    }
    this.#isWriting = false;
  }

  #take(): Waiting[] {
    let bytes = 0;
    const bytesMax = batchBytesOf(this.#nats);
    const end = this.#waiting.findIndex(({ text }, index) => {
      bytes += Buffer.byteLength(text);
      return index > 0 && (bytes > bytesMax || index >= limits.batchMessagesMax);
    });
    return this.#waiting.splice(0, end < 0 ? this.#waiting.length : end);
  }

  async #append(batch: Waiting[]): Promise<void> {
    let open = batch;
    for (;;) {
      if (this.#last === undefined) await patiently(() => this.#readTail(open));
      open = open.filter(({ key, event, resolve, wasSent }) => {
        const told = this.#told.get(key);
        if (told !== undefined) resolve(wasSent && told === event.id);
        return told === undefined;
      });
      if (open.length === 0) return;
      for (const one of open) one.wasSent = true;
      try {
        this.#last = await this.#nats.publisher.publish(
          this.#subject,
          `[${open.map(({ text }) => text).join(',')}]`,
          { headers: { 'Nats-Expected-Last-Subject-Sequence': String(this.#last) } },
        );
        this.#readTo = this.#last;
        for (const { key, event, resolve } of open) {
          this.#told.set(key, event.id);
          resolve(true);
        }
        return;
      } catch (error) {
        if (isOvertaken(error)) this.#last = undefined;
        else if (isTooLarge(error)) open = await this.#cut(open, error);
        else throw error;
      }
    }
  }

  /**
   * Of a batch each alone; one alone without what it cannot carry: an end that never leaves would
   * be tried for ever.
   */
  async #cut(open: Waiting[], error: unknown): Promise<Waiting[]> {
    if (open.length > 1) {
      for (const one of open) await this.#append([one]);
      return [];
    }
    const [one] = open as [Waiting];
    const { event } = one;
    const output = cutAnswer((event.data.output ?? '').slice(0, limits.cutEndLength));
    const reason = `${event.data.reason ?? ''} [cut: ${messageOf(error)}]`.slice(0, 2_000);
    const shorter = JSON.stringify({ ...event, data: { ...event.data, output, reason } });
    if (shorter.length >= one.text.length) throw error;
    one.text = shorter;
    return [one];
  }

  async #readTail(batch: readonly Waiting[]): Promise<void> {
    const { streams } = this.#nats;
    const last = await lastMessage(this.#nats, streams.events, { last_by_subj: this.#subject });
    const keys = new Set(batch.map(({ key }) => key));
    const found = new Map<string, string>();
    const since = Math.min(...batch.map(({ event }) => Date.parse(event.time))) - slackMs;
    if (last && last.seq > this.#readTo && last.at >= since) {
      await readAll(
        this.#nats,
        { stream: streams.events, filter: this.#subject, afterSequence: 0, upTo: last.seq, since },
        (message) => {
          for (const event of parseEvents(message.text())) {
            this.#told.set(keyOf(event), event.id);
            if (keys.has(keyOf(event))) found.set(keyOf(event), event.id);
          }
        },
      );
    }
    // Of a long tail the last ones are remembered; those that are looked for are among them.
    for (const [key, id] of found) this.#told.set(key, id);
    await this.#readEarlier(batch);
    this.#last = last?.seq ?? 0;
    this.#readTo = this.#last;
  }

  /** Ends that an earlier version told, on a subject of their session. */
  async #readEarlier(batch: readonly Waiting[]): Promise<void> {
    const { subjects, streams } = this.#nats;
    for (const { event, key } of batch) {
      const { tenant, agent, session, task } = event.data;
      const subject = subjects.event(tenant, agent, session || 'none', '*');
      const last = await lastMessage(this.#nats, streams.events, { last_by_subj: subject });
      if (!last) continue;
      const told = parseEvents(last.text).find((one) => isEndEvent(one) && one.data.task === task);
      if (told) this.#told.set(key, told.id);
    }
  }
}

const readTries = 12; // of five seconds each at the most: as long as a publish is tried

const writersMax = 256; // of subjects; each remembers the last ends that it told

/** A writer for each subject: names of agents are what publishers write, so there may be any number. */
export class EndWriters {
  readonly #nats: Nats;
  /** In the order of their last use. */
  readonly #writers = new Map<string, EndWriter>();

  constructor(nats: Nats) {
    this.#nats = nats;
  }

  get size(): number {
    return this.#writers.size;
  }

  /** Those that were not used for long, and have nothing to write, are forgotten. */
  of(subject: string): EndWriter {
    const writer = this.#writers.get(subject) ?? new EndWriter(this.#nats, subject);
    this.#writers.delete(subject);
    this.#writers.set(subject, writer);
    for (const [other, { isIdle }] of this.#writers) {
      if (this.#writers.size <= writersMax) break;
      if (isIdle && other !== subject) this.#writers.delete(other);
    }
    return writer;
  }
}

/** A broker that is away for a moment is asked again. */
async function patiently(read: () => Promise<void>): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await read();
    } catch (error) {
      if (!(error instanceof Unavailable) || tries >= readTries) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}
