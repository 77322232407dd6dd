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
 *     The tail is read from where the oldest of them may stand: after a loss of the store a session
 *     tells ends that are hours old.
 * N3  Several ends gather in one message while one is in flight.
 */
import { isTooLarge, messageOf, Unavailable } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import { cutAnswer } from '../../core/session/draft.ts';
import { parseEvents, type UnderstudyEvent } from '../../core/wire/cloud-event.ts';
import { isEndEvent } from '../../core/wire/event-end.ts';
import { batchBytesOf, lastMessage, type Nats } from './connection.ts';
import { readAll } from './ordered-reader.ts';
import { isOvertaken } from './publisher.ts';

/** Clocks of brokers lie less apart; an end is told after the message that it came of. */
const slackMs = 20_000;
const keptMs = 3 * slackMs; // what was told lately is remembered: most that are told again are young
const keptMax = 65_536; // of one subject, about 250 bytes each

interface Waiting {
  readonly event: UnderstudyEvent;
  readonly key: string;
  text: string;
  readonly resolve: (isNew: boolean) => void;
  readonly reject: (error: unknown) => void;
  /** It was sent before: should it stand there, it is ours. */
  wasSent: boolean;
}

/** A letter that was thrown away, and came again, is told again; the end of a task is not. */
const keyOf = ({ id, data }: UnderstudyEvent): string =>
  data.status === 'dead-lettered' ? id : `${data.session}\n${data.task}`;

/** What was told on one subject, and from when on all of it is known. */
class Told {
  /** In the order in which it was stored. `heardAt`: when it was read or written here. */
  readonly #ends = new Map<
    string,
    { readonly id: string; readonly at: number; readonly heardAt: number }
  >();
  /** Everything that was stored at or after this time is here, epoch ms. */
  knownFrom = Number.POSITIVE_INFINITY;

  get(key: string): string | undefined {
    return this.#ends.get(key)?.id;
  }

  /** @param at  when it was stored, epoch ms */
  add(key: string, id: string, at: number): void {
    const now = Date.now();
    this.#ends.delete(key);
    this.#ends.set(key, { id, at, heardAt: now });
    this.forgetOld(now);
  }

  forgetOld(now: number): void {
    for (const [oldest, { at: storedAt, heardAt }] of this.#ends) {
      if (this.#ends.size <= keptMax && heardAt >= now - keptMs) return;
      this.#ends.delete(oldest);
      this.knownFrom = Math.max(this.knownFrom, storedAt + 1);
    }
  }

  clear(): void {
    this.#ends.clear();
    this.knownFrom = Number.POSITIVE_INFINITY;
  }
}

export class EndWriter {
  readonly #nats: Nats;
  readonly #subject: string;
  readonly #told = new Told();
  #waiting: Waiting[] = [];
  /** Ends that wait or are being written. */
  readonly #promised = new Map<string, Promise<boolean>>();
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
    const key = keyOf(event);
    // Told again by an owner that was lost and came back, while the first waits here.
    const before = this.#promised.get(key);
    if (before) return before.then(() => false);
    const promise = new Promise<boolean>((resolve, reject) => {
      const text = JSON.stringify(event);
      this.#waiting.push({ event, key, text, resolve, reject, wasSent: false });
      if (!this.#isWriting) void this.#write();
    });
    this.#promised.set(key, promise);
    const forget = () => void this.#promised.delete(key);
    promise.then(forget, forget);
    return promise;
  }

