/** The control API as a NATS service (ADR-32): `$SRV.*` finds it, `nats req` talks to it. */

import { z } from 'zod';
import { messageOf, Refused, Unavailable, UnderstudyError } from '../../core/errors.ts';
import { jsonOf, parseJson } from '../../core/json.ts';
import { limits } from '../../core/limits.ts';
import type { Control, ControlAnswer, HandOver } from '../../ports/control.ts';
import type { Nats } from './connection.ts';
import { hear, isInbox } from './subscription.ts';

const answerSchema = z.union([
  z.object({ ok: z.literal(true), value: z.unknown() }),
  z.object({ ok: z.literal(false), code: z.string(), message: z.string() }),
]);

const handOverSchema = z.object({
  shard: z.number().int().min(0),
  host: z.string(),
  silentSince: z.number(),
});

/** Of users of the chart that are no tenants. */
const servicesInboxes = /^_INBOX_(?:runtime|gateway|executor(?:-[a-z0-9-]+)?|console|operator)\./;

/** Verbs that change nothing. */
const reading = new Set(['list', 'count', 'inspect', 'approvals', 'dead', 'verify', 'doctor']);

export function natsControl(nats: Nats, version = '0.1.0'): Control {
  const { connection, subjects } = nats;
  const answerTo = async (
    data: Uint8Array,
    handle: (body: unknown) => Promise<ControlAnswer>,
  ): Promise<string> => {
    try {
      const body = data.length === 0 ? {} : parseJson(Buffer.from(data).toString('utf8'));
      const text = JSON.stringify(await handle(body));
      const [bytes, bytesMax] = [
        Buffer.byteLength(text),
        connection.info?.max_payload ?? limits.batchBytesMax,
      ];
      // It would be thrown at us where nobody catches it.
      if (bytes > bytesMax)
        throw new Refused(
          'ANSWER_TOO_LARGE',
          `the answer has ${bytes} bytes, and the broker carries ${bytesMax}: ask for fewer, or narrow it down by tenant, agent or status`,
        );
      return text;
    } catch (failure) {
      const code =
        failure instanceof UnderstudyError
          ? failure.code
          : failure instanceof SyntaxError || failure instanceof RangeError
            ? 'NOT_JSON'
            : 'DEFECT';
      return JSON.stringify({
        ok: false,
        code,
        message: messageOf(failure).slice(0, 2_000),
      } satisfies ControlAnswer);
    }
  };
  return {
    async serve(handlers) {
      const service = await connection.services.add({
        name: 'understudy-control',
        version,
        description: 'list, inspect, pause, resume, halt, approve, reject, dead letters, verify',
      });
      const group = service.addGroup(`${subjects.prefix}.control`);
      for (const [verb, handle] of Object.entries(handlers)) {
        group.addEndpoint(verb, {
          handler: (error, message) => {
            if (error || !isInbox(message.reply)) return;
            void answerTo(message.data, handle).then((text) => {
              try {
                message.respond(text);
              } catch {
                // The connection is being closed: who asked hears nothing, and asks another.
              }
            });
          },
        });
      }
      return { stop: async () => void (await service.stop()) };
    },
    async serveAsk(handle) {
      const subscription = connection.subscribe(subjects.ask('*'), {
        queue: 'ask',
        callback: (error, message) => {
          if (error || !isInbox(message.reply, servicesInboxes)) return;
          const tenant = message.subject.split('.').at(-2) ?? '';
          void answerTo(message.data, (body) => handle(tenant, body)).then((text) => {
            try {
              message.respond(text);
            } catch {
              // The connection is being closed: who asked hears nothing, and asks again.
            }
          });
        },
      });
      return { stop: async () => subscription.unsubscribe() };
    },
    async ask(verb, body, waitMs) {
      // The broker may hand a question to a runtime whose node is gone, until it notices: what only reads is asked once more.
      const request = () =>
        connection.request(subjects.control(verb), JSON.stringify(body), { timeout: waitMs });
      try {
        const reply = await request().catch((error: Error) =>
          reading.has(verb) ? request() : Promise.reject(error),
        );
        return answerSchema.parse(JSON.parse(reply.string()));
      } catch (error) {
        throw new Unavailable(
          'NO_RUNTIME',
          `no runtime answered "${verb}" within ${waitMs} ms: is one running under the prefix ${subjects.prefix}?`,
          { cause: error },
        );
      }
    },
    announceReleased: (handOver) => connection.publish(subjects.released, JSON.stringify(handOver)),
    onReleased(listener) {
      hear(connection, subjects.released, (message) => {
        const parsed = handOverSchema.safeParse(jsonOf(message.string()));
        listener(parsed.success ? (parsed.data as HandOver) : undefined);
      });
    },
  };
}
