/**
 * A lean JetStream publisher: one reply inbox for all publishes, numbered tokens, acks matched by number.
 *
 * Owns     publishes without an ack yet, and what waits for company.
 *
 * L1  A publish resolves when the stream has acknowledged it, and rejects when the stream refused it.
 * L2  What got no ack in time is sent again, and at once after a reconnect: at least once, until `tries` are used up.
 * L3  What is published in one callback leaves in one write; while something is under way, what is published in one turn of the event loop.
 * L4  At most `window` publishes are out at a time; the rest wait in order.
 * L5  What nobody waits for (`soon`) leaves with the next write, in the order in which it was published, or alone after `companyWaitMs`:
 *     each write wakes the broker.
 *
 * The package's own `js.publish` costs three to four times the CPU of this (request bookkeeping and ack parsing).
 */
import { type Msg, type MsgHdrs, type NatsConnection, headers as natsHeaders } from 'nats';
import { Refused, Unavailable } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import { hear } from './subscription.ts';

interface Waiting {
  readonly subject: string;
  readonly body: string | Uint8Array;
  readonly headers: MsgHdrs | undefined;
  readonly resolve: (sequence: number) => void;
  readonly reject: (error: Error) => void;
  /** First sent; what waits for the window is not waiting for the server. */
  since: number;
  sentAt: number;
  tries: number;
}

export interface PublishOptions {
  readonly headers?: Readonly<Record<string, string>> | undefined;
  /** `soon` for what nobody waits for (L5). */
  readonly pace?: 'now' | 'soon';
}

const wrongLastSequence = 10_071; // error code of JetStream

/** Another message of the subject was first: what was compared before appending did not stand. */
export const isOvertaken = (error: unknown): boolean =>
  error instanceof Refused &&
  (error.details.refusal as PublishRefusal | undefined)?.errCode === wrongLastSequence;

export interface PublishRefusal {
  readonly code: number;
  readonly errCode: number;
  readonly description: string;
}

const resendAfterMs = 2_000;
const kindOf = (subject: string): string => subject.split('.', 2)[1] ?? '';
const silenceMs = 2 * limits.mailSilenceMs;
const tries = 30;
const companyWaitMs = 5; // a fifth of what steps have waited already; acks have seconds

export class LeanPublisher {
  readonly #connection: NatsConnection;
  readonly #inbox: string;
  readonly #waiting = new Map<number, Waiting>();
  readonly #queue: Waiting[] = [];
  readonly #window: number;
  readonly #sweep: NodeJS.Timeout;
  #next = 0;
  #isClosed = false;
  /** The oldest that was given up, until its stream takes something again: who publishes it anew must not look well meanwhile. */
  #givenUp: { readonly kind: string; readonly since: number } | undefined;
  #turn: [number, Waiting][] = [];
  /** Publishes that wait for company (L5). */
  readonly #patient: Waiting[] = [];
  /** What is sent beside the next write: acks. */
  readonly #besides: (() => void)[] = [];
  #company: NodeJS.Timeout | undefined;

