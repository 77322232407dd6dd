/** Doors of providers in Redis: a note for each that is shut, a key for each place that is taken. */
import { z } from 'zod';
import { Unavailable } from '../../core/errors.ts';
import { jsonOf } from '../../core/json.ts';
import type { Doors } from '../../ports/doors.ts';
import type { ScriptedRedis } from './scripts.ts';

const shutSchema = z.object({
  openAt: z.number(),
  since: z.number(),
  times: z.number().int().nonnegative(),
  code: z.string().max(64),
  message: z.string().max(2_000),
});

const keptMs = 60_000; // beyond its time: whoever is refused again then goes on counting

export function redisDoors(
  redis: ScriptedRedis,
  prefix = 'understudy',
  now: () => number = Date.now,
): Doors {
  const doorKey = (door: string) => `${prefix}:rate:{${door}}:door`;
  const placeKey = (door: string, index: number) => `${prefix}:rate:{${door}}:place:${index}`;
  const answering = async <Value>(asked: Promise<Value>): Promise<Value> => {
    try {
      return await asked;
    } catch (cause) {
      throw new Unavailable('STORE_UNAVAILABLE', 'Redis did not answer (door)', { cause });
    }
  };
  return {
    async look(door) {
      const text = await answering(redis.get(doorKey(door)));
      // Written by others: what does not parse shuts nothing.
      const parsed = shutSchema.safeParse(text === null ? undefined : jsonOf(text));
      return parsed.success ? parsed.data : undefined;
    },
    async shut(door, why) {
      const ms = Math.max(1, Math.ceil(why.openAt - now())) + keptMs;
      await answering(redis.set(doorKey(door), JSON.stringify(why), 'PX', ms));
    },
    async open(door) {
      // A gateway has no right to DEL.
      await answering(redis.pexpire(doorKey(door), 1));
    },
    async enter(door, places, holder, durationMs) {
      const keys = Array.from({ length: places }, (_, index) => placeKey(door, index));
      const from = Math.floor(Math.random() * places);
      const index = await answering(
        redis.understudyEnter(keys.length, ...keys, holder, durationMs, from),
      );
      return index < 0 ? undefined : { door, index };
    },
    async stay({ door, index }, holder, durationMs) {
      const key = placeKey(door, index);
      await answering(redis.understudyStay(key, holder, durationMs));
    },
    async leave({ door, index }, holder) {
      await answering(redis.understudyStay(placeKey(door, index), holder, 1));
    },
  };
}
