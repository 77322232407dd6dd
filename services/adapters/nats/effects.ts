/** EFFECTS: what sessions want, one pool of performers per consumer. Effects for one pool and tenant that gather during a publish leave as one message. */
import { z } from 'zod';
import { issuesOf, Refused, Unavailable } from '../../core/errors.ts';
import { effectIdSchema, type TenantId } from '../../core/ids.ts';
import { jsonOf } from '../../core/json.ts';
import { limits } from '../../core/limits.ts';
import { Recent } from '../../core/recent.ts';
import { type PooledEffect, poolOf } from '../../core/session/effects.ts';
import { parseEffects } from '../../core/wire/envelopes.ts';
import type { Effects } from '../../ports/effects.ts';
import { ask, batchBytesOf, type Nats } from './connection.ts';
import { Gatherer, joined } from './gatherer.ts';
import { PullConsumer } from './pull-consumer.ts';
import { declareStreams } from './streams.ts';
import { hear } from './subscription.ts';

const idsSchema = z.array(effectIdSchema);

export function natsEffects(nats: Nats): Effects {
  const { subjects, publisher } = nats;
  const lost: (() => void)[] = [];
  const tellLost = () => {
    for (const listener of lost) listener();
  };
  const gatherer = new Gatherer(
    (key, texts) => publisher.publish(key, joined(texts)),
    () => batchBytesOf(nats),
  );
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
    offer: (effect) =>
      gatherer.add(subjects.effect(poolOf(effect), effect.tenant), JSON.stringify(effect)),

    async take(pool, concurrency, perform, onRefused, isFull = () => false) {
      if (!/^[a-z0-9-]+$/.test(pool))
        throw new Refused('POOL_NAME', `pool ${pool} is no subject token`);
      const controllers = new Map<string, AbortController>();
      const subscription = hear(nats.connection, subjects.cancel(pool), (message) => {
        const ids = idsSchema.safeParse(jsonOf(message.string()));
        if (!ids.success)
          onRefused(
            message.string(),
            `a cancellation is a list of effect ids: ${issuesOf(ids.error)}`,
          );
        else
          for (const id of ids.data) {
            cancelled.set(id, true);
            controllers.get(id)?.abort();
          }
      });
      let inFlight = 0;
      // With empty hands nothing can become free: then one is begun, whatever is said.
      const hasRoom = () => inFlight < concurrency && (inFlight === 0 || !isFull());
      /** What came with a batch beyond the concurrency: kept alive, and begun as hands become free. */
      const waiting: { begin(): void; handBack(): void }[] = [];
      /** Effects that are being offered to others. */
      let handingBack = 0;
      /** Offered again after a while: at once, when this process goes. */
      const postponed = new Set<() => void>();
      /** Nobody waits for these any more: they are not begun, and not offered again. */
      const cancelled = new Recent<string, true>(20_000);
      /** Performed lately, so that a copy that comes late is not performed again. */
      const performed = new Recent<string, true>(20_000);
      const consumer = new PullConsumer(nats, {
        stream: 'effects',
        durable: `pool-${pool}`,
        filter: subjects.effect(pool, '*' as TenantId),
        ackWaitMs: limits.effectAckWaitMs,
        heartbeatMs: limits.effectHeartbeatMs,
        // A message may hold many effects, so ask for fewer messages as the hands fill.
        capacity: () =>
          inFlight + waiting.length >= concurrency || !hasRoom()
            ? 0
            : Math.max(1, Math.min(64, Math.ceil((concurrency - inFlight) / 8))),
        onStreamMade: tellLost,
        onMessage: (message) => {
          const parsed = parseEffects(message.text());
          let open = parsed.length;
          let again: number | undefined;
          const done = () => {
            open -= 1;
            if (open > 0) return;
            if (again !== undefined) message.handBack(again);
            else message.ack();
          };
          /** As others are to see it: what may have been begun, and who fell silent with it. */
          const copyOf = (effect: PooledEffect, mayHaveBegun: boolean): PooledEffect => {
            const lost = lostWith(effect);
            return {
              ...effect,
              ...(mayHaveBegun || effect.begun || lost > 0 ? { begun: true } : {}),
              ...(lost > 0 ? { lost } : {}),
            };
          };
          const lostWith = (effect: PooledEffect) => (effect.lost ?? 0) + message.tries - 1;
          /**
           * Offer one effect again after a while, as a new message: its neighbours are not performed
           * twice, and deliveries of one message count only performers that fell silent.
           */
          const later = (effect: PooledEffect, delayMs: number, mayHaveBegun: boolean) => {
            const offer = () => {
              clearTimeout(timer);
              postponed.delete(offer);
              handingBack += 1;
              void offerAgain(effect, delayMs, mayHaveBegun).finally(() => {
                handingBack -= 1;
              });
            };
            const timer = setTimeout(offer, delayMs);
            postponed.add(offer);
          };
          const offerAgain = (effect: PooledEffect, delayMs: number, mayHaveBegun: boolean) =>
            gatherer
              .add(
                subjects.effect(poolOf(effect), effect.tenant),
                JSON.stringify(copyOf(effect, mayHaveBegun)),
              )
              .then(done, () => {
                again = delayMs;
                done();
              });
          const handBack = async (effect: PooledEffect) => {
            handingBack += 1;
            await offerAgain(effect, 0, false);
            handingBack -= 1;
          };
          const begin = (effect: PooledEffect) => {
            const controller = new AbortController();
            controllers.set(effect.id, controller);
            inFlight += 1;
            const lost = lostWith(effect);
            const isRedelivered = lost > 0 || effect.begun === true;
            perform({ effect, signal: controller.signal, isRedelivered, lost })
              .then(
                (isPerformed) => {
                  if (isPerformed) performed.set(effect.id, true);
                  done();
                },
                (error: { retryAfterMs?: number; mayHaveBegun?: boolean }) => {
                  // Nobody waits for it: whatever its performer came to, it is not offered again.
                  if (cancelled.has(effect.id)) done();
                  else later(effect, error.retryAfterMs ?? 500, error.mayHaveBegun ?? true);
                },
              )
              .finally(() => {
                controllers.delete(effect.id);
                inFlight -= 1;
                if (hasRoom()) waiting.shift()?.begin();
              });
          };
          const judge = (effect: PooledEffect) => {
            if (performed.has(effect.id) || cancelled.has(effect.id)) done();
            // It is in hand already. This copy may be the last that the queue has, should we die: keep it there.
            else if (controllers.has(effect.id)) later(effect, limits.effectAckWaitMs, true);
            else begin(effect);
          };
          for (const item of parsed) {
            if (!item.ok) {
              onRefused(item.raw, item.problem);
              done();
              continue;
            }
            const { effect } = item;
            if (hasRoom() || controllers.has(effect.id)) judge(effect);
            else
              waiting.push({
                begin: () => {
                  const before = inFlight;
                  judge(effect);
                  // It took no hand: the next in line has it.
                  if (inFlight === before || hasRoom()) waiting.shift()?.begin();
                },
                handBack: () => void handBack(effect),
              });
          }
        },
      });
      await consumer.start();
      return {
        inFlight: () => inFlight,
        async drain() {
          consumer.drain();
          // What was not begun is for others, now: the next may take as long as what is under way.
          for (const one of waiting.splice(0)) one.handBack();
          for (const offer of [...postponed]) offer();
          while (inFlight > 0 || handingBack > 0)
            await new Promise((resolve) => setTimeout(resolve, 20));
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

    async pools(named = []) {
      const stream = nats.streams.effects;
      const { consumers: names } = await ask<{ consumers?: string[] | null }>(
        nats,
        `$JS.API.CONSUMER.NAMES.${stream}`,
        {},
      );
      const taken = (names ?? []).flatMap((name) => /^pool-(.*)/.exec(name)?.slice(1) ?? []);
      const others = [...new Set(named)].filter((pool) => !taken.includes(pool));
      return Promise.all([
        ...taken.map(async (pool) => {
          const info = await ask<{
            num_waiting: number;
            num_pending: number;
            num_ack_pending: number;
          }>(nats, `$JS.API.CONSUMER.INFO.${stream}.pool-${pool}`, undefined);
          return {
            pool,
            asking: info.num_waiting ?? 0,
            queued: info.num_pending ?? 0,
            inHand: info.num_ack_pending ?? 0,
          };
        }),
        // Nobody ever took from them: what was offered lies in the stream.
        ...others.map(async (pool) => {
          const info = await ask<{ state?: { subjects?: Record<string, number> } }>(
            nats,
            `$JS.API.STREAM.INFO.${stream}`,
            { subjects_filter: subjects.effect(pool, '*') },
          );
          const counts = Object.values(info.state?.subjects ?? {});
          const queued = counts.reduce((sum, count) => sum + count, 0);
          return { pool, asking: 0, queued, inHand: 0 };
        }),
      ]);
    },

    async life() {
      await declareStreams(nats, ['effects']);
      const info = await ask<{ created: string }>(
        nats,
        `$JS.API.STREAM.INFO.${nats.streams.effects}`,
        undefined,
      );
      if (info.error)
        throw new Unavailable(
          'NATS_UNAVAILABLE',
          `stream ${nats.streams.effects}: ${info.error.description}`,
        );
      return Date.parse(info.created);
    },

    onLost: (listener) => lost.push(listener),
  };
}
