/**
 * Reads one subject filter of a stream in order, without acks, for ever: an ephemeral push consumer that is
 * made again from the last sequence + 1 whenever it fell silent, skipped a number, or the server came back.
 *
 * O1  Messages are handed on in stream order, each once, without gaps.
 * O2  A consumer that is silent for three heartbeats is taken for dead.
 * O3  A stream that went back, or was made anew, is never read on as if nothing had happened: `onReset` is told.
 * O4  A server that has nothing more for it says so, by a consumer with nothing pending or by a heartbeat: `onIdle` is told.
 */
import { AckPolicy, DeliverPolicy, type Msg, nanos, ReplayPolicy, type Subscription } from 'nats';
import { ask, lastMessage, type Nats } from './connection.ts';
import { hear, isOfStream } from './subscription.ts';

const heartbeatMs = 500;

export interface OrderedMessage {
  readonly sequence: number;
  readonly at: number;
  readonly subject: string;
  /** How many more the stream has for this reader now. */
  readonly remaining: number;
  text(): string;
  bytes(): Uint8Array;
  /** A header, or an empty string: also where headers cannot be read. */
  header(name: string): string;
}

export class OrderedReader {
  readonly #nats: Nats;
  readonly #stream: string;
  readonly #filter: string;
  readonly #onMessage: (message: OrderedMessage) => void;
  #last: number;
  /** The broker's time of the message at `#last`, once one was read. */
  #lastAt: number | undefined;
  #expected = 1;
  #subscription: Subscription | undefined;
  #consumer: string | undefined;
  #heardAt = 0;
  #watch: NodeJS.Timeout | undefined;
  #isMaking = false;
  #isPaused = false;
  #isStopped = false;
  #created: string | undefined;
  readonly #onReset: (() => void) | undefined;
  readonly #onIdle: (() => void) | undefined;
  readonly #deliver: 'from' | 'last-per-subject';
  readonly #since: number | undefined;
  readonly #headersOnly: boolean;

  constructor(
    nats: Nats,
    options: {
      stream: string;
      filter: string;
      afterSequence: number;
      deliver?: 'from' | 'last-per-subject';
      since?: number | undefined;
      headersOnly?: boolean;
    },
    onMessage: (message: OrderedMessage) => void,
    onReset?: () => void,
    onIdle?: () => void,
  ) {
    this.#nats = nats;
    this.#stream = options.stream;
    this.#filter = options.filter;
    this.#last = options.afterSequence;
    this.#deliver = options.deliver ?? 'from';
    this.#since = options.since;
    this.#headersOnly = options.headersOnly ?? false;
    this.#onMessage = onMessage;
    this.#onReset = onReset;
    this.#onIdle = onIdle;
  }

  async start(): Promise<void> {
    try {
      await this.#make();
    } catch (error) {
      // Nobody holds a reader that did not start, and the broker may have made its consumer: it would be told everything for ever.
      await this.stop();
      throw error;
    }
    if (this.#isStopped) return; // it was told, while it was made, that there is nothing to wait for
    this.#watch = setInterval(() => {
      if (!this.#isPaused && !this.#isMaking && Date.now() - this.#heardAt > 3 * heartbeatMs + 500)
        void this.#remake();
    }, heartbeatMs);
    this.#watch.unref();
  }

  pause(): void {
    if (this.#isPaused) return;
    this.#isPaused = true;
    this.#drop();
  }

  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    void this.#remake();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    clearInterval(this.#watch);
    this.#drop();
  }

