/** The control API as a NATS service (ADR-32): `$SRV.*` finds it, `nats req` talks to it. */
import { z } from 'zod';
import { messageOf, Unavailable, UnderstudyError } from '../../core/errors.ts';
import type { Control, ControlAnswer, HandOver } from '../../ports/control.ts';
import type { Nats } from './connection.ts';

const answerSchema = z.union([z.object({ ok: z.literal(true), value: z.unknown() }), z.object({ ok: z.literal(false), code: z.string(), message: z.string() })]);

const handOverSchema = z.object({ shard: z.number().int().min(0), host: z.string(), silentSince: z.number() });
const parsedJson = (text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

/** Verbs that change nothing. */
const reading = new Set(['list', 'inspect', 'approvals', 'dead', 'verify', 'doctor']);

export function natsControl(nats: Nats, version = '0.1.0'): Control {
  const { connection, subjects } = nats;
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
            if (error) return;
            void (async () => {
              let answer: ControlAnswer;
              try {
                answer = await handle(message.data.length === 0 ? {} : JSON.parse(message.string()));
              } catch (failure) {
                answer = {
                  ok: false,
                  code: failure instanceof UnderstudyError ? failure.code : failure instanceof SyntaxError ? 'NOT_JSON' : 'DEFECT',
                  message: messageOf(failure),
                };
              }
              message.respond(JSON.stringify(answer));
            })();
          },
        });
      }
      return { stop: async () => void (await service.stop()) };
    },
    async ask(verb, body, waitMs) {
      // The broker may hand a question to a runtime whose node is gone, until it notices: what only reads is asked once more.
      const request = () => connection.request(subjects.control(verb), JSON.stringify(body), { timeout: waitMs });
      try {
        const reply = await request().catch((error: Error) => (reading.has(verb) ? request() : Promise.reject(error)));
        return answerSchema.parse(JSON.parse(reply.string()));
      } catch (error) {
        throw new Unavailable('NO_RUNTIME', `no runtime answered "${verb}" within ${waitMs} ms (prefix ${subjects.prefix})`, { cause: error });
      }
    },
    announceReleased: (handOver) => connection.publish(subjects.released, JSON.stringify(handOver)),
    onReleased(listener) {
      connection.subscribe(subjects.released, {
        callback(error, message) {
          if (error) return;
          const parsed = handOverSchema.safeParse(parsedJson(message.string()));
          listener(parsed.success ? (parsed.data as HandOver) : undefined);
        },
      });
    },
  };
}