  /** What it remembers longer than it must. */
  forgetOld(): void {
    this.#told.forgetOld(Date.now());
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
      const isLookedFor = this.#last === undefined || sinceOf(open) < this.#told.knownFrom;
      const looking = open;
      const found = isLookedFor ? await patiently(() => this.#readTail(looking)) : undefined;
      open = open.filter(({ key, event, resolve, wasSent }) => {
        const told = found?.get(key) ?? this.#told.get(key);
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
          this.#told.add(key, event.id, Date.now());
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

  /** @returns those of the batch that stand there, by key: of a long tail only the last ones are remembered */
  async #readTail(batch: readonly Waiting[]): Promise<ReadonlyMap<string, string>> {
    const { streams } = this.#nats;
    const last = await lastMessage(this.#nats, streams.events, { last_by_subj: this.#subject });
    const keys = new Set(batch.map(({ key }) => key));
    const found = new Map<string, string>();
    const since = sinceOf(batch);
    const told = this.#told;
    const isFirst = told.knownFrom === Number.POSITIVE_INFINITY;
    const isFurtherBack = since < told.knownFrom;
    const from = isFurtherBack ? { afterSequence: 0, since } : { afterSequence: this.#readTo };
    // Of a long tail only the young are remembered: older ones are read again when they are asked for.
    const youngFrom = Date.now() - keptMs;
    const filter = this.#subject;
    const upTo = last?.seq ?? 0;
    try {
      if (isFirst) told.knownFrom = Math.max(since, youngFrom);
      await readAll(this.#nats, { stream: streams.events, filter, upTo, ...from }, (message) => {
        for (const event of parseEvents(message.text())) {
          if (message.at >= youngFrom) told.add(keyOf(event), event.id, message.at);
          if (keys.has(keyOf(event))) found.set(keyOf(event), event.id);
        }
      });
    } catch (error) {
      told.clear(); // some of it may be missing
      throw error;
    }
    await this.#readEarlier(batch, found);
    this.#last = upTo;
    this.#readTo = upTo;
    return found;
  }

  /** Ends that an earlier version told, on a subject of their session. */
  async #readEarlier(batch: readonly Waiting[], found: Map<string, string>): Promise<void> {
    const { subjects, streams } = this.#nats;
    for (const { event, key } of batch) {
      const { tenant, agent, session, task } = event.data;
      const subject = subjects.event(tenant, agent, session || 'none', '*');
      const last = await lastMessage(this.#nats, streams.events, { last_by_subj: subject });
      if (!last) continue;
      const told = parseEvents(last.text).find((one) => isEndEvent(one) && one.data.task === task);
      if (told) found.set(key, told.id);
    }
  }
}

const readTries = 12; // of five seconds each at the most: as long as a publish is tried

const sinceOf = (batch: readonly Waiting[]): number =>
  Math.min(...batch.map(({ event }) => Date.parse(event.time))) - slackMs;

const writersMax = 256; // of subjects; each remembers the last ends that it told

/** A writer for each subject: names of agents are what publishers write, so there may be any number. */
export class EndWriters {
  readonly #nats: Nats;
  /** In the order of their last use. */
  readonly #writers = new Map<string, EndWriter>();
  #forgottenAt = 0;

  constructor(nats: Nats) {
    this.#nats = nats;
  }

  get size(): number {
    return this.#writers.size;
  }

  /** Writers that nobody uses keep nothing old. */
  #forgetOld(): void {
    const now = Date.now();
    if (now - this.#forgottenAt < keptMs) return;
    this.#forgottenAt = now;
    for (const writer of this.#writers.values()) writer.forgetOld();
  }

  /** Those that were not used for long, and have nothing to write, are forgotten. */
  of(subject: string): EndWriter {
    const writer = this.#writers.get(subject) ?? new EndWriter(this.#nats, subject);
    this.#writers.delete(subject);
    this.#writers.set(subject, writer);
    this.#forgetOld();
    for (const [other, { isIdle }] of this.#writers) {
      if (this.#writers.size <= writersMax) break;
      if (isIdle && other !== subject) this.#writers.delete(other);
    }
    return writer;
  }
}

/** A broker that is away for a moment is asked again. */
async function patiently<Value>(read: () => Promise<Value>): Promise<Value> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await read();
    } catch (error) {
      if (!(error instanceof Unavailable) || tries >= readTries) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}
