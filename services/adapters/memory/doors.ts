/** Doors of providers, in memory. */
import type { Clock } from '../../ports/clock.ts';
import type { Doors, ShutDoor } from '../../ports/doors.ts';

export function memoryDoors(clock: Pick<Clock, 'now'>): Doors {
  const shut = new Map<string, ShutDoor>();
  const places = new Map<string, { holder: string; until: number }>();
  const keyOf = (door: string, index: number) => `${door}/${index}`;
  return {
    look: async (door) => shut.get(door),
    shut: async (door, why) => void shut.set(door, why),
    open: async (door) => void shut.delete(door),
    async enter(door, count, holder, durationMs) {
      for (let index = 0; index < count; index += 1) {
        const taken = places.get(keyOf(door, index));
        if (taken && taken.until > clock.now() && taken.holder !== holder) continue;
        places.set(keyOf(door, index), { holder, until: clock.now() + durationMs });
        return { door, index };
      }
      return undefined;
    },
    async stay({ door, index }, holder, durationMs) {
      const taken = places.get(keyOf(door, index));
      if (taken?.holder === holder) taken.until = clock.now() + durationMs;
    },
    async leave({ door, index }, holder) {
      if (places.get(keyOf(door, index))?.holder === holder) places.delete(keyOf(door, index));
    },
  };
}