  /** @param inbox  a subject of our own: acks come below it */
  constructor(connection: NatsConnection, inbox: string, window = 1_024) {
    this.#connection = connection;
    this.#window = window;
    this.#inbox = `${inbox}.`;
    hear(connection, `${this.#inbox}*`, (message) => this.#acknowledged(message));
    this.#sweep = setInterval(() => this.#resendOld(), 500);
    this.#sweep.unref();
  }

  /** Publishes without an ack yet. */
  get pending(): number {
    return this.#waiting.size + this.#queue.length + this.#patient.length;
  }

  /** Why this process is not ready: a publish has had no ack for long. Or an empty string. */
  get trouble(): string {
    const [oldest] = this.#waiting.values();
    const silentMs =
      Date.now() - Math.min(oldest?.since ?? Date.now(), this.#givenUp?.since ?? Date.now());
    return silentMs < silenceMs
      ? ''
      : `the broker has not stored what it was given ${Math.floor(silentMs / 1_000)} s ago: is its disk full?`;
  }

  /** @returns the stream sequence. @throws Refused with `details.refusal` when the stream refuses, Unavailable when it stays silent */
  publish(
    subject: string,
    body: string | Uint8Array,
    { headers, pace = 'now' }: PublishOptions = {},
  ): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.#isClosed) return reject(new Unavailable('NATS_CLOSED', 'the connection is closed'));
      const bytesMax = this.#connection.info?.max_payload ?? Number.POSITIVE_INFINITY;
      // A character has three bytes at the most; headers count.
      const more = headers ? JSON.stringify(headers).length * 3 : 0;
      const bytes = body.length * 3 + more > bytesMax ? Buffer.byteLength(body) + more : 0;
      if (bytes > bytesMax)
        return reject(
          new Refused(
            'MESSAGE_TOO_LARGE',
            `a message to ${kindOf(subject)} has ${bytes} bytes, and the broker carries ${bytesMax}`,
          ),
        );
      let encoded: MsgHdrs | undefined;
      if (headers) {
        encoded = natsHeaders();
        for (const [name, value] of Object.entries(headers)) encoded.set(name, value);
      }
      const waiting: Waiting = {
        subject,
        body,
        headers: encoded,
        resolve,
        reject,
        since: 0,
        sentAt: 0,
        tries: 0,
      };
      if (pace === 'soon') {
        this.#patient.push(waiting);
        this.#awaitCompany();
        return;
      }
      // What is patient was published before: where there is no room for both, it has the place.
      this.#placePatient();
      this.#place(waiting);
    });
  }

  #place(waiting: Waiting): void {
    if (this.#waiting.size >= this.#window) this.#queue.push(waiting);
    else this.#sendThisTurn(waiting);
  }

  /** Send something else with the next publish, or soon. Whether it may still be sent then, it has to ask itself. */
  beside(send: () => void): void {
    this.#besides.push(send);
    this.#awaitCompany();
  }

  resendAll(): void {
    for (const [number, waiting] of this.#waiting) this.#send(number, waiting);
  }

  close(): void {
    this.#isClosed = true;
    clearInterval(this.#sweep);
    const error = new Unavailable('NATS_CLOSED', 'the connection is closed');
    for (const waiting of [...this.#waiting.values(), ...this.#queue, ...this.#patient])
      waiting.reject(error);
    this.#waiting.clear();
    this.#queue.length = 0;
    this.#patient.length = 0;
    this.#besides.length = 0;
    clearTimeout(this.#company);
  }

  #send(number: number, waiting: Waiting): void {
    waiting.sentAt = Date.now();
    waiting.tries += 1;
    this.#waiting.set(number, waiting);
    try {
      this.#connection.publish(waiting.subject, waiting.body, {
        reply: this.#inbox + number.toString(36),
        ...(waiting.headers ? { headers: waiting.headers } : {}),
      });
    } catch (error) {
      this.#release(number);
      waiting.reject(new Unavailable('NATS_UNAVAILABLE', 'could not publish', { cause: error }));
    }
  }

  #acknowledged(message: Msg): void {
    const number = Number.parseInt(message.subject.slice(this.#inbox.length), 36);
    const waiting = this.#waiting.get(number);
    if (!waiting) return;
    // No responders: no stream listens on the subject now; the sweep tries again.
    if (message.data.length === 0) return;
    this.#release(number);
    const text = message.string();
    if (text.includes('"error"')) {
      const { error } = JSON.parse(text) as {
        error: { code: number; err_code?: number; description: string };
      };
      const refusal: PublishRefusal = {
        code: error.code,
        errCode: error.err_code ?? 0,
        description: error.description,
      };
      if (error.code === 503)
        waiting.reject(new Unavailable('NATS_UNAVAILABLE', error.description, { refusal }));
      else
        waiting.reject(
          new Refused('STREAM_REFUSED', `the stream refused a publish: ${error.description}`, {
            refusal,
          }),
        );
    } else {
      if (this.#givenUp?.kind === kindOf(waiting.subject)) this.#givenUp = undefined;
      const at = text.indexOf('"seq":');
      waiting.resolve(at < 0 ? 0 : Number.parseInt(text.slice(at + 6), 10));
    }
  }

  /** It is out no more: the next in order has its place. */
  #release(number: number): void {
    this.#waiting.delete(number);
    const queued = this.#queue.shift();
    if (queued) this.#sendThisTurn(queued);
  }

  #sendThisTurn(waiting: Waiting): void {
    const number = this.#next++;
    this.#waiting.set(number, waiting);
    waiting.since = Date.now();
    waiting.sentAt = waiting.since;
    this.#turn.push([number, waiting]);
    if (this.#turn.length > 1) return;
    // With nothing under way it leaves when this callback and all that it promised are done; else with what the rest of the loop's turn brings.
    if (this.#waiting.size === 1) queueMicrotask(() => process.nextTick(() => this.#sendTurn()));
    else setImmediate(() => this.#sendTurn());
  }

  #placePatient(): void {
    for (const one of this.#patient.splice(0)) this.#place(one);
  }

  #awaitCompany(): void {
    this.#company ??= setTimeout(() => this.#sendCompany(), companyWaitMs);
  }

  /** Something leaves, or the wait is over: what waited leaves too. */
  #sendCompany(): void {
    clearTimeout(this.#company);
    this.#company = undefined;
    for (const send of this.#besides.splice(0)) send();
    this.#placePatient();
  }

  #sendTurn(): void {
    this.#sendCompany();
    const turn = this.#turn;
    this.#turn = [];
    for (const [each, one] of turn) if (this.#waiting.has(each)) this.#send(each, one);
  }

  #resendOld(): void {
    if (this.#connection.isClosed()) return this.close();
    const before = Date.now() - resendAfterMs;
    for (const [number, waiting] of this.#waiting) {
      if (waiting.sentAt > before) continue;
      if (waiting.tries >= tries) {
        this.#release(number);
        this.#givenUp ??= { kind: kindOf(waiting.subject), since: waiting.since };
        waiting.reject(
          new Unavailable('NATS_UNAVAILABLE', `the stream did not answer after ${tries} tries`),
        );
      } else this.#send(number, waiting);
    }
  }
}
