/** The control API over real NATS: what a runtime cannot answer must not end it. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { natsControl } from '../../services/adapters/nats/control.ts';
import { Refused, Unavailable } from '../../services/core/errors.ts';
import { type Servers, startServers } from '../support/servers.ts';

let servers: Servers;
beforeAll(async () => {
  servers = await startServers();
  await natsControl(servers.connections.nats).serve({
    list: async (body) => ({ ok: true, value: 'x'.repeat((body as { bytes: number }).bytes) }),
    halt: async () => {
      throw new Refused('NOT_NOW', 'not now');
    },
    doctor: async () => {
      throw new TypeError('a mistake of ours');
    },
  });
});
afterAll(() => servers.stop());
const ask = (verb: string, body: object = {}) =>
  natsControl(servers.connections.nats).ask(verb, body, 2_000);

test('an answer that the broker does not carry is refused with its size, and the next question is answered', async () => {
  expect(await ask('list', { bytes: 3_000_000 })).toEqual({
    ok: false,
    code: 'ANSWER_TOO_LARGE',
    message: expect.stringMatching(/3000\d+ bytes/),
  });
  expect(await ask('list', { bytes: 3 })).toEqual({ ok: true, value: 'xxx' });
});

test('a refusal keeps its code, a mistake of ours is a defect', async () => {
  expect(await ask('halt')).toEqual({ ok: false, code: 'NOT_NOW', message: 'not now' });
  expect(await ask('doctor')).toMatchObject({ ok: false, code: 'DEFECT' });
});

test('a question that nobody answers names the prefix', async () => {
  const asked = natsControl(servers.connections.nats).ask('nothing', {}, 200);
  await expect(asked).rejects.toBeInstanceOf(Unavailable);
  await expect(asked).rejects.toThrow(/prefix understudy/);
});
