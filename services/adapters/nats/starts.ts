/** STARTS: create-only records. The stream itself decides who was first: expected last sequence of the subject is 0. */
import { ErrorCode, type Msg } from 'nats';
import { z } from 'zod';
import { Refused, Unavailable } from '../../core/errors.ts';
import {
  type EffectId,
  effectIdSchema,
  type ShardId,
  sessionIdSchema,
  tenantIdSchema,
} from '../../core/ids.ts';
import { jsonOf } from '../../core/json.ts';
import type { Holding, Start, Starts } from '../../ports/starts.ts';
import { lastMessage, type Nats } from './connection.ts';
import { isOvertaken } from './publisher.ts';
import { NobodyListens } from './requests.ts';
import { hear, isInbox } from './subscription.ts';

const startSchema = z.object({
  effect: effectIdSchema,
  performer: z.string(),
  class: z.string(),
  nonce: z.string(),
  at: z.number(),
});

const relistenMs = 5_000;
const wantedSchema = z.object({
  shard: z
    .number()
    .int()
    .min(0)
    .transform((shard) => shard as ShardId),
  tenant: tenantIdSchema,
  session: sessionIdSchema,
  effect: effectIdSchema,
});

/** On the wire: `yes` and `no` are also what earlier versions say and understand. */
const words: Readonly<Record<string, Holding>> = { yes: 'holding', done: 'done', no: 'unknown' };
const answers: Readonly<Record<Holding, string>> = {
  holding: 'yes',
  done: 'done',
  unknown: 'no',
  slow: 'no',
  gone: 'no',
};

/** A record that does not parse is somebody's all the same: of nobody who could be asked. */
function startOf(effect: EffectId, text: string): Start & { readonly nonce?: string } {
  const parsed = startSchema.safeParse(jsonOf(text));
  return parsed.success ? parsed.data : { effect, performer: 'unreadable', at: 0 };
}

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
        if (!isOvertaken(error))
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
      const first = startOf(effect, message.text);
      return first.nonce === nonce ? { created: true } : { created: false, first };
    },

    async holds(performer, effect, waitMs) {
      try {
        const reply = await connection.request(subjects.holds(performer), effect, {
          timeout: waitMs,
        });
        return words[reply.string()] ?? 'unknown';
      } catch (error) {
        // Only that nobody listens is proof: who does not answer in time may stand still, and go on.
        return (error as { code?: string }).code === ErrorCode.NoResponders ? 'gone' : 'slow';
      }
    },

    async isWanted(call, waitMs) {
      try {
        const text = await nats.requests.ask(
          subjects.wanted(call.shard),
          JSON.stringify(call),
          waitMs,
        );
        return text === 'yes' ? true : text === 'no' ? false : undefined;
      } catch (error) {
        return error instanceof NobodyListens ? 'unheard' : undefined;
      }
    },

    answerWanted(answer) {
      const told = (message: Msg) => {
        const call = wantedSchema.safeParse(jsonOf(message.string()));
        if (!call.success || !isInbox(message.reply)) return;
        // Who cannot say keeps silent: the owner answers.
        answer(call.data).then(
          (isWanted) => isWanted !== undefined && message.respond(isWanted ? 'yes' : 'no'),
          () => undefined,
        );
      };
      // A broker whose users were not brought up to date yet forbids it: later it may not.
      const listen = () => {
        if (connection.isClosed()) return;
        hear(connection, subjects.wanted('*'), told, () => setTimeout(listen, relistenMs).unref());
      };
      listen();
    },

    answerHolds(performer, holds) {
      hear(connection, subjects.holds(performer), (message) => {
        if (!isInbox(message.reply)) return;
        const effect = effectIdSchema.safeParse(message.string());
        message.respond(answers[effect.success ? holds(effect.data) : 'unknown']);
      });
    },
  };
}
