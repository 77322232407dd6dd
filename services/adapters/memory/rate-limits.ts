/** Fixed windows of a minute, in memory. */
import type { Clock } from '../../ports/clock.ts';
import type { RateLimits } from '../../ports/performers.ts';

export function memoryRateLimits(clock: Pick<Clock, 'now'>): RateLimits {
  const windows = new Map<string, { since: number; points: number }>();
  return {
    async take(tenant, charges) {
      const now = clock.now();
      const open = charges.map(({ what, points, perMinute }) => {
        const known = windows.get(`${tenant}/${what}`);
        const window = known && now - known.since < 60_000 ? known : { since: now, points: 0 };
        windows.set(`${tenant}/${what}`, window);
        return { what, window, after: window.points + Math.min(points, perMinute), perMinute };
      });
      const full = open.find(({ after, perMinute }) => after > perMinute);
      if (full)
        return { what: full.what, waitMs: Math.max(50, 60_000 - (now - full.window.since)) };
      for (const { window, after } of open) window.points = after;
      return undefined;
    },
  };
}
