/**
 * One executor of a pool is asked about an MCP server, and answers on a subject of its own: a reply
 * address would show executors, which run foreign code, where we hear the broker.
 */
import { randomUUID } from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import type { Msg } from 'nats';
import { z } from 'zod';
import { messageOf } from '../../core/errors.ts';
import { jsonOf } from '../../core/json.ts';
import { failed, failureSchema, type Outcome } from '../../core/tools/job.ts';
import { type Listing, listingSchema } from '../../core/tools/mcp-listing.ts';
import { mcpRunSchema } from '../../core/tools/mcp-run.ts';
import type { ServerQuestion, ServerQuestions, SignInState } from '../../ports/listings.ts';
import type { Nats } from './connection.ts';
import { hear } from './subscription.ts';

const signMs = 1_000; // between two signs of who is at it
const slackMs = 30_000; // beyond what its server may take: whoever gives signs for ever answers nothing
const silenceMs = 3_000; // without one nobody is at it, or nobody any more
const answerBytesMax = 8 * 1024 * 1024; // unpacked: who answers runs foreign code
const packedBytesMax = 900_000; // one message of the broker

const questionSchema = z.object({
  id: z.uuid(),
  server: z.string().max(64),
  run: mcpRunSchema,
  timeoutMs: z.number().int().positive().max(3_600_000),
  /** A person signs in: to begin, or with where the browser was sent back to. */
  signIn: z.object({ callback: z.string().max(8_192).optional() }).optional(),
});
const outcomeOf = <Value extends z.ZodType>(value: Value) =>
  z.discriminatedUnion('ok', [
    z.object({ ok: z.literal(true), value }),
    z.object({ ok: z.literal(false), failure: failureSchema }),
  ]);
const listedSchema: z.ZodType<Outcome<Listing>> = outcomeOf(listingSchema);
const signInSchema: z.ZodType<Outcome<SignInState>> = outcomeOf(
  z.object({ url: z.url({ protocol: /^https?$/ }).nullable() }),
);

function packed(answer: Outcome<unknown>): Buffer {
  const bytes = deflateRawSync(Buffer.from(JSON.stringify(answer)));
  if (bytes.length <= packedBytesMax) return bytes;
  const message = `what it says of its tools takes ${bytes.length} bytes, of ${packedBytesMax}`;
  return packed(failed('permanent', 'MCP_LISTING_TOO_LARGE', message));
}

function unpacked<Value>(
  bytes: Uint8Array,
  schema: z.ZodType<Outcome<Value>>,
): Outcome<Value> | undefined {
  try {
    const text = inflateRawSync(bytes, { maxOutputLength: answerBytesMax }).toString('utf8');
    return schema.safeParse(jsonOf(text)).data;
  } catch {
    return undefined;
  }
}

const announcedSchema = z.object({ hash: z.string().max(64), by: z.string() });

export function natsServerQuestions({ connection, subjects }: Nats): ServerQuestions {
  const self = randomUUID();
  function ask<Value>(
    { pool, ...question }: ServerQuestion,
    more: object,
    schema: z.ZodType<Outcome<Value>>,
  ): Promise<Outcome<Value>> {
    const id = randomUUID();
    return new Promise((resolve) => {
      const from = performance.now();
      let heardAt = from;
      const told = (answer: Outcome<Value>) => {
        clearInterval(looking);
        hearing.unsubscribe();
        resolve(answer);
      };
      const hearing = hear(connection, subjects.served(id), (message) => {
        heardAt = performance.now();
        const answer = unpacked(message.data, schema);
        if (answer) told(answer);
      });
      const looking = setInterval(() => {
        const now = performance.now();
        if (now - heardAt > silenceMs || now - from > question.timeoutMs + slackMs)
          told(failed('transient', 'MCP_UNHEARD', `no executor of pool ${pool} answers`));
      }, signMs / 2);
      looking.unref();
      connection.publish(subjects.server(pool), JSON.stringify({ id, ...question, ...more }));
    });
  }
  return {
    list: (question) => ask(question, {}, listedSchema),
    signIn: (question, callback) =>
      ask(question, { signIn: callback === undefined ? {} : { callback } }, signInSchema),
    announce: (hash) => connection.publish(subjects.listed, JSON.stringify({ hash, by: self })),
    onAnnounced(listener) {
      hear(connection, subjects.listed, (message) => {
        const { success, data } = announcedSchema.safeParse(jsonOf(message.string()));
        if (success && data.by !== self) listener(data.hash);
      });
    },
    answer(pool, { list, signIn }) {
      const asked = (message: Msg) => {
        const { success, data } = questionSchema.safeParse(jsonOf(message.string()));
        if (!success) return;
        const { id, signIn: person, ...question } = data;
        // Who is being stopped has no connection any more, and is asked by nobody.
        const say = (bytes?: Uint8Array) =>
          connection.isClosed() ? undefined : connection.publish(subjects.served(id), bytes);
        say();
        const signing = setInterval(say, signMs);
        const answering: Promise<Outcome<unknown>> = person
          ? signIn(question, person.callback)
          : list(question, AbortSignal.timeout(question.timeoutMs));
        void answering
          .catch((error: unknown) =>
            failed('permanent', 'EXECUTOR_DEFECT', messageOf(error).slice(0, 200)),
          )
          .then((answer) => say(packed(answer)))
          .catch(() => undefined) // who asks is told by the silence
          .finally(() => clearInterval(signing));
      };
      hear(connection, subjects.server(pool), asked, undefined, 'executors');
    },
  };
}
