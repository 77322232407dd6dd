/** EFFECTS: what sessions want, one pool of performers per consumer. Effects for one pool and tenant that gather during a publish leave as one message. */

import { Hands } from '../../core/cluster/hands.ts';
import { Refused, Unavailable } from '../../core/errors.ts';
import type { TenantId } from '../../core/ids.ts';
import { limits } from '../../core/limits.ts';
import { type PooledEffect, poolOf } from '../../core/session/effects.ts';
import { parseEffects } from '../../core/wire/envelopes.ts';
import type { Effects } from '../../ports/effects.ts';
import { ask, type Nats } from './connection.ts';
import { Gatherer, joined } from './gatherer.ts';
import { PullConsumer, type PulledMessage } from './pull-consumer.ts';
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
      while (!nats.connection.isClosed()) {
        try {
          await declareStreams(nats, ['effects']);
          return tellLost();
        } catch {
          // JetStream may need long to wake up, and nobody else tells what was lost: go on until it answers.
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
      const hands = new Hands(concurrency);
      // Of a tenant that has its share some wait here. The rest waits in the queue, where others pass it, and other performers find it.
      const waitingMax = Math.min(concurrency, limits.batchMessagesMax);
      let handedBack = 0;
      let meanMs = 50; // of a call, lately
      /** It comes again when as many as were handed back before it are through, at the pace of late. */
      const handBack = (message: PulledMessage, tenant: TenantId) => {
        const turnMs = (handedBack * meanMs) / Math.max(1, hands.heldBy(tenant));
        const delayMs = Math.round(Math.min(30_000, Math.max(50, turnMs)) * (0.8 + 0.4 * Math.random()));
        handedBack += 1;
        setTimeout(() => {
          handedBack -= 1;
        }, delayMs).unref();
        message.handBack(delayMs);
      };
      /** Performed lately, so that a copy that comes late is not performed again. */
      const performed = new Set<string>();
      const remember = (id: string) => {
        performed.add(id);
        if (performed.size > 20_000) {
          for (const oldest of performed) {
            performed.delete(oldest);
            break;
          }
        }
      };
      const consumer = new PullConsumer(nats, {
        stream: 'effects',
        durable: `pool-${pool}`,
        filter: subjects.effect(pool, '*' as TenantId),
        ackWaitMs: limits.effectAckWaitMs,
        heartbeatMs: limits.effectHeartbeatMs,
        // A message may hold many effects, so ask for fewer messages as the hands fill.
        capacity: () => Math.min(64, Math.ceil(hands.free / 8)),
        onStreamMade: tellLost,
        onMessage: (message) => {
          const parsed = parseEffects(message.text());
          // All of one message are of one tenant: its subject names it.
          const tenant = message.subject.slice(message.subject.lastIndexOf('.') + 1) as TenantId;
          if (hands.waitingOf(tenant) >= waitingMax) return handBack(message, tenant);
          let open = parsed.length;
          let again = 0;
          const done = () => {
            open -= 1;
            if (open > 0) return;
            if (again > 0) message.handBack(again);
            else message.ack();
          };
          /** Offer one effect again after a while: of a batch only this one, so that its neighbours are not performed twice. */
          const later = (effect: PooledEffect, delayMs: number) => {
            if (parsed.length === 1) {
              again = Math.max(1, delayMs);
              return done();
            }
            setTimeout(() => {
              gatherer.add(subjects.effect(poolOf(effect), effect.tenant), JSON.stringify(effect)).then(done, () => {
                again = Math.max(1, delayMs);
                done();
              });
            }, delayMs);
          };
          const begin = (effect: PooledEffect) => {
            const controller = new AbortController();
            controllers.set(effect.id, controller);
            const from = performance.now();
            perform({ effect, signal: controller.signal, isRedelivered: message.tries > 1 })
              .then(
                (isPerformed) => {
                  if (isPerformed) remember(effect.id);
                  done();
                },
                (error: { retryAfterMs?: number }) => later(effect, error.retryAfterMs ?? 500),
              )
              .finally(() => {
                meanMs += (performance.now() - from - meanMs) / 32;
                controllers.delete(effect.id);
                hands.release(tenant);
              });
          };
          for (const item of parsed) {
            if (!item.ok) {
              onRefused(item.raw, item.problem);
              done();
              continue;
            }
            const { effect } = item;
            const skip = () => {
              hands.release(tenant);
              done();
            };
            hands.take(tenant, {
              begin() {
                if (performed.has(effect.id)) skip();
                // It is in hand already. This copy may be the last that the queue has, should we die: keep it there.
                else if (controllers.has(effect.id)) {
                  hands.release(tenant);
                  later(effect, limits.effectAckWaitMs);
                } else begin(effect);
              },
              giveBack: () => later(effect, 0),
            });
          }
        },
      });
      await consumer.start();
      return {
        inFlight: () => hands.busy,
        async drain() {
          consumer.drain();
          hands.giveBackAll();
          while (hands.busy > 0) await new Promise((resolve) => setTimeout(resolve, 20));
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

    async pools() {
      const stream = nats.streams.effects;
      const { consumers = [] } = await ask<{ consumers?: string[] }>(nats, `$JS.API.CONSUMER.NAMES.${stream}`, {});
      return Promise.all(
        consumers
          .filter((name) => name.startsWith('pool-'))
          .map(async (name) => {
            const info = await ask<{ num_waiting: number; num_pending: number; num_ack_pending: number }>(nats, `$JS.API.CONSUMER.INFO.${stream}.${name}`, undefined);
            return { pool: name.slice('pool-'.length), asking: info.num_waiting ?? 0, queued: info.num_pending ?? 0, inHand: info.num_ack_pending ?? 0 };
          }),
      );
    },

    async life() {
      await declareStreams(nats, ['effects']);
      const info = await ask<{ created: string }>(nats, `$JS.API.STREAM.INFO.${nats.streams.effects}`, undefined);
      if (info.error) throw new Unavailable('NATS_UNAVAILABLE', `stream ${nats.streams.effects}: ${info.error.description}`);
      return Date.parse(info.created);
    },

    onLost: (listener) => lost.push(listener),
  };
}
