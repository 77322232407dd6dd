/** Effects, start records, tasks and control in memory: one process, no servers. */

import { Unavailable } from '../../core/errors.ts';
import type { EffectId } from '../../core/ids.ts';
import { type PooledEffect, poolOf } from '../../core/session/effects.ts';
import { parseEffects } from '../../core/wire/envelopes.ts';
import { taskHeaders } from '../../core/wire/task-headers.ts';
import type { Clock } from '../../ports/clock.ts';
import type { Control, HandOver } from '../../ports/control.ts';
import type { Effects, Taken } from '../../ports/effects.ts';
import type { Holding, Start, Starts } from '../../ports/starts.ts';
import type { RawTask, Tasks } from '../../ports/tasks.ts';

export interface MemoryEffects extends Effects {
  /** Lose what is queued, and say so, as a broker does that kept it in memory. */
  lose(): void;
}

export function memoryEffects(clock: Clock): MemoryEffects {
  interface Taker {
    readonly concurrency: number;
    readonly isFull: () => boolean;
    readonly perform: (taken: Taken) => Promise<boolean>;
    readonly onRefused: (raw: string, problem: string) => void;
    readonly inHand: Map<string, AbortController>;
    readonly performed: Set<string>;
    readonly cancelled: Set<string>;
    isOpen: boolean;
  }
  const queues = new Map<string, { text: string; tries: number }[]>();
  const takers = new Map<string, Taker[]>();
  const lost: (() => void)[] = [];
  let lives = 1;
  const queueOf = (pool: string) => {
    let queue = queues.get(pool);
    if (!queue) {
      queue = [];
      queues.set(pool, queue);
    }
    return queue;
  };
  const pump = (pool: string) => {
    const queue = queueOf(pool);
    for (const taker of takers.get(pool) ?? []) {
      const hasRoom = () =>
        taker.inHand.size < taker.concurrency && (taker.inHand.size === 0 || !taker.isFull());
      while (taker.isOpen && hasRoom() && queue.length > 0) {
        const queued = queue.shift()!;
        for (const parsed of parseEffects(queued.text)) {
          if (parsed.ok) begin(pool, taker, parsed.effect, queued);
          else taker.onRefused(parsed.raw, parsed.problem);
        }
      }
    }
  };
  const begin = (
    pool: string,
    taker: Taker,
    effect: PooledEffect,
    queued: { text: string; tries: number },
  ) => {
    const { inHand, performed, cancelled } = taker;
    if (inHand.has(effect.id) || performed.has(effect.id) || cancelled.has(effect.id)) return; // it came twice; the one in hand answers, or has
    const controller = new AbortController();
    taker.inHand.set(effect.id, controller);
    taker
      .perform({
        effect,
        signal: controller.signal,
        isRedelivered: queued.tries > 0,
        lost: effect.lost ?? 0,
      })
      .then((isPerformed) => {
        if (isPerformed) taker.performed.add(effect.id);
      })
      .catch(async (error: { retryAfterMs?: number; mayHaveBegun?: boolean }) => {
        if (taker.cancelled.has(effect.id)) return;
        await clock.sleep(error.retryAfterMs ?? 50);
        const tries = queued.tries + ((error.mayHaveBegun ?? true) ? 1 : 0);
        queueOf(pool).push({ text: queued.text, tries });
      })
      .finally(() => {
        taker.inHand.delete(effect.id);
        setImmediate(() => pump(pool));
      });
  };
  return {
    async offer(effect) {
      const pool = poolOf(effect);
      queueOf(pool).push({ text: JSON.stringify(effect), tries: 0 });
      setImmediate(() => pump(pool));
    },
    async take(pool, concurrency, perform, onRefused, isFull = () => false) {
      const taker: Taker = {
        concurrency,
        isFull,
        perform,
        onRefused,
        inHand: new Map(),
        performed: new Set(),
        cancelled: new Set(),
        isOpen: true,
      };
      takers.set(pool, [...(takers.get(pool) ?? []), taker]);
      pump(pool);
      return {
        inFlight: () => taker.inHand.size,
        async drain() {
          taker.isOpen = false;
          while (taker.inHand.size > 0) await clock.sleep(10);
        },
        async stop() {
          taker.isOpen = false;
          for (const controller of taker.inHand.values()) controller.abort();
        },
      };
    },
    cancel(pool, ids) {
      for (const taker of takers.get(pool) ?? [])
        for (const id of ids) {
          taker.cancelled.add(id);
          taker.inHand.get(id)?.abort();
        }
    },
    pools: async (named = []) =>
      [...new Set([...takers.keys(), ...named])].map((pool) => {
        const all = [...(takers.get(pool) ?? [])];
        return {
          pool,
          asking: all.filter(({ isOpen }) => isOpen).length,
          queued: queueOf(pool).length,
          inHand: all.reduce((sum, { inHand }) => sum + inHand.size, 0),
        };
      }),
    life: async () => lives,
    onLost: (listener) => lost.push(listener),
    lose() {
      lives += 1;
      queues.clear();
      for (const listener of lost) listener();
    },
  };
}

