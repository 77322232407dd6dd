/** The same promises from memory and from Redis. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { memoryRateLimits } from '../../services/adapters/memory/rate-limits.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { redisRateLimits } from '../../services/adapters/redis/rate-limits.ts';
import type { RateLimits } from '../../services/ports/performers.ts';
import { type Servers, startServers } from '../support/servers.ts';
import { isUnit } from '../support/unit.ts';

describe.each(isUnit ? ['memory'] : ['memory', 'redis'])('rate limits: %s', (kind) => {
  let servers: Servers | undefined;
  let rates: RateLimits;
  beforeAll(async () => {
    if (kind === 'redis') servers = await startServers();
    rates = servers ? redisRateLimits(servers.connections.redis) : memoryRateLimits(systemClock);
  });
  afterAll(() => servers?.stop());
  const requests = { what: 'requests', points: 1, perMinute: 3 } as const;
  const tokens = (points: number) => ({ what: 'tokens', points, perMinute: 100 }) as const;

  test('goes on until a rate is used up, each tenant by itself', async () => {
    for (let index = 0; index < 3; index += 1)
      expect(await rates.take('acme', [requests])).toBeUndefined();
    const refusal = await rates.take('acme', [requests]);
    expect(refusal?.what).toBe('requests');
    expect(refusal!.waitMs).toBeGreaterThan(0);
    expect(refusal!.waitMs).toBeLessThanOrEqual(60_000);
    expect(await rates.take('other', [requests])).toBeUndefined();
  });

  test('who is told to wait has used nothing, of any rate', async () => {
    expect(await rates.take('careful', [requests, tokens(90)])).toBeUndefined();
    for (let index = 0; index < 5; index += 1)
      expect(await rates.take('careful', [requests, tokens(20)])).toMatchObject({ what: 'tokens' });
    expect(await rates.take('careful', [requests, tokens(10)])).toBeUndefined();
    expect(await rates.take('careful', [requests])).toBeUndefined();
    expect(await rates.take('careful', [requests])).toMatchObject({ what: 'requests' });
  });

  test('more than a minute has is taken as all of it', async () => {
    expect(await rates.take('greedy', [tokens(1_000)])).toBeUndefined();
    expect(await rates.take('greedy', [tokens(1)])).toMatchObject({ what: 'tokens' });
  });
});
