/** Requests and tokens per minute of a tenant, shared by all gateways. */
import { RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { Unavailable } from '../../core/errors.ts';
import type { RateLimits } from '../../ports/performers.ts';
import type { ScriptedRedis } from './scripts.ts';

export function redisRateLimits(redis: ScriptedRedis, prefix = 'understudy'): RateLimits {
  const limiters = new Map<string, RateLimiterRedis>();
  return {
    async take(tenant, what, points, perMinute) {
      const name = `${what}:${perMinute}`;
      let limiter = limiters.get(name);
      if (!limiter) {
        limiter = new RateLimiterRedis({ storeClient: redis, keyPrefix: `${prefix}:rate:${what}`, points: perMinute, duration: 60 });
        limiters.set(name, limiter);
      }
      try {
        await limiter.consume(tenant, Math.min(points, perMinute));
        return 0;
      } catch (error) {
        if (error instanceof RateLimiterRes) return Math.max(50, error.msBeforeNext);
        throw new Unavailable('STORE_UNAVAILABLE', 'Redis did not answer (rate limit)', { cause: error });
      }
    },
  };
}
