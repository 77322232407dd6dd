/** STARTS: create-only records. The stream itself decides who was first: expected last sequence of the subject is 0. */
import { z } from 'zod';
import { Refused, Unavailable } from '../../core/errors.ts';
import { effectIdSchema } from '../../core/ids.ts';
import type { Starts } from '../../ports/starts.ts';
import { lastMessage, type Nats } from './connection.ts';
import { type PublishRefusal, wrongLastSequence } from './publisher.ts';
import { hear } from './subscription.ts';

const startSchema = z.object({
  effect: effectIdSchema,
  performer: z.string(),
  class: z.string(),
  nonce: z.string(),
  at: z.number(),
});

export function natsStarts(nats: Nats): Starts {
  const { subjects, streams, publisher, connection } = nats;
  let count = 0;
  return {
    async create(effect, performer, toolClass) {
      count += 1;
      // A publish that is sent again after a lost ack would be refused by its own first copy: the nonce tells.
      const nonce = `${performer}/${process.pid}/${count}`;
      try {
        await publisher.publish(
          subjects.start(effect),
          JSON.stringify({ effect, performer, class: toolClass, nonce, at: Date.now() }),
          {
            headers: { 'Nats-Expected-Last-Subject-Sequence': '0' },
          },
        );
        return { created: true };
      } catch (error) {
        const refusal =
          error instanceof Refused
            ? (error.details.refusal as PublishRefusal | undefined)
            : undefined;
        if (refusal?.errCode !== wrongLastSequence)
          throw error instanceof Refused
            ? new Unavailable('START_UNAVAILABLE', error.message, { cause: error })
            : error;
      }
      const message = await lastMessage(nats, streams.starts, {
        last_by_subj: subjects.start(effect),
      });
      if (!message)
        throw new Unavailable(
          'START_UNAVAILABLE',
          `the start record of ${effect} could not be read`,
        );
      const first = startSchema.parse(JSON.parse(message.text));
      return first.nonce === nonce ? { created: true } : { created: false, first };
    },

    async isHeld(performer, effect, waitMs) {
      try {
        const reply = await connection.request(subjects.holds(performer), effect, {
          timeout: waitMs,
        });
        return reply.string() === 'yes';
      } catch {
        return false; // nobody answers for it: it is dead, or as good as
      }
    },

    answerHolds(performer, holds) {
      hear(connection, subjects.holds(performer), (message) => {
        const effect = effectIdSchema.safeParse(message.string());
        message.respond(effect.success && holds(effect.data) ? 'yes' : 'no');
      });
    },
  };
}