export function memoryStarts(clock: Pick<Clock, 'now'>): Starts {
  const starts = new Map<EffectId, Start>();
  const holders = new Map<string, (effect: EffectId) => Holding>();
  let wanted: Parameters<Starts['answerWanted']>[0] | undefined;
  return {
    async create(effect, performer) {
      const first = starts.get(effect);
      if (first) return { created: false, first };
      starts.set(effect, { effect, performer, at: clock.now() });
      return { created: true };
    },
    isWanted: async (call) => (wanted ? wanted(call) : true),
    answerWanted: (answer) => {
      wanted = answer;
    },
    holds: async (performer, effect) => holders.get(performer)?.(effect) ?? 'gone',
    answerHolds: (performer, holds) => void holders.set(performer, holds),
  };
}

export function memoryTasks(): Tasks {
  const queue: RawTask[] = [];
  let accepting: ((task: RawTask) => Promise<void>) | undefined;
  let capacity: () => number = () => 0;
  let count = 0;
  let inHand = 0;
  const pump = () => {
    while (accepting && queue.length > 0 && inHand < capacity()) {
      const task = queue.shift()!;
      inHand += 1;
      accepting(task)
        .catch(
          () =>
            void setTimeout(() => {
              queue.push(task);
              pump();
            }, 100),
        )
        .finally(() => {
          inHand -= 1;
          setImmediate(pump);
        });
    }
  };
  const put = (task: Omit<RawTask, 'sequence' | 'sequenceId'>) => {
    count += 1;
    queue.push({ ...task, sequence: count, sequenceId: `task-${count}` });
    setImmediate(pump);
  };
  return {
    publish: async (tenant, agent, body, headers) => {
      const subject = `understudy.task.${tenant}.${agent}`;
      put({ tenant, agent, subject, body, headers: taskHeaders(headers) });
    },
    tell: async (tenant, session, body, headers) => {
      const subject = `understudy.tell.${tenant}.${session}`;
      put({ tenant, agent: '', session, subject, body, headers });
    },
    take(room, accept) {
      capacity = room;
      accepting = accept;
      setImmediate(pump);
      return {
        async drain() {
          accepting = undefined;
          while (inHand > 0) await new Promise((resolve) => setTimeout(resolve, 5));
        },
      };
    },
    state: async () => ({ waiting: queue.length, stuck: false, isTaken: accepting !== undefined }),
  };
}

export function memoryControl(): Control {
  let handlers: Parameters<Control['serve']>[0] = {};
  const listeners: ((handOver: HandOver | undefined) => void)[] = [];
  return {
    serveAsk: async () => ({ stop: async () => undefined }),
    async serve(given) {
      handlers = given;
      return {
        stop: async () => {
          handlers = {};
        },
      };
    },
    async ask(verb, body) {
      const handle = handlers[verb];
      if (!handle) throw new Unavailable('NO_RUNTIME', `nobody answers "${verb}"`);
      try {
        return await handle(JSON.parse(JSON.stringify(body)));
      } catch (error) {
        const { code, message } = error as { code?: string; message: string };
        return { ok: false, code: code ?? 'DEFECT', message };
      }
    },
    announceReleased: (handOver) => {
      for (const listener of listeners) listener(handOver);
    },
    onReleased: (listener) => listeners.push(listener),
  };
}
