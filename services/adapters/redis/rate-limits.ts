/** Requests and tokens per minute of a tenant, shared by all gateways. */
import { RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible';
import { Unavailable } from '../../core/errors.ts';
import type { Charge, RateLimits } from '../../ports/performers.ts';
import type { ScriptedRedis } from './scripts.ts';

export function redisRateLimits(redis: ScriptedRedis, prefix = 'understudy'): RateLimits {
  const limiters = new Map<string, RateLimiterRedis>();
  const limiterOf = ({ what, perMinute }: Charge): RateLimiterRedis => {
    const name = `${what}:${perMinute}`;
    let limiter = limiters.get(name);
    if (!limiter) {
      limiter = new RateLimiterRedis({
        storeClient: redis,
        keyPrefix: `${prefix}:rate:${what}`,
        points: perMinute,
        duration: 60,
      });
      limiters.set(name, limiter);
    }
    return limiter;
  };
  const pointsOf = ({ points, perMinute }: Charge) => Math.min(points, perMinute);
  return {
    async take(tenant, charges) {
      try {
        // Looked at first, so that who is told to wait has used nothing; then taken, by the library's own script, which lets none take more than there is.
        const known = await Promise.all(charges.map((charge) => limiterOf(charge).get(tenant)));
        for (const [index, charge] of charges.entries()) {
          const used = known[index];
          if (used && used.consumedPoints + pointsOf(charge) > charge.perMinute)
            return { what: charge.what, waitMs: Math.max(50, used.msBeforeNext) };
        }
        for (const charge of charges) {
          try {
            await limiterOf(charge).consume(tenant, pointsOf(charge));
          } catch (error) {
            if (error instanceof RateLimiterRes)
              return { what: charge.what, waitMs: Math.max(50, error.msBeforeNext) };
            throw error;
          }
        }
        return undefined;
      } catch (error) {
        throw new Unavailable('STORE_UNAVAILABLE', 'Redis did not answer (rate limit)', {
          cause: error,
        });
      }
    },
  };
}
