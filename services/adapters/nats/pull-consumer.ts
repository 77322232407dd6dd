/**
 * Takes from a work queue through a durable pull consumer, with acks, heartbeats and no surprises after a restart.
 *
 * C1  Asks for no more than there is room for.
 * C2  What is in hand is kept alive with in-progress acks until it is acked or handed back.
 * C3  A reply subject names a sequence, and after a restart of the server that may be another message's: what was in hand when the
 *     connection was lost is not acked any more. It is offered again, and whoever performed it knows.
 * C4  Acks leave with the next publish, or soon: who waits for them is only the server, and each alone would wake it.
 * C5  What was delivered and did not arrive leaves a gap in the numbers of the deliveries. Who needs
 *     order is told, and given nothing more by this consumer.
 * C6  A request that hears nothing is made again; a consumer or stream that is gone is made again, and that is told.
 */
import { AckPolicy, DeliverPolicy, type Msg, nanos, ReplayPolicy, type Subscription } from 'nats';
import { ask, type Nats } from './connection.ts';
import { declareStreams, type StreamName } from './streams.ts';
import { hear, isOfStream } from './subscription.ts';

export interface PulledMessage {
  readonly subject: string;
  readonly sequence: number;
  readonly tries: number;
  /** As they were published. @throws Error when they cannot be read */
  headers(): Readonly<Record<string, string>>;
  text(): string;
  /** It leaves with the next publish, or soon (C4). */
  ack(): void;
  /** Offer it again after `delayMs`. */
  handBack(delayMs: number): void;
}

export interface PullOptions {
  readonly stream: StreamName;
  readonly durable: string;
  /** Without one all of the stream is read. */
  readonly filter?: string;
  readonly ackWaitMs: number;
  readonly heartbeatMs: number;
  /** The broker forgets the consumer when nobody asks it for so long; left out: never. */
  readonly inactiveMs?: number;
  /** How many may be out without an ack, those that were handed back for later among them. */
  readonly pendingMax?: number;
  /** What must be out of the way before the consumer is made, each time it is. */
  readonly beforeMade?: () => Promise<void>;
  readonly capacity: () => number;
  readonly onMessage: (message: PulledMessage) => void;
  /** Of a consumer that is asked from its beginning by nobody else: a delivery is missing (C5). */
  readonly onGap?: () => void;
  /** The stream was gone and has been made again: it holds nothing of what was in it. */
  readonly onStreamMade?: () => void;
}

const requestMs = 5_000;

export class PullConsumer {
  readonly #nats: Nats;
  readonly #options: PullOptions;
  readonly #inHand = new Set<{ readonly reply: string }>();
  #acks: string[] = [];
  #inbox = '';
  #subscription: Subscription | undefined;
  #asked = 0;
  #askedAt = 0;
  /** The number that the next delivery has. */
  #next = 1;
  #isStopped = false;
  #isEnsuring = false;
  #beat: NodeJS.Timeout | undefined;
  #watch: NodeJS.Timeout | undefined;

  constructor(nats: Nats, options: PullOptions) {
    this.#nats = nats;
    this.#options = options;
  }

