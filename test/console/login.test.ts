/** Guessing is slow, and many who guess hold up nobody elsewhere. */
import { expect, test } from 'vitest';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { accessOf } from '../../services/console/access.ts';
import { loginRoutes } from '../../services/console/login.ts';

const token = 'correct horse battery';

/** How often a token was looked at, and how to give one from an address. */
function door() {
  const access = accessOf({ token, localUser: 'root' }, Date.now);
  const counts = { looked: 0 };
  const enter: typeof access.enter = (...given) => {
    counts.looked += 1;
    return access.enter(...given);
  };
  const routes = loginRoutes(
    { ...access, enter, who: access.who.bind(access) },
    countingTelemetry(),
  );
  const give = async (given: string, address: string): Promise<number> => {
    const body = JSON.stringify({ token: given, name: 'ada' });
    const request = { method: 'POST', headers: { 'content-type': 'application/json' }, body };
    return (
      await routes.request('/login', request, { incoming: { socket: { remoteAddress: address } } })
    ).status;
  };
  return { counts, give };
}

test('of many wrong tokens those beyond a bound are not looked at, and the right one from elsewhere comes in meanwhile', async () => {
  const { counts, give } = door();
  const answered: number[] = [];
  const first = Array.from({ length: 20 }, async () =>
    answered.push(await give('wrong', '10.0.0.1')),
  );
  expect(await Promise.all(Array.from({ length: 100 }, () => give('wrong', '10.0.0.1')))).toEqual(
    Array.from({ length: 100 }, () => 429),
  );
  expect(await give(token, '10.0.0.2')).toBe(200);
  expect(answered).toEqual([]);
  expect(counts.looked).toBeLessThan(4);
  await Promise.race(first);
  expect(answered).toEqual([401]);
});

test('the right token from the same address waits for its turn, and is told nothing where too many wait', async () => {
  const { give } = door();
  const answers: number[] = [];
  await Promise.all(
    ['wrong', token].map(async (given) => answers.push(await give(given, '10.0.0.1'))),
  );
  expect(answers).toEqual([401, 200]);
  const flood = Array.from({ length: 20 }, () => give('wrong', '10.0.0.1'));
  expect(await give(token, '10.0.0.1')).toBe(429);
  void Promise.allSettled(flood);
});
