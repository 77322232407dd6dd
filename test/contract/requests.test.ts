import { afterAll, beforeAll, expect, test } from 'vitest';
import { Requests } from '../../services/adapters/nats/requests.ts';
import { type Servers, startServers } from '../support/servers.ts';

let servers: Servers;
beforeAll(async () => {
  servers = await startServers();
});
afterAll(() => servers.stop());

test('each request gets its own answer; one that nobody hears fails at once, one that nobody answers in time', async () => {
  const { connection, inbox } = servers.connections.nats;
  const requests = new Requests(connection, inbox());
  const held: (() => void)[] = [];
  connection.subscribe('echo', {
    callback: (_error, message) =>
      message.string() === 'late'
        ? held.push(() => message.respond('too late'))
        : message.respond(`${message.string()}!`),
  });

  expect(
    await Promise.all(['a', 'b', 'c'].map((text) => requests.ask('echo', text, 1_000))),
  ).toEqual(['a!', 'b!', 'c!']);
  await expect(requests.ask('nobody.is.here', '', 60_000)).rejects.toThrow('nobody listens there');
  await expect(requests.ask('echo', 'late', 50)).rejects.toThrow('no answer within 50 ms');
  // An answer that comes after that is nobody's, and not the next one's.
  for (const respond of held) respond();
  expect(await requests.ask('echo', 'd', 1_000)).toBe('d!');

  const open = requests.ask('echo', 'late', 60_000);
  requests.close();
  await expect(open).rejects.toThrow('closed');
});
