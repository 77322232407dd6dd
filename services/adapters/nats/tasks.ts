/** TASKS: the front door. Whatever is published there is handed on as it is; judging it is the runtime's part. */
import { messageOf, Refused } from '../../core/errors.ts';
import type { RawTask, Tasks } from '../../ports/tasks.ts';
import type { Nats } from './connection.ts';
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

export function natsTasks(nats: Nats): Tasks {
  const { subjects, publisher } = nats;
  return {
    async publish(tenant, agent, body, headers) {
      // In a line of the protocol a space would end the subject, and the connection with it.
      for (const name of [tenant, agent])
        if (!isTokens.test(name))
          throw new Refused(
            'SUBJECT_INVALID',
            `"${name.slice(0, 64)}" can be no part of a subject`,
          );
      await publisher.publish(
        subjects.task(tenant, agent),
        body,
        Object.keys(headers).length > 0 ? { headers } : {},
      );
    },
    async take(capacity, accept) {
      let inHand = 0;
      const consumer = new PullConsumer(nats, {
        stream: 'tasks',
        durable: 'intake',
        filter: subjects.all('task'),
        ackWaitMs: 10_000,
        heartbeatMs: 3_000,
        capacity: () => Math.max(0, capacity() - inHand),
        onMessage: (message) => {
          const [, , tenant = '', ...rest] = message.subject
            .slice(subjects.prefix.length)
            .split('.');
          const agent = rest.join('.');
          const task: RawTask = {
            tenant,
            agent,
            subject: message.subject,
            body: message.text(),
            ...headersOf(message),
            sequenceId: `task-${message.sequence}`,
          };
          inHand += 1;
          accept(task)
            .then(
              () => message.ack(),
              () => message.handBack(1_000),
            )
            .finally(() => {
              inHand -= 1;
              consumer.pull();
            });
        },
      });
      await consumer.start();
      return {
        async drain() {
          consumer.drain();
          while (inHand > 0) await new Promise((resolve) => setTimeout(resolve, 10));
          consumer.stop();
        },
      };
    },
  };
}
