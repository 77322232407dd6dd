/** Fixed windows of a minute, in memory. */
import type { Clock } from '../../ports/clock.ts';
import type { RateLimits } from '../../ports/performers.ts';

export function memoryRateLimits(clock: Pick<Clock, 'now'>): RateLimits {
  const windows = new Map<string, { since: number; points: number }>();
  return {
    async take(tenant, what, points, perMinute) {
      const key = `${tenant}/${what}`;
      const now = clock.now();
      const window = windows.get(key);
      if (!window || now - window.since >= 60_000) {
        windows.set(key, { since: now, points: Math.min(points, perMinute) });
        return 0;
      }
      if (window.points + Math.min(points, perMinute) > perMinute) return 60_000 - (now - window.since);
      window.points += Math.min(points, perMinute);
      return 0;
    },
  };
}
