import { expect, onTestFinished, test, vi } from 'vitest';
import { batchBytesOf } from '../../services/adapters/nats/connection.ts';
import { fitting, Gatherer } from '../../services/adapters/nats/gatherer.ts';
import { WaitingRoom } from '../../services/adapters/nats/waiting-room.ts';
import { limits } from '../../services/core/limits.ts';
import { eventually } from '../support/eventually.ts';

/** A broker that acknowledges when it is told to. */
function broker() {
  const sent: { readonly subject: string; readonly texts: readonly string[] }[] = [];
  const acks: {
    readonly resolve: (value?: unknown) => void;
    readonly reject: (error: Error) => void;
  }[] = [];
  const publish = (subject: string, texts: readonly string[]) =>
    new Promise((resolve, reject) => {
      sent.push({ subject, texts });
      acks.push({ resolve, reject });
    });
  return { sent, acks, publish };
}
const settled = () => new Promise(setImmediate);

test('what gathers while a round is under way leaves in the next, a message for each subject', async () => {
  const { sent, acks, publish } = broker();
  const gatherer = new Gatherer(publish);
  void gatherer.add('a', '1');
  await settled();
  for (const [subject, text] of [
    ['a', '2'],
    ['b', '3'],
    ['a', '4'],
  ] as const)
    void gatherer.add(subject, text);
  await settled();
  expect(sent).toEqual([{ subject: 'a', texts: ['1'] }]);

  acks[0]!.resolve();
  await settled();

  expect(sent.slice(1)).toEqual([
    { subject: 'a', texts: ['2', '4'] },
    { subject: 'b', texts: ['3'] },
  ]);
});

test('what does not fit one message leaves after it was acknowledged: sent again, it must not be overtaken', async () => {
  const { sent, acks, publish } = broker();
  const gatherer = new Gatherer(publish);
  const texts = Array.from({ length: limits.batchMessagesMax + 1 }, (_, index) => String(index));
  for (const text of texts) void gatherer.add('a', text);
  await settled();
  expect(sent.map((message) => message.texts.length)).toEqual([limits.batchMessagesMax]);

  acks[0]!.resolve();
  await settled();

  expect(sent.flatMap((message) => message.texts)).toEqual(texts);
});

test('a round that takes long holds up its own subjects only', async () => {
  const { sent, acks, publish } = broker();
  const gatherer = new Gatherer(publish);
  void gatherer.add('slow', '1');
  await settled();
  void gatherer.add('slow', '2');
  void gatherer.add('quick', '3');

  await eventually(() => sent.length === 2);
  expect(sent.map(({ texts }) => texts)).toEqual([['1'], ['3']]);
  acks[1]!.resolve();
  await settled();
  expect(sent).toHaveLength(2);

  acks[0]!.resolve();
  await settled();
  expect(sent.at(-1)).toEqual({ subject: 'slow', texts: ['2'] });
});

test('a refused message is told to those who are in it, and the others go on', async () => {
  const { acks, publish } = broker();
  const gatherer = new Gatherer(publish);
  const [bad, good] = [gatherer.add('a', '1'), gatherer.add('b', '2')];
  await settled();
  acks[0]!.reject(new Error('refused'));
  acks[1]!.resolve();

  await expect(bad).rejects.toThrow('refused');
  await good;
  const next = gatherer.add('a', '3');
  await settled();
  acks[2]!.resolve();
  await next;
});

/** Time that stands still until it is moved; turns of the event loop go on. */
function withStoppedTime(): void {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
}

test('who has more on the way waits for it, and all leave together when the last has come', async () => {
  withStoppedTime();
  const { sent, acks, publish } = broker();
  const gatherer = new Gatherer(publish);
  void gatherer.add('a', '1', 2);
  await settled();
  void gatherer.add('b', '2', 1);
  await settled();
  expect(sent).toEqual([]);

  void gatherer.add('a', '3', 0);
  await settled();

  expect(sent).toEqual([
    { subject: 'a', texts: ['1', '3'] },
    { subject: 'b', texts: ['2'] },
  ]);

  for (const ack of acks) ack.resolve();
  await settled();
  void gatherer.add('a', '4', 1);
  await settled();
  expect(sent).toHaveLength(2);
});

