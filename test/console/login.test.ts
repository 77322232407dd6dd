/** Guessing is slow, and many who guess hold nothing up. */
import { expect, test } from 'vitest';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { accessOf } from '../../services/console/access.ts';
import { loginRoutes } from '../../services/console/login.ts';

test('of many wrong tokens those beyond a bound are refused at once, and the right one comes in meanwhile', async () => {
  const token = 'correct horse battery';
  const routes = loginRoutes(accessOf({ token, localUser: 'root' }, Date.now), countingTelemetry());
  const enter = (given: string) =>
    routes.request('/login', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ token: given, name: 'ada' }) });
  const answered: number[] = [];
  const first = Array.from({ length: 20 }, async () => answered.push((await enter('wrong')).status));
  expect((await enter('wrong')).status).toBe(429);
  expect((await enter(token)).status).toBe(200);
  expect(answered).toEqual([]);
  await Promise.race(first);
  expect(answered).toEqual([401]);
});
