/** What the command line says of its own, and what it leaves as others wrote it. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';

beforeEach(() => {
  vi.stubEnv('UNDERSTUDY_CALLED', 'bin/understudy');
  vi.resetModules();
});
afterEach(() => vi.unstubAllEnvs());

const words = 'please understudy run foo, and understudy ps';
const letter = {
  id: 1,
  at: 0,
  tenant: 'acme',
  agent: 'desk',
  code: 'TASK_INVALID',
  reason: words,
  subject: 's',
};

test('hints name the command as it was called, and what others wrote stays', async () => {
  const { deadTable, sessionTable } = await import('../../services/cli/views.ts');
  const text = deadTable([letter], 0);
  expect(text).toContain(words);
  expect(text).toContain('next: bin/understudy requeue <id>');
  expect(sessionTable([], 0)).toContain('bin/understudy ps --all');
});

test.each([
  ['TASK_NOT_JSON', 2],
  ['BODY_NOT_JSON', 2],
  ['NOT_NOW', 1],
])('%s ends with %i', async (code, exitCode) => {
  const { failureOf } = await import('../../services/cli/failure.ts');
  const { Refused } = await import('../../services/core/errors.ts');
  expect(failureOf(new Refused(code, 'why'), 'nats://x')).toMatchObject({ code, exitCode });
});

test('nobody there ends with 3 and says whom it asked, a mistake of ours with 70', async () => {
  const { failureOf } = await import('../../services/cli/failure.ts');
  const { Unavailable } = await import('../../services/core/errors.ts');
  expect(failureOf(new Unavailable('NATS_UNAVAILABLE', 'why'), 'nats://x')).toMatchObject({
    exitCode: 3,
    next: expect.stringContaining('nats://x'),
  });
  expect(failureOf(new TypeError('oops'), 'nats://x')).toMatchObject({
    code: 'DEFECT',
    exitCode: 70,
  });
});
