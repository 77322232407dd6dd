import { expect, test } from 'vitest';
import { LeanPublisher } from '../../services/adapters/nats/publisher.ts';
import { eventually } from '../support/eventually.ts';

const settled = () => new Promise(setImmediate);

/** A publisher over a connection that only notes what is sent, and when: `sent` holds what left in one turn of the loop. */
function publisher(window = 1_024) {
  const sent: string[][] = [];
  let isNewTurn = true;
  let hear: (
    error: unknown,
    message: { subject: string; data: Uint8Array; string(): string },
  ) => void = () => undefined;
  const acknowledge = (number: number) =>
    hear(null, {
      subject: `inbox.${number.toString(36)}`,
      data: new Uint8Array(1),
      string: () => '{"seq":1}',
    });
  const connection = {
    subscribe: (_subject: string, { callback }: { callback: typeof hear }) => {
      hear = callback;
    },
    isClosed: () => false,
    info: { max_payload: 1_000 },
    publish: (subject: string) => {
      if (subject === 'broken') throw new Error('no such subject');
      if (isNewTurn) {
        sent.push([]);
        setImmediate(() => {
          isNewTurn = true;
        });
      }
      isNewTurn = false;
      sent.at(-1)!.push(subject);
    },
  };
  return {
    sent,
    connection,
    acknowledge,
    publisher: new LeanPublisher(connection as never, 'inbox', window),
  };
}

test('what nobody waits for leaves with the next publish, and before it', async () => {
  const { sent, connection, publisher: lean } = publisher();
  void lean.publish('patient', '', { pace: 'soon' }).catch(() => undefined);
  lean.beside(() => connection.publish('ack'));
  await settled();
  expect(sent).toEqual([]);

  void lean.publish('urgent', '').catch(() => undefined);
  await eventually(() => sent.length > 0);
  expect(sent).toEqual([['ack', 'patient', 'urgent']]);
  lean.close();
});

test('what nobody waits for leaves alone when nothing else is published for a while, once', async () => {
  const { sent, connection, publisher: lean } = publisher();
  void lean.publish('patient', '', { pace: 'soon' }).catch(() => undefined);
  lean.beside(() => connection.publish('ack'));
  await eventually(() => sent.length > 0);
  void lean.publish('later', '').catch(() => undefined);
  await eventually(() => sent.length > 1);
  expect(sent).toEqual([['ack', 'patient'], ['later']]);
  expect(lean.pending).toBe(2);
  lean.close();
});

test('what waits for company is told when the publisher is closed', async () => {
  const { sent, publisher: lean } = publisher();
  const waiting = lean.publish('patient', '', { pace: 'soon' });
  lean.close();
  await expect(waiting).rejects.toThrow('closed');
  expect(sent).toEqual([]);
});

test.each([0, 1])(
  'with room for %i more, what was published first leaves first, though it was patient',
  async (room) => {
    const { sent, acknowledge, publisher: lean } = publisher(2);
    const all = Array.from({ length: 2 - room }, (_, index) => lean.publish(`before${index}`, ''));
    await settled();
    all.push(lean.publish('steps', '', { pace: 'soon' }), lean.publish('end', ''));
    for (let number = 0; number < 4 - room; number += 1) {
      await settled();
      acknowledge(number);
    }
    await Promise.all(all);
    expect(sent.flat().filter((subject) => !subject.startsWith('before'))).toEqual([
      'steps',
      'end',
    ]);
    lean.close();
  },
);

test('what becomes patient while a turn is on its way leaves with it, though nothing comes after', async () => {
  const { sent, publisher: lean } = publisher();
  const all = [lean.publish('first', '')];
  await settled();
  all.push(lean.publish('second', ''), lean.publish('patient', '', { pace: 'soon' }));
  await eventually(() => sent.flat().length === 3);
  expect(sent).toEqual([['first'], ['second', 'patient']]);
  lean.close();
  await Promise.allSettled(all);
});

test('what is larger than the broker carries is refused, by its bytes', async () => {
  const { publisher: lean } = publisher();
  for (const body of ['x'.repeat(1_001), 'ä'.repeat(501), Buffer.alloc(1_001)])
    await expect(lean.publish('a.large', body)).rejects.toMatchObject({
      code: 'MESSAGE_TOO_LARGE',
    });
  void lean.publish('fits', 'x'.repeat(1_000)).catch(() => undefined);
  expect(lean.pending).toBe(1);
  lean.close();
});

test('what cannot be sent makes room for what waits', async () => {
  const { sent, publisher: lean } = publisher(1);
  const broken = lean.publish('broken', '');
  const next = lean.publish('next', '');
  await expect(broken).rejects.toMatchObject({ code: 'NATS_UNAVAILABLE' });
  await eventually(() => sent.flat().includes('next'));
  lean.close();
  await Promise.allSettled([next]);
});
