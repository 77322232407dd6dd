/** EFFECTS: what sessions want, one pool of performers per consumer. Effects for one pool and tenant that gather during a publish leave as one message. */
import { Refused } from '../../core/errors.ts';
import type { TenantId } from '../../core/ids.ts';
import { limits } from '../../core/limits.ts';
import { poolOf } from '../../core/session/effects.ts';
import { parseEffects } from '../../core/wire/envelopes.ts';
import type { Effects } from '../../ports/effects.ts';
import type { Nats } from './connection.ts';
import { Gatherer, joined } from './gatherer.ts';
import { PullConsumer } from './pull-consumer.ts';
import { declareStreams } from './streams.ts';

export function natsEffects(nats: Nats): Effects {
  const { subjects, publisher } = nats;
  const lost: (() => void)[] = [];
  const tellLost = () => {
    for (const listener of lost) listener();
  };
  const gatherer = new Gatherer((key, texts) => publisher.publish(key, joined(texts)));
  // The stream may live in memory: after a reconnect it may be empty without a word.
  nats.onReconnect(() => {
    void (async () => {
      for (let attempt = 0; attempt < 50; attempt += 1) {
        try {
          await declareStreams(nats, ['effects']);
          return tellLost();
        } catch {
          await new Promise((resolve) => setTimeout(resolve, 200));
        }
      }
    })();
  });

  return {
    offer: (effect) => gatherer.add(subjects.effect(poolOf(effect), effect.tenant), JSON.stringify(effect)),

    async take(pool, concurrency, perform, onRefused) {
      if (!/^[a-z0-9-]+$/.test(pool)) throw new Refused('POOL_NAME', `pool ${pool} is no subject token`);
      const controllers = new Map<string, AbortController>();
      const subscription = nats.connection.subscribe(subjects.cancel(pool), {
        callback: (error, message) => {
          if (error) return;
          const ids = message.json<string[]>();
          for (const id of Array.isArray(ids) ? ids : []) controllers.get(id)?.abort();
        },
      });
      let inFlight = 0;
      const consumer = new PullConsumer(nats, {
        stream: 'effects',
        durable: `pool-${pool}`,
        filter: subjects.effect(pool, '*' as TenantId),
        ackWaitMs: limits.effectAckWaitMs,
        heartbeatMs: limits.effectHeartbeatMs,
        // A message may hold many effects, so ask for fewer messages as the hands fill.
        capacity: () => (inFlight >= concurrency ? 0 : Math.max(1, Math.min(64, Math.ceil((concurrency - inFlight) / 8)))),
        onStreamMade: tellLost,
        onMessage: (message) => {
          const parsed = parseEffects(message.text());
          let open = parsed.length;
          let again = 0;
          const done = () => {
            open -= 1;
            if (open > 0) return;
            if (again > 0) message.handBack(again);
            else message.ack();
          };
          for (const item of parsed) {
            if (!item.ok) {
              onRefused(item.raw, item.problem);
              done();
              continue;
            }
            const { effect } = item;
            // This very process performs it already: it came twice. The one in hand will answer.
            if (controllers.has(effect.id)) {
              done();
              continue;
            }
            const controller = new AbortController();
            controllers.set(effect.id, controller);
            inFlight += 1;
            perform({ effect, signal: controller.signal, isRedelivered: message.tries > 1 })
              .catch((error: { retryAfterMs?: number }) => {
                again = Math.max(again, error.retryAfterMs ?? 500);
              })
              .finally(() => {
                controllers.delete(effect.id);
                inFlight -= 1;
                done();
              });
          }
        },
      });
      await consumer.start();
      return {
        inFlight: () => inFlight,
        async drain() {
          consumer.drain();
          while (inFlight > 0) await new Promise((resolve) => setTimeout(resolve, 20));
        },
        async stop() {
          subscription.unsubscribe();
          consumer.stop();
          for (const controller of controllers.values()) controller.abort();
        },
      };
    },

    cancel(pool, ids) {
      nats.connection.publish(subjects.cancel(pool), JSON.stringify(ids));
    },

    onLost: (listener) => lost.push(listener),
  };
}
