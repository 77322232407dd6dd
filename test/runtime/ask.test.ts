/** Questions of tenants are answered a few at a time, each tenant for itself. */
import { expect, test } from 'vitest';
import { inTurns } from '../../services/runtime/ask.ts';

test('a tenant that asks much waits for itself, and what is beyond its line is refused', async () => {
  const open: (() => void)[] = [];
  const running = new Map<string, number>();
  let most = 0;
  const ask = inTurns(async (tenant) => {
    const now = (running.get(tenant) ?? 0) + 1;
    running.set(tenant, now);
    most = Math.max(most, now);
    await new Promise<void>((resolve) => open.push(resolve));
    running.set(tenant, running.get(tenant)! - 1);
    return { ok: true, value: tenant };
  });
  const answers = Array.from({ length: 40 }, () => ask('acme', {}));
  const other = ask('globex', {});
  await new Promise(setImmediate);
  expect(running.get('globex')).toBe(1);
  while (open.length > 0) {
    open.shift()!();
    await new Promise(setImmediate);
  }
  const told = await Promise.all(answers);
  expect(most).toBe(2);
  expect(told.filter(({ ok }) => ok)).toHaveLength(34);
  expect(told.filter((one) => !one.ok && one.code === 'BUSY')).toHaveLength(6);
  expect(await other).toMatchObject({ ok: true });
});