  async start(): Promise<void> {
    this.#inbox = this.#nats.inbox();
    this.#subscription = hear(this.#nats.connection, this.#inbox, (message) =>
      this.#heard(message),
    );
    await this.#ensure();
    if (this.#isStopped) return;
    this.#nats.onDisconnect(() => this.#forget());
    this.#nats.onReconnect(() => {
      this.#forget();
      this.#asked = 0;
      void this.#ensure().then(() => this.pull());
    });
    this.#beat = setInterval(() => {
      for (const { reply } of this.#inHand) this.#nats.connection.publish(reply, '+WPI');
    }, this.#options.heartbeatMs);
    this.#watch = setInterval(() => {
      // Requests expire at the server; one that was answered by nobody is asked again.
      if (this.#asked > 0 && Date.now() - this.#askedAt > requestMs + 1_000) {
        this.#asked = 0;
        void this.#ensure().then(() => this.pull());
      } else this.pull();
    }, 250);
    this.pull();
  }

  /** Ask for as many as there is room for. Call it when room was made. */
  pull(): void {
    if (this.#isStopped || this.#isEnsuring || this.#nats.connection.isClosed()) return;
    const room = this.#options.capacity() - this.#asked;
    // Small requests for small room cost as much as large ones: wait until a quarter is free, unless all is quiet.
    if (room <= 0 || (this.#asked > 0 && room < this.#asked / 2)) return;
    this.#asked += room;
    this.#askedAt = Date.now();
    try {
      this.#nats.connection.publish(
        `$JS.API.CONSUMER.MSG.NEXT.${this.#nats.streams[this.#options.stream]}.${this.#options.durable}`,
        JSON.stringify({ batch: room, expires: nanos(requestMs) }),
        {
          reply: this.#inbox,
        },
      );
    } catch {
      this.#asked = 0;
    }
  }

  get inHand(): number {
    return this.#inHand.size;
  }

  /** Ask for nothing new, and take nothing of what was asked for; what is in hand goes on. */
  drain(): void {
    this.#isStopped = true;
    // Without interest the server forgets our open requests: what comes now goes to others.
    if (!this.#nats.connection.isClosed()) this.#subscription?.unsubscribe();
    clearInterval(this.#watch);
  }

  stop(): void {
    this.drain();
    this.#sendAcks();
    clearInterval(this.#beat);
  }

  async #ensure(): Promise<void> {
    if (this.#isEnsuring) return;
    this.#isEnsuring = true;
    try {
      while (!this.#isStopped) {
        try {
          const made = await declareStreams(this.#nats, [this.#options.stream]);
          if (this.#isStopped) return;
          await this.#options.beforeMade?.();
          if (this.#isStopped) return;
          const {
            stream,
            durable,
            filter,
            ackWaitMs,
            inactiveMs,
            pendingMax = 20_000,
          } = this.#options;
          const name = this.#nats.streams[stream];
          const answer = await ask<object>(
            this.#nats,
            `$JS.API.CONSUMER.DURABLE.CREATE.${name}.${durable}`,
            {
              stream_name: name,
              config: {
                durable_name: durable,
                ...(filter ? { filter_subject: filter } : {}),
                deliver_policy: DeliverPolicy.All,
                ack_policy: AckPolicy.Explicit,
                ack_wait: nanos(ackWaitMs),
                max_ack_pending: pendingMax,
                max_deliver: -1,
                max_waiting: 512,
                ...(inactiveMs ? { inactive_threshold: nanos(inactiveMs) } : {}),
                replay_policy: ReplayPolicy.Instant,
              },
            },
          );
          if (answer.error && answer.error.err_code !== 10_148)
            throw new Error(answer.error.description);
          if (made.length > 0) this.#options.onStreamMade?.();
          return;
        } catch {
          // The server may be away for long; nothing is taken until it is back.
          await new Promise((resolve) => setTimeout(resolve, 200));
        }
      }
    } finally {
      this.#isEnsuring = false;
    }
  }

  #heard(message: Msg): void {
    if (!isOfStream(message)) {
      // 404 no messages, 408 expired: the request is over. 409: the consumer is gone or the server shuts down.
      this.#asked = 0;
      const code = message.headers?.code;
      if (code === 409 || code === 503) void this.#ensure();
      return;
    }
    this.#asked = Math.max(0, this.#asked - 1);
    const reply = message.reply ?? '';
    const tokens = reply.split('.');
    const end = tokens.length >= 11 ? 10 : 8;
    if (this.#options.onGap && Number(tokens[end - 2]) !== this.#next++) {
      this.drain();
      return this.#options.onGap();
    }
    const held = { reply };
    this.#inHand.add(held);
    const letGo = () => this.#inHand.delete(held);
    this.#options.onMessage({
      subject: message.subject,
      sequence: Number(tokens[end - 3]),
      tries: Number(tokens[end - 4]),
      headers: () =>
        Object.fromEntries(
          [...(message.headers ?? [])].map(([name, [first = '']]) => [name, first]),
        ),
      text: () => message.string(),
      ack: () => {
        if (!letGo()) return;
        if (this.#acks.push(reply) === 1) this.#nats.publisher.beside(() => this.#sendAcks());
        this.pull();
      },
      handBack: (delayMs) => {
        if (!letGo()) return;
        if (!this.#nats.connection.isClosed())
          this.#nats.connection.publish(reply, `-NAK ${JSON.stringify({ delay: nanos(delayMs) })}`);
        this.pull();
      },
    });
  }

  #sendAcks(): void {
    const acks = this.#acks;
    this.#acks = [];
    if (this.#nats.connection.isClosed()) return;
    for (const reply of acks) this.#nats.connection.publish(reply, '+ACK');
  }

  /** What was in hand or not yet acked is the server's again (C3). */
  #forget(): void {
    this.#inHand.clear();
    this.#acks = [];
  }
}
