/** The same promises from memory and from Redis. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { memoryDoors } from '../../services/adapters/memory/doors.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { redisDoors } from '../../services/adapters/redis/doors.ts';
import type { Doors, ShutDoor } from '../../services/ports/doors.ts';
import { eventually } from '../support/eventually.ts';
import { type Servers, startServers } from '../support/servers.ts';
import { isUnit } from '../support/unit.ts';

describe.each(isUnit ? ['memory'] : ['memory', 'redis'])('doors: %s', (kind) => {
  let servers: Servers | undefined;
  let doors: Doors;
  beforeAll(async () => {
    if (kind === 'redis') servers = await startServers();
    doors = servers ? redisDoors(servers.connections.redis) : memoryDoors(systemClock);
  });
  afterAll(() => servers?.stop());
  const shut = (more: Partial<ShutDoor> = {}): ShutDoor => ({
    openAt: Date.now() + 60_000,
    since: 5,
    times: 1,
    code: 'MODEL_OVERLOADED',
    message: 'it is full',
    ...more,
  });

  test('a door is open, is shut with its reason, and opens', async () => {
    expect(await doors.look('a')).toBeUndefined();
    const why = shut();
    await doors.shut('a', why);
    expect(await doors.look('a')).toEqual(why);
    expect(await doors.look('b')).toBeUndefined();
    const again = shut({ times: 2 });
    await doors.shut('a', again);
    expect(await doors.look('a')).toEqual(again);
    await doors.open('a');
    await eventually(async () => (await doors.look('a')) === undefined, 'the door to open');
  });

  test('of so many places each is given once, and again when it is left', async () => {
    const taken = [
      await doors.enter('p', 2, 'one', 60_000),
      await doors.enter('p', 2, 'two', 60_000),
    ];
    expect(new Set(taken.map((place) => place!.index)).size).toBe(2);
    expect(await doors.enter('p', 2, 'three', 60_000)).toBeUndefined();
    expect(await doors.enter('q', 2, 'three', 60_000)).toBeDefined();
    // Only its holder gives it up.
    await doors.leave(taken[0]!, 'two');
    expect(await doors.enter('p', 2, 'three', 60_000)).toBeUndefined();
    await doors.leave(taken[0]!, 'one');
    await eventually(() => doors.enter('p', 2, 'three', 60_000), 'the place to be free');
  });

  test('a place is kept while its holder stays, and is free when it does not', async () => {
    const place = await doors.enter('r', 1, 'one', 300);
    await doors.stay(place!, 'other', 60_000);
    await doors.stay(place!, 'one', 600);
    expect(await doors.enter('r', 1, 'two', 100)).toBeUndefined();
    await eventually(() => doors.enter('r', 1, 'two', 100), 'the place to be free');
  });

  if (kind === 'redis')
    test('what somebody else wrote shuts nothing', async () => {
      const { redis } = servers!.connections;
      for (const text of ['{', '[]', '{"openAt":"never"}', '"x"']) {
        await redis.set('understudy:rate:{hostile}:door', text);
        expect(await doors.look('hostile')).toBeUndefined();
      }
    });
});
