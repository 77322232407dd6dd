/** What the last connection left unread must not be taken for the beginning of the next. */
import { expect, test } from 'vitest';
import type { Nats } from '../../services/adapters/nats/connection.ts';
import { PullConsumer, type PulledMessage } from '../../services/adapters/nats/pull-consumer.ts';
import { dropStaleReads, type Protocol } from '../../services/adapters/nats/stale-reads.ts';
import { declareStreams } from '../../services/adapters/nats/streams.ts';
import type { TenantId } from '../../services/core/ids.ts';
import { eventually } from '../support/eventually.ts';
import { startServers } from '../support/servers.ts';

class Socket {
  #queue: Uint8Array[] = [];
  #wake: () => void = () => undefined;
  close: () => void = () => undefined;
  readonly #closed = new Promise<void>((resolve) => {
    this.close = resolve;
  });
  closed(): Promise<void> {
    return this.#closed;
  }
  say(text: string): void {
    this.#queue.push(Buffer.from(text));
    this.#wake();
  }
  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    for (;;) {
      for (let next = this.#queue.shift(); next; next = this.#queue.shift()) yield next;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
const parserInto = (heard: string[]) => ({
  parse: (chunk: Uint8Array) => void heard.push(Buffer.from(chunk).toString()),
});
/** As the package does: it reads the current socket and feeds whatever parser is there. */
async function readInto(protocol: Protocol): Promise<void> {
  for await (const chunk of protocol.transport) protocol.parser.parse(chunk);
}
const turn = () => new Promise((resolve) => setImmediate(resolve));

test('chunks of an old socket never reach the parser of a new one', async () => {
  const [first, second, third] = [new Socket(), new Socket(), new Socket()];
  const heard: string[][] = [[], [], []];
  const protocol: Protocol = { transport: first as never, parser: parserInto(heard[0]!) };
  void readInto(protocol);
  dropStaleReads(protocol);
  first.say('one');
  await turn();
  const connectAgain = (socket: Socket, into: string[]) => {
    protocol.parser = parserInto(into);
    protocol.transport = socket as never;
    void readInto(protocol);
  };
  first.say('half of a mess');
  connectAgain(second, heard[1]!);
  second.say('two');
  await turn();
  second.say('another half');
  second.say('and a quarter');
  connectAgain(third, heard[2]!);
  third.say('three');
  first.say('late');
  await turn();
  expect(heard).toEqual([['one'], ['two'], ['three']]);
});

test('a socket that was given up and closes late is not the end of the one that stands', async () => {
  const [first, second, third] = [new Socket(), new Socket(), new Socket()];
  const protocol: Protocol = { transport: first, parser: parserInto([]) };
  dropStaleReads(protocol);
  const ended: string[] = [];
  protocol.transport = second;
  void protocol.transport.closed().then(() => ended.push('second'));
  protocol.transport = third;
  void protocol.transport.closed().then(() => ended.push('third'));
  second.close();
  await turn();
  expect(ended).toEqual([]);
  third.close();
  await turn();
  expect(ended).toEqual(['third']);
});

test('a connection of the package still has what is guarded, under these names', async () => {
  const servers = await startServers();
  const { protocol } = servers.connections.nats.connection as unknown as { protocol: Protocol };
  for (const field of ['transport', 'parser'] as const)
    expect(Object.getOwnPropertyDescriptor(protocol, field)?.set, field).toBeTypeOf('function');
  expect(protocol.parser.parse).toBeTypeOf('function');
  expect(protocol.transport[Symbol.asyncIterator]).toBeTypeOf('function');
  expect(protocol.transport.closed).toBeTypeOf('function');
  await servers.stop();
});

const consumerOf = (nats: Nats, pool: string, onMessage: (message: PulledMessage) => void) =>
  new PullConsumer(nats, {
    stream: 'effects',
    durable: `pool-${pool}`,
    filter: nats.subjects.effect(pool, '*' as TenantId),
    ackWaitMs: 1_000,
    heartbeatMs: 200,
    capacity: () => 4,
    onMessage,
  });

test('what was in hand when the connection was lost is not acked, but offered again', async () => {
  const servers = await startServers();
  const { nats } = servers.connections;
  await declareStreams(nats);
  const tries: number[] = [];
  let first: PulledMessage | undefined;
  const consumer = consumerOf(nats, 'stale', (message) => {
    tries.push(message.tries);
    if (first) message.ack();
    else first = message;
  });
  await consumer.start();
  await nats.publisher.publish(nats.subjects.effect('stale', 'acme' as TenantId), '{}');
  await eventually(() => first);
  const again = new Promise<void>((resolve) => nats.onReconnect(resolve));
  await nats.connection.reconnect();
  await again;
  // On a server that was started anew this sequence would be another message.
  first!.ack();
  await eventually(() => tries.length > 1, 'the message to be offered again');
  expect(tries).toEqual([1, 2]);
  consumer.stop();
  await servers.stop();
});

test('an ack that had not left when the connection was lost does not leave any more', async () => {
  const servers = await startServers();
  const { nats } = servers.connections;
  await declareStreams(nats);
  const tries: number[] = [];
  const leaving: (() => void)[] = [];
  const slow = {
    ...nats,
    publisher: {
      beside: (send: () => void) => leaving.push(send),
    } as unknown as typeof nats.publisher,
  };
  const consumer = consumerOf(slow, 'slow', (message) => {
    tries.push(message.tries);
    message.ack();
  });
  await consumer.start();
  await nats.publisher.publish(nats.subjects.effect('slow', 'acme' as TenantId), '{}');
  await eventually(() => leaving.length === 1);
  const again = new Promise<void>((resolve) => nats.onReconnect(resolve));
  await nats.connection.reconnect();
  await again;
  leaving[0]!();

  await eventually(() => tries.length > 1, 'the message to be offered again');
  expect(tries).toEqual([1, 2]);
  consumer.stop();
  await servers.stop();
});
