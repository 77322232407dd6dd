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
      const taken: Share[] = [];
      try {
        for (const share of shares) {
          // What is refused is counted too.
          taken.push(share);
          try {
            await limiterOf(share).consume(tenant, pointsOf(share));
          } catch (error) {
            if (!(error instanceof RateLimiterRes)) throw error;
            for (const one of taken) await limiterOf(one).reward(tenant, pointsOf(one));
            return { what: share.what, waitMs: Math.max(50, error.msBeforeNext) };
          }
        }
        return undefined;
      } catch (error) {
        throw new Unavailable('STORE_UNAVAILABLE', 'Redis did not answer (rate limit)', { cause: error });
      }
    },
  };
}