  #drop(): void {
    this.#subscription?.unsubscribe();
    this.#subscription = undefined;
    const consumer = this.#consumer;
    this.#consumer = undefined;
    if (consumer && !this.#nats.connection.isClosed()) {
      this.#nats.connection.publish(`$JS.API.CONSUMER.DELETE.${this.#stream}.${consumer}`, '');
    }
  }

  async #remake(): Promise<void> {
    if (this.#isMaking || this.#isStopped || this.#isPaused) return;
    this.#drop();
    try {
      await this.#make();
    } catch {
      // The server is away or still waking up: the watch tries again.
      this.#heardAt = Date.now() - 2 * heartbeatMs;
    }
  }

  async #make(): Promise<void> {
    this.#isMaking = true;
    try {
      if (this.#onReset) {
        const info = await ask<{ created: string; state: { last_seq: number } }>(
          this.#nats,
          `$JS.API.STREAM.INFO.${this.#stream}`,
          undefined,
        );
        if (info.error) throw new Error(info.error.description);
        // Another stream under the same name, or one that lost its end: its numbers mean something else now (O3).
        if (
          (this.#created !== undefined && info.created !== this.#created) ||
          info.state.last_seq < this.#last ||
          (await this.#isReplaced())
        ) {
          this.#isStopped = true;
          clearInterval(this.#watch);
          this.#onReset();
          return;
        }
        this.#created = info.created;
      }
      const inbox = this.#nats.inbox();
      this.#expected = 1;
      const subscription = hear(this.#nats.connection, inbox, (message) =>
        this.#heard(message, subscription),
      );
      this.#subscription = subscription;
      const isFrom = this.#deliver === 'from' || this.#last > 0;
      const isSince = this.#since !== undefined && this.#last === 0;
      const answer = await ask<{ name: string; num_pending: number }>(
        this.#nats,
        `$JS.API.CONSUMER.CREATE.${this.#stream}`,
        {
          stream_name: this.#stream,
          config: {
            deliver_subject: inbox,
            filter_subject: this.#filter,
            ...(isSince
              ? {
                  deliver_policy: DeliverPolicy.StartTime,
                  opt_start_time: new Date(this.#since!).toISOString(),
                }
              : isFrom
                ? { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: this.#last + 1 }
                : { deliver_policy: DeliverPolicy.LastPerSubject }),
            ack_policy: AckPolicy.None,
            max_deliver: 1,
            replay_policy: ReplayPolicy.Instant,
            flow_control: true,
            ...(this.#headersOnly ? { headers_only: true } : {}),
            idle_heartbeat: nanos(heartbeatMs),
            inactive_threshold: nanos(5_000),
            mem_storage: true,
            num_replicas: 1,
          },
        },
      );
      if (answer.error) throw new Error(answer.error.description);
      this.#heardAt = Date.now();
      if (this.#isStopped || this.#isPaused) {
        this.#consumer = answer.name;
        this.#drop();
      } else this.#consumer = answer.name;
      if (answer.num_pending === 0) this.#onIdle?.();
    } finally {
      this.#isMaking = false;
    }
  }

  /** Has the stream another message where we read last? It went back, and on again past us (O3). */
  async #isReplaced(): Promise<boolean> {
    if (this.#lastAt === undefined) return false;
    const stored = await lastMessage(this.#nats, this.#stream, { seq: this.#last });
    return stored !== undefined && stored.at !== this.#lastAt;
  }

  #heard(message: Msg, subscription: Subscription): void {
    if (subscription !== this.#subscription) return;
    this.#heardAt = Date.now();
    if (!isOfStream(message)) {
      if (message.headers?.code !== 100) return;
      // A heartbeat (it may ask us to move on a stalled flow) or a flow-control request, which wants an answer.
      if (message.reply) message.respond();
      const stalled = message.headers.get('Nats-Consumer-Stalled');
      if (stalled) this.#nats.connection.publish(stalled, '');
      const lastConsumer = Number(message.headers.get('Nats-Last-Consumer'));
      if (
        Number.isFinite(lastConsumer) &&
        lastConsumer >= this.#expected &&
        lastConsumer > 0 &&
        !message.reply
      )
        void this.#remake();
      else if (!message.reply && !stalled) this.#onIdle?.();
      return;
    }
    // $JS.ACK.<stream>.<consumer>.<tries>.<stream sequence>.<consumer sequence>.<time>.<pending>, with two more tokens after ACK on newer servers
    const tokens = message.reply!.split('.');
    const end = tokens.length >= 11 ? 10 : 8;
    const [sequence, consumerSequence, time, remaining] = [
      Number(tokens[end - 3]),
      Number(tokens[end - 2]),
      tokens[end - 1]!,
      Number(tokens[end]),
    ];
    if (consumerSequence !== this.#expected) return void this.#remake();
    this.#expected += 1;
    if (sequence <= this.#last) return;
    this.#last = sequence;
    this.#lastAt = Math.floor(Number(time.slice(0, -3)) / 1_000);
    this.#onMessage({
      sequence,
      at: this.#lastAt,
      subject: message.subject,
      remaining,
      text: () => message.string(),
      bytes: () => message.data,
      header: (name) => headerOf(message, name),
    });
  }
}

/** Whoever writes to the broker by hand may write headers that the package cannot read. */
function headerOf(message: Msg, name: string): string {
  try {
    return message.headers?.get(name) ?? '';
  } catch {
    return '';
  }
}

/**
 * Read what a filter holds now, and end: also when some of it is forgotten, or the stream is made anew, meanwhile. In a cluster the
 * consumer may lie on a server that is behind: that it has nothing more is asked of the stream's leader before it is believed.
 */
export async function readAll(
  nats: Nats,
  options: {
    stream: string;
    filter: string;
    afterSequence: number;
    upTo?: number;
    deliver?: 'from' | 'last-per-subject';
    since?: number;
    headersOnly?: boolean;
  },
  onMessage: (message: OrderedMessage) => void,
): Promise<void> {
  // What is asked for may end before the stream does: the last message of the filter tells.
  const last = await lastMessage(nats, options.stream, { last_by_subj: options.filter });
  const upTo = Math.min(options.upTo ?? Number.MAX_SAFE_INTEGER, last?.seq ?? 0);
  // A reader that begins after all there is hears nothing, and so not that it is done.
  if (
    !last ||
    upTo <= options.afterSequence ||
    (options.since !== undefined && last.at < options.since)
  )
    return;
  let reader: OrderedReader | undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      let read = options.afterSequence;
      let isDone = false;
      let isAsking = false;
      const done = () => {
        isDone = true;
        resolve();
      };
      const doneIfNoMore = () => {
        if (isDone || isAsking) return;
        isAsking = true;
        const from = read;
        lastMessage(nats, options.stream, { seq: from + 1, next_by_subj: options.filter })
          // Asked again at the next heartbeat, if it cannot be said now.
          .then((next) => (next === undefined || next.seq > upTo) && read === from && done())
          .catch(() => undefined)
          .finally(() => {
            isAsking = false;
          });
      };
      reader = new OrderedReader(
        nats,
        options,
        (message) => {
          if (isDone) return;
          read = message.sequence;
          if (message.sequence <= upTo) onMessage(message);
          if (message.sequence >= upTo) done();
          else if (message.remaining === 0) doneIfNoMore();
        },
        undefined,
        doneIfNoMore,
      );
      reader.start().catch(reject);
    });
  } finally {
    await reader?.stop();
  }
}

/** The sequence of the last message that a filter matches, 0 for none. */
export async function lastSequenceOf(nats: Nats, stream: string, filter: string): Promise<number> {
  return (await lastMessage(nats, stream, { last_by_subj: filter }))?.seq ?? 0;
}
