/** Requests and tokens per minute of a tenant, shared by all gateways. */
import { RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { Unavailable } from '../../core/errors.ts';
import type { RateLimits, Share } from '../../ports/performers.ts';
import type { ScriptedRedis } from './scripts.ts';

export function redisRateLimits(redis: ScriptedRedis, prefix = 'understudy'): RateLimits {
  const limiters = new Map<string, RateLimiterRedis>();
  const limiterOf = ({ what, perMinute }: Share): RateLimiterRedis => {
    const name = `${what}:${perMinute}`;
    let limiter = limiters.get(name);
    if (!limiter) {
      limiter = new RateLimiterRedis({ storeClient: redis, keyPrefix: `${prefix}:rate:${what}`, points: perMinute, duration: 60 });
      limiters.set(name, limiter);
    }
    return limiter;
  };
  const pointsOf = ({ points, perMinute }: Share) => Math.min(points, perMinute);
  return {
    async take(tenant, shares) {
      try {
        // Looked at first, so that who is told to wait has used nothing; taken then by the library's own script, which lets none take more than there is. Of
        // those that look at once, one that comes too late for its last share has used the ones before it: until the minute is over, and too little.
        for (const share of shares) {
          const known = await limiterOf(share).get(tenant);
          if (known && known.consumedPoints + pointsOf(share) > share.perMinute) return { what: share.what, waitMs: Math.max(50, known.msBeforeNext) };
        }
        for (const share of shares) {
          try {
            await limiterOf(share).consume(tenant, pointsOf(share));
          } catch (error) {
            if (error instanceof RateLimiterRes) return { what: share.what, waitMs: Math.max(50, error.msBeforeNext) };
            throw error;
          }
        }
        return undefined;
      } catch (error) {
        throw new Unavailable('STORE_UNAVAILABLE', 'Redis did not answer (rate limit)', { cause: error });
      }
    },
  };
}
