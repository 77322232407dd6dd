/** TASKS: the front door. Whatever is published there is handed on as it is; judging it is the runtime's part. */
import { randomUUID } from 'node:crypto';
import { Later, messageOf, Refused } from '../../core/errors.ts';
import { taskHeaders } from '../../core/wire/task-headers.ts';
import type { RawTask, Tasks } from '../../ports/tasks.ts';
import { ask, type Nats } from './connection.ts';
import { PullConsumer, type PulledMessage } from './pull-consumer.ts';

const isTokens = /^[^\s*>\u0000-\u001f]+$/;

/** Whoever writes to the broker by hand may write headers that the package cannot read. */
function headersOf(message: PulledMessage): Pick<RawTask, 'headers' | 'headersProblem'> {
  try {
    return { headers: message.headers() };
  } catch (error) {
    return { headers: {}, headersProblem: messageOf(error) };
  }
}

/** A name of its own for each reader: an ack names its consumer, and a late one of an earlier reader must not count. */
const consumerName = (): string => `${intake}-${randomUUID().slice(0, 13)}`;
const intake = 'intake'; // the name that all readers shared until 0.1.0
const pendingMax = 1_000_000; // tasks that wait for a document or their turn must not stop all others
const handBackMs = 1_000; // a task that is not accepted is offered again after this
const inactiveMs = 30_000; // a reader that is gone leaves its place after this, also to one of an earlier version

export function natsTasks(nats: Nats): Tasks {
  const { subjects, streams, publisher } = nats;
  const consumers = async (): Promise<string[]> => {
    const { consumers: names } = await ask<{ consumers?: string[] | null }>(
      nats,
      `$JS.API.CONSUMER.NAMES.${streams.tasks}`,
      {},
    );
    return (names ?? []).filter((name) => name === intake || name.startsWith(`${intake}-`));
  };
  /** A work queue has one reader of a subject: what the last one held is offered to the next. */
  const removeOthers = async (own: string): Promise<void> => {
    for (const name of await consumers()) {
      if (name !== own)
        await ask(nats, `$JS.API.CONSUMER.DELETE.${streams.tasks}.${name}`, undefined);
    }
  };
  /** Its acks are on their way: a consumer that goes before them takes them for none. */
  const acknowledged = async (durable: string): Promise<void> => {
    for (let looks = 0; looks < 20; looks += 1) {
      const info = await ask<{ num_ack_pending?: number }>(
        nats,
        `$JS.API.CONSUMER.INFO.${streams.tasks}.${durable}`,
        undefined,
      ).catch(() => undefined);
      if (!info?.num_ack_pending) return;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  };
  const taskOf = (message: PulledMessage): RawTask => {
    const [, kind, tenant = '', ...rest] = message.subject.slice(subjects.prefix.length).split('.');
    const name = rest.join('.');
    return {
      tenant,
      ...(kind === 'tell' ? { agent: '', session: name } : { agent: name }),
      subject: message.subject,
      body: message.text(),
      ...headersOf(message),
      sequence: message.sequence,
      sequenceId: `task-${message.sequence}`,
    };
  };
  const send = async (
    kind: 'task' | 'tell',
    names: readonly [string, string],
    body: string,
    headers: Record<string, string>,
  ) => {
    // In a line of the protocol a space would end the subject, and the connection with it.
    for (const name of names)
      if (!isTokens.test(name))
        throw new Refused('SUBJECT_INVALID', `"${name.slice(0, 64)}" can be no part of a subject`);
    const options = Object.keys(headers).length > 0 ? { headers } : {};
    await publisher.publish(subjects[kind](...names), body, options);
  };
  return {
    publish: (tenant, agent, body, headers) =>
      send('task', [tenant, agent], body, taskHeaders(headers)),
    tell: (tenant, session, body, headers) => send('tell', [tenant, session], body, headers),
    take(capacity, accept) {
      let inHand = 0;
      let reader: { readonly durable: string; readonly consumer: PullConsumer };
      const taken = (message: PulledMessage) => {
        inHand += 1;
        accept(taskOf(message))
          .then(
            () => message.ack(),
            (error: unknown) =>
              message.handBack(error instanceof Later ? error.retryAfterMs : handBackMs),
          )
          .finally(() => {
            inHand -= 1;
            reader.consumer.pull();
          });
      };
      const read = () => {
        const durable = consumerName();
        const consumer = new PullConsumer(nats, {
          stream: 'tasks',
          durable,
          ackWaitMs: 10_000,
          heartbeatMs: 3_000,
          inactiveMs,
          pendingMax,
          beforeMade: () => removeOthers(durable),
          capacity: () => Math.max(0, capacity() - inHand),
          onMessage: taken,
          // Later tasks would overtake what is missing: all that is not accepted is read again.
          onGap: () => {
            consumer.stop();
            read();
          },
        });
        reader = { durable, consumer };
        // The broker may be away for long: it is asked until it is back, or until the drain.
        void consumer.start();
      };
      read();
      return {
        async drain() {
          reader.consumer.drain();
          while (inHand > 0) await new Promise((resolve) => setTimeout(resolve, 10));
          const { consumer, durable } = reader;
          consumer.stop();
          await acknowledged(durable);
          await ask(nats, `$JS.API.CONSUMER.DELETE.${streams.tasks}.${durable}`, undefined).catch(
            () => undefined,
          );
        },
      };
    },
    async state() {
      // The floor is asked first: one that is older than the stream's first message cannot lie.
      const [name] = await consumers();
      const { ack_floor: floor } = name
        ? await ask<{ ack_floor?: { stream_seq: number } }>(
            nats,
            `$JS.API.CONSUMER.INFO.${streams.tasks}.${name}`,
            undefined,
          )
        : { ack_floor: undefined };
      const info = await ask<{ state?: { messages: number; first_seq: number } }>(
        nats,
        `$JS.API.STREAM.INFO.${streams.tasks}`,
        undefined,
      );
      const { messages: waiting = 0, first_seq: first = 0 } = info.state ?? {};
      return {
        waiting,
        stuck: waiting > 0 && first <= (floor?.stream_seq ?? 0),
        isTaken: name !== undefined,
      };
    },
  };
}
