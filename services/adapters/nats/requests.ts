/**
 * Requests to the broker's API: one inbox for all, numbered tokens, answers matched by number.
 *
 * The package's own `request` makes an error, with its stack, for each that might not be answered: more than the rest of a request costs.
 */
import type { Msg, NatsConnection } from 'nats';
import { hear } from './subscription.ts';

/** The broker knows of nobody who hears the subject. */
export class NobodyListens extends Error {}

interface Asked {
  readonly resolve: (answer: string) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export class Requests {
  readonly #connection: NatsConnection;
  readonly #inbox: string;
  readonly #asked = new Map<string, Asked>();
  #next = 0;

  /** @param inbox  a subject of our own: answers come below it */
  constructor(connection: NatsConnection, inbox: string) {
    this.#connection = connection;
    this.#inbox = `${inbox}.`;
    hear(
      connection,
      `${this.#inbox}*`,
      (message) => this.#hear(message),
      (error) => this.#refuse(error),
    );
  }

  /**
   * @param withinMs  how long to wait for the answer
   * @throws Error when there is no answer in time, nobody listens, or the connection is closed
   */
  ask(subject: string, body: string, withinMs: number): Promise<string> {
    const token = (this.#next++).toString(36);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => this.#asked.delete(token) && reject(new Error(`no answer within ${withinMs} ms`)),
        withinMs,
      );
      this.#asked.set(token, { resolve, reject, timer });
      try {
        this.#connection.publish(subject, body, { reply: this.#inbox + token });
      } catch (error) {
        this.#take(token);
        reject(error as Error);
      }
    });
  }

  close(): void {
    this.#refuse(new Error('the connection is closed'));
  }

  #refuse(error: Error): void {
    for (const token of [...this.#asked.keys()]) this.#take(token)?.reject(error);
  }

  #hear(message: Msg): void {
    const asked = this.#take(message.subject.slice(this.#inbox.length));
    if (!asked) return;
    if (message.data.length === 0 && message.headers?.code === 503)
      asked.reject(new NobodyListens('nobody listens there'));
    else asked.resolve(message.string());
  }

  #take(token: string): Asked | undefined {
    const asked = this.#asked.get(token);
    if (!asked) return undefined;
    clearTimeout(asked.timer);
    this.#asked.delete(token);
    return asked;
  }
}
