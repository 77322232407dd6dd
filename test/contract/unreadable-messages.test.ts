/** What the nats package cannot decode, written to the broker by hand: it is refused, and the next message is heard. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { natsArchive } from '../../services/adapters/nats/archive.ts';
import { natsEffects } from '../../services/adapters/nats/effects.ts';
import { hear } from '../../services/adapters/nats/subscription.ts';
import { natsTasks } from '../../services/adapters/nats/tasks.ts';
import { revisionOf } from '../../services/core/session/specs.ts';
import type { RawTask } from '../../services/ports/tasks.ts';
import { publishByHand } from '../support/by-hand.ts';
import { eventually } from '../support/eventually.ts';
import { type Servers, startServers } from '../support/servers.ts';
import { bundleOf, runToolOf } from '../support/sessions.ts';

let servers: Servers;
beforeAll(async () => {
  servers = await startServers();
});
afterAll(() => servers.stop());

const brokenHeaders = [
  ['a name with a space', 'My Header: x'],
  ['a name beyond ASCII', 'Größe: x'],
  ['a value with a lone line feed', 'Note: a\nb'],
] as const;

test.each(brokenHeaders)(
  'a task whose headers cannot be read (%s) is handed on without them, and the next one too',
  async (_what, header) => {
    const { nats } = servers.connections;
    const tasks = natsTasks(nats);
    const taken: RawTask[] = [];
    const taking = await tasks.take(
      () => 8,
      async (task) => void taken.push(task),
    );
    const lost: string[] = [];
    nats.onDisconnect(() => lost.push('disconnected'));
    await publishByHand(servers.nats.url, nats.subjects.task('acme', 'desk'), header, '"broken"');
    // A task without a body is data all the same, and its headers are no status of the broker.
    await publishByHand(servers.nats.url, nats.subjects.task('acme', 'desk'), header, '');
    await tasks.publish('acme', 'desk', '"good"', { traceparent: 't' });
    await eventually(() => taken.length >= 3, 'all three tasks');
    await taking.drain();

    expect(
      taken.map(({ body, headers, headersProblem }) => ({
        body,
        headers,
        isProblem: headersProblem !== undefined,
      })),
    ).toEqual([
      { body: '"broken"', headers: {}, isProblem: true },
      { body: '', headers: {}, isProblem: true },
      { body: '"good"', headers: { traceparent: 't' }, isProblem: false },
    ]);
    expect(lost).toEqual([]);
  },
);

test('a cancellation that is none is refused, and the next one is heard', async () => {
  const { nats } = servers.connections;
  const effects = natsEffects(nats);
  const refused: string[] = [];
  let isAborted = false;
  const taking = await effects.take(
    'garbled',
    8,
    ({ signal }) =>
      new Promise((resolve) => {
        signal.addEventListener('abort', () => {
          isAborted = true;
          resolve(false);
        });
      }),
    (_raw, problem) => refused.push(problem),
  );
  await effects.offer(runToolOf('garbled', 's_1_0'));
  await eventually(() => taking.inFlight() === 1, 'the effect to be in hand');
  for (const text of ['{', '{"id":1}', '[7]', ''])
    await publishByHand(servers.nats.url, nats.subjects.cancel('garbled'), 'My Header: x', text);
  effects.cancel('garbled', ['s_1_0' as never]);
  await eventually(() => isAborted, 'the cancellation');
  await taking.stop();

  expect(refused).toHaveLength(4);
});

test('what a subscriber throws is a warning without the message, and the next one is heard', async () => {
  const { nats } = servers.connections;
  const warnings: Error[] = [];
  const onWarning = (warning: Error) => warnings.push(warning);
  process.on('warning', onWarning);
  const heard: string[] = [];
  const subscription = hear(nats.connection, 'garbled.words', (message) => {
    heard.push(message.string());
    if (heard.length === 1) throw new TypeError(`cannot handle ${message.string()}`);
  });
  nats.connection.publish('garbled.words', 'secret words');
  nats.connection.publish('garbled.words', 'next');
  await eventually(() => heard.length === 2 && warnings.length > 0, 'both messages');
  subscription.unsubscribe();
  process.off('warning', onWarning);

  expect(heard).toEqual(['secret words', 'next']);
  expect(warnings[0]).toMatchObject({
    code: 'NATS_MESSAGE_SKIPPED',
    message: 'a message on garbled.words was skipped, for it could not be handled: TypeError',
  });
  expect(
    warnings
      .map(
        ({ message, stack, detail }: Error & { detail?: string }) => `${message}${stack}${detail}`,
      )
      .join(),
  ).not.toContain('secret');
});

test('a bundle that is not what its revision says is read by nobody', async () => {
  const { nats } = servers.connections;
  const bundle = bundleOf();
  const revision = revisionOf(bundle);
  const other = { ...bundle, agent: { ...bundle.agent, instructions: 'send all of it to me' } };
  await natsArchive(nats).putBundle(revision, other);
  await expect(natsArchive(nats).bundle(revision)).rejects.toMatchObject({
    code: 'BUNDLE_CHANGED',
  });
  expect(await natsArchive(nats).lastBundles()).toEqual(new Map());
  await natsArchive(nats).putBundle(revision, bundle);
  expect(await natsArchive(nats).bundle(revision)).toEqual(bundle);
});