test('company that does not come is not waited for long, after a round as before it', async () => {
  withStoppedTime();
  const { sent, acks, publish } = broker();
  const gatherer = new Gatherer(publish);
  void gatherer.add('a', '1', 5);
  vi.advanceTimersByTime(2);
  await settled();
  expect(sent.map(({ texts }) => texts)).toEqual([['1']]);

  void gatherer.add('a', '2', 5);
  acks[0]!.resolve();
  await settled();
  expect(sent).toHaveLength(1);

  vi.advanceTimersByTime(2);
  await settled();
  expect(sent.map(({ texts }) => texts)).toEqual([['1'], ['2']]);
});

test('who has no company does not wait for that of others, and neither does what fills a message', async () => {
  withStoppedTime();
  const { sent, acks, publish } = broker();
  const gatherer = new Gatherer(publish);
  void gatherer.add('a', 'under way');
  await settled();
  void gatherer.add('a', 'alone');
  void gatherer.add('b', 'in company', 5);
  acks[0]!.resolve();
  await settled();
  expect(sent.slice(1).map(({ texts }) => texts)).toEqual([['alone'], ['in company']]);

  for (let count = 0; count < 2 * limits.batchMessagesMax + 1; count += 1)
    void gatherer.add('c', String(count), 5);
  for (const ack of acks) ack.resolve();
  await settled();
  expect(sent.slice(3).map(({ texts }) => texts.length)).toEqual([limits.batchMessagesMax]);
  acks[3]!.resolve();
  await settled();
  acks[4]!.resolve();
  await settled();
  expect(sent.slice(3).map(({ texts }) => texts.length)).toEqual([
    limits.batchMessagesMax,
    limits.batchMessagesMax,
    1,
  ]);
});

test('in a waiting room those of a subject leave together, in order, when their time has come', async () => {
  const { sent, acks, publish } = broker();
  const room = new WaitingRoom(20, publish);
  const added = [room.add('a', '1'), room.add('b', '2'), room.add('a', '3')];
  await settled();
  expect(sent).toEqual([]);

  await eventually(() => sent.length === 2);
  expect(sent).toEqual([
    { subject: 'a', texts: ['1', '3'] },
    { subject: 'b', texts: ['2'] },
  ]);
  for (const ack of acks) ack.resolve();
  await Promise.all(added);
});

test('a waiting room is left at once when it is full, or when it is asked for', async () => {
  const { sent, publish } = broker();
  const room = new WaitingRoom(60_000, publish);
  for (let count = 0; count < limits.batchMessagesMax; count += 1)
    void room.add('full', String(count));
  void room.add('asked', '1');
  void room.add('stays', '1');

  room.send('asked');
  room.send('nobody');

  expect(sent.map(({ subject, texts }) => [subject, texts.length])).toEqual([
    ['full', limits.batchMessagesMax],
    ['asked', 1],
  ]);
});

test('a broker that refuses tells everybody who waited for that message', async () => {
  const { acks, publish } = broker();
  const room = new WaitingRoom(1, publish);
  const added = [room.add('a', '1'), room.add('a', '2')];
  await eventually(() => acks.length === 1);
  acks[0]!.reject(new Error('refused'));

  for (const one of added) await expect(one).rejects.toThrow('refused');
});

test('what gathers for a broker that carries little leaves in messages that it carries', () => {
  const items = Array.from({ length: 10 }, () => ({ text: 'x'.repeat(40) }));
  expect(fitting(items, 100)).toBe(2);
  expect(fitting(items, 10)).toBe(1); // alone it goes, and is refused by name
  expect(fitting(items)).toBe(10);
  const nats = (maxPayload?: number) =>
    ({
      connection: { info: maxPayload === undefined ? undefined : { max_payload: maxPayload } },
    }) as Parameters<typeof batchBytesOf>[0];
  expect([nats(131_072), nats(8 * 1_048_576), nats()].map(batchBytesOf)).toEqual([
    65_536,
    limits.batchBytesMax,
    limits.batchBytesMax,
  ]);
});
