import { deflateSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { decodeMail, encodeMail } from '../../services/adapters/nats/mail-codec.ts';
import { natsMailbox } from '../../services/adapters/nats/mailbox.ts';
import { OrderedReader } from '../../services/adapters/nats/ordered-reader.ts';
import type { SessionId, ShardId, TenantId } from '../../services/core/ids.ts';
import type { MailBatch, Mailbox } from '../../services/ports/mailbox.ts';
import { eventually } from '../support/eventually.ts';
import { type Servers, startServers } from '../support/servers.ts';
import { task } from '../support/sessions.ts';
import { isUnit } from '../support/unit.ts';

let nextShard = 0;

function describeMailbox(
  name: string,
  open: () => Promise<{
    mailbox: Mailbox;
    inject: (shard: ShardId, text: string | Uint8Array) => Promise<void>;
    close: () => Promise<void>;
  }>,
) {
  describe.skipIf(isUnit && name !== 'memory')(`mailbox: ${name}`, () => {
    let world: Awaited<ReturnType<typeof open>>;
    beforeAll(async () => {
      world = await open();
    });
    afterAll(() => world.close());
    const shardOfTest = () => nextShard++ as ShardId;
    const envelope = (session: string, input = 'x') => ({
      tenant: 'acme' as TenantId,
      session: session as SessionId,
      message: task(input),
    });
    const sessionsOf = (batches: readonly MailBatch[]) =>
      batches.flatMap(({ items }) =>
        items.map((item) => (item.ok ? item.envelope.session : 'refused')),
      );

    test('what was delivered is read in order, from the beginning and from the middle', async () => {
      const shard = shardOfTest();
      for (const session of ['a', 'b', 'c']) await world.mailbox.deliver(shard, envelope(session));
      const all: MailBatch[] = [];
      const reading = await world.mailbox.read(shard, 0, (batch) => all.push(batch));
      await eventually(() => sessionsOf(all).length === 3);
      expect(sessionsOf(all)).toEqual(['a', 'b', 'c']);
      await reading.stop();

      const later: MailBatch[] = [];
      const second = await world.mailbox.read(shard, all[0]!.sequence, (batch) =>
        later.push(batch),
      );
      await eventually(() => sessionsOf(later).length === 2);
      expect(sessionsOf(later)).toEqual(['b', 'c']);
      await second.stop();
    });

    test('a reader sees what comes later, with sequence and time', async () => {
      const shard = shardOfTest();
      const seen: MailBatch[] = [];
      const reading = await world.mailbox.read(shard, 0, (batch) => seen.push(batch));
      await world.mailbox.deliver(shard, envelope('late'));
      await eventually(() => seen.length === 1);

      expect(seen[0]!.sequence).toBeGreaterThan(0);
      expect(Math.abs(seen[0]!.at - Date.now())).toBeLessThan(60_000);
      expect(await world.mailbox.lastOf(shard)).toBe(seen[0]!.sequence);
      await reading.stop();
    });

    test('a thousand at once keep their order and come once', async () => {
      const shard = shardOfTest();
      const seen: MailBatch[] = [];
      const reading = await world.mailbox.read(shard, 0, (batch) => seen.push(batch));
      const names = Array.from({ length: 1_000 }, (_, index) => `s${index}`);
      await Promise.all(names.map((session) => world.mailbox.deliver(shard, envelope(session))));
      await eventually(() => sessionsOf(seen).length >= 1_000);

      expect(sessionsOf(seen)).toEqual(names);
      await reading.stop();
    });

    test('a shard sees its own mail only', async () => {
      const [one, two] = [shardOfTest(), shardOfTest()];
      const seen: MailBatch[] = [];
      const reading = await world.mailbox.read(one, 0, (batch) => seen.push(batch));
      await world.mailbox.deliver(two, envelope('theirs'));
      await world.mailbox.deliver(one, envelope('ours'));
      await eventually(() => seen.length > 0);

      expect(sessionsOf(seen)).toEqual(['ours']);
      await reading.stop();
    });

    test('paused, a reader is quiet; resumed, it goes on without a gap', async () => {
      const shard = shardOfTest();
      const seen: MailBatch[] = [];
      const reading = await world.mailbox.read(shard, 0, (batch) => seen.push(batch));
      await world.mailbox.deliver(shard, envelope('a'));
      await eventually(() => seen.length === 1);
      reading.pause();
      await world.mailbox.deliver(shard, envelope('b'));
      await world.mailbox.deliver(shard, envelope('c'));
      expect(sessionsOf(seen)).toEqual(['a']);
      reading.resume();
      await eventually(() => sessionsOf(seen).length === 3);

      expect(sessionsOf(seen)).toEqual(['a', 'b', 'c']);
      await reading.stop();
    });

    test('what does not parse is handed on as refused, with its neighbours unharmed', async () => {
      const shard = shardOfTest();
      const seen: MailBatch[] = [];
      const reading = await world.mailbox.read(shard, 0, (batch) => seen.push(batch));
      await world.inject(shard, 'not json');
      await world.inject(shard, '{"v":1,"tenant":"a.b"}');
      await world.mailbox.deliver(shard, envelope('fine'));
      await eventually(() => sessionsOf(seen).length === 3);

      expect(sessionsOf(seen)).toEqual(['refused', 'refused', 'fine']);
      await reading.stop();
    });

    test('long mail comes back whole', async () => {
      const shard = shardOfTest();
      const long = 'a line of a page, für niemanden '.repeat(3_000);
      await world.mailbox.deliver(shard, envelope('long', long));
      const seen: MailBatch[] = [];
      const reading = await world.mailbox.read(shard, 0, (batch) => seen.push(batch));
      await eventually(() => seen.length > 0);

      expect(seen[0]!.items[0]).toMatchObject({ ok: true, envelope: { message: { input: long } } });
      await reading.stop();
    });

    test('a stretch is read to its end, and no further', async () => {
      const shard = shardOfTest();
      const ends: number[] = [];
      for (const session of ['a', 'b', 'c', 'd']) {
        await world.mailbox.deliver(shard, envelope(session));
        ends.push(await world.mailbox.lastOf(shard));
      }
      const seen: MailBatch[] = [];
      await world.mailbox.readTo(shard, ends[0]!, ends[2]!, (batch) => seen.push(batch));
      expect(sessionsOf(seen)).toEqual(['b', 'c']);
      seen.length = 0;
      await world.mailbox.readTo(shard, ends[2]!, ends[3]! + 1_000, (batch) => seen.push(batch));
      expect(sessionsOf(seen)).toEqual(['d']);
      await world.mailbox.readTo(shardOfTest(), 0, ends[3]!, () => expect.unreachable());
    });

    test('trimmed mail is gone, and what is after it stays', async () => {
      const shard = shardOfTest();
      await world.mailbox.deliver(shard, envelope('old'));
      const cut = await world.mailbox.lastOf(shard);
      await world.mailbox.deliver(shard, envelope('new'));
      await world.mailbox.trim(cut + 1);
      const seen: MailBatch[] = [];
      const reading = await world.mailbox.read(shard, 0, (batch) => seen.push(batch));
      await eventually(() => seen.length > 0);

      expect(sessionsOf(seen)).toEqual(['new']);
      expect((await world.mailbox.bounds()).first).toBe(cut + 1);
      await reading.stop();
    });
  });
}

describeMailbox('memory', async () => {
  const mailbox = memoryMailbox({ now: () => Date.now() });
  return {
    mailbox,
    inject: async (shard, text) => mailbox.inject(shard, String(text)),
    close: async () => undefined,
  };
});
describeMailbox('nats', async () => {
  const servers: Servers = await startServers();
  const { nats } = servers.connections;
  return {
    mailbox: natsMailbox(nats),
    inject: async (shard, text) =>
      void (await nats.publisher.publish(nats.subjects.mailBatch(shard), text)),
    close: () => servers.stop(),
  };
});

describe.skipIf(isUnit)('a stretch of mail that is trimmed', () => {
  let servers: Servers;
  beforeAll(async () => {
    servers = await startServers();
  });
  afterAll(() => servers.stop());

  /** A connection whose answer to the making of a consumer is tampered with. */
  const tampered = (work: {
    before?: () => Promise<void>;
    after?: (text: string) => string;
    lateMs?: number;
  }) => {
    const { nats } = servers.connections;
    const connection = new Proxy(nats.connection, {
      get: (target, property) => {
        const value: unknown = Reflect.get(target, property);
        if (property === 'subscribe' && work.lateMs !== undefined)
          return (subject: string, { callback }: { callback: (...heard: unknown[]) => void }) =>
            target.subscribe(subject, {
              callback: (...heard) => void setTimeout(() => callback(...heard), work.lateMs),
            });
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const ask = async (subject: string, body: string, withinMs: number) => {
      const isMade = subject.includes('CONSUMER.CREATE');
      if (isMade) await work.before?.();
      const answer = await nats.requests.ask(subject, body, withinMs);
      return isMade && work.after ? work.after(answer) : answer;
    };
    return natsMailbox({ ...nats, connection, requests: { ask } });
  };
  const filled = async (shard: ShardId) => {
    const mailbox = natsMailbox(servers.connections.nats);
    await mailbox.deliver(shard, {
      tenant: 'acme' as TenantId,
      session: 's' as SessionId,
      message: task('x'),
    });
    return { mailbox, end: await mailbox.lastOf(shard) };
  };

  test('just before its reader is made is not waited for', async () => {
    const { mailbox, end } = await filled(3 as ShardId);
    const seen: number[] = [];
    await tampered({ before: () => mailbox.trim(end + 1) }).readTo(
      3 as ShardId,
      0,
      end,
      ({ sequence }) => seen.push(sequence),
    );
    expect(seen).toEqual([]);
  });

  test('is waited for, when only the server of the consumer has not got it yet', async () => {
    const { end } = await filled(4 as ShardId);
    const seen: number[] = [];
    const behind = (text: string) =>
      JSON.stringify({ ...(JSON.parse(text) as object), num_pending: 0 });
    await tampered({ after: behind, lateMs: 300 }).readTo(4 as ShardId, 0, end, ({ sequence }) =>
      seen.push(sequence),
    );
    expect(seen).toEqual([end]);
  });
});

test.skipIf(isUnit)('a reader that cannot be started listens to nothing', async () => {
  const servers = await startServers();
  try {
    const { nats } = servers.connections;
    const listening = () =>
      (
        nats.connection as unknown as { protocol: { subscriptions: { size(): number } } }
      ).protocol.subscriptions.size();
    const before = listening();
    await expect(
      new OrderedReader(
        nats,
        { stream: 'NOWHERE', filter: 'nowhere.>', afterSequence: 0 },
        () => undefined,
      ).start(),
    ).rejects.toThrow();
    expect(listening()).toBe(before);
  } finally {
    await servers.stop();
  }
});

describe('the bytes of mail', () => {
  const page = JSON.stringify({ text: 'the order was delivered late; '.repeat(1_000) });

  test('short mail stays readable, long mail shrinks', () => {
    expect(encodeMail('{"v":1}')).toBe('{"v":1}');
    expect(encodeMail(page).length).toBeLessThan(page.length / 4);
    expect(decodeMail(encodeMail(page) as Uint8Array)).toBe(page);
  });

  test('what claims to be compressed and is not, is cut, or would never end, is no JSON', () => {
    const packed = encodeMail(page) as Uint8Array;
    const bomb = deflateSync(Buffer.alloc(80 * 1_048_576));
    for (const bytes of [
      Buffer.from('x marks the spot'),
      packed.subarray(0, packed.length / 2),
      bomb,
    ])
      expect(() => JSON.parse(decodeMail(bytes))).toThrow();
  });
});
