/** What is opened for a browser is closed when it goes, whenever that is. */
import { Hono } from 'hono';
import { expect, test } from 'vitest';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { eventStreams } from '../../services/console/event-stream.ts';
import type { UnderstudyEvent } from '../../services/core/wire/cloud-event.ts';
import { eventually } from '../support/eventually.ts';

const session = { tenant: 'acme', agent: 'desk', session: 'desk-1', startedAt: 0 };
const event = (
  version: number,
  more: Partial<UnderstudyEvent['data']> = {},
  id = `desk-1-${version}`,
) =>
  ({
    id,
    type: 'dev.understudy.x',
    time: '',
    data: {
      ...session,
      version,
      from: '',
      to: '',
      status: 'active',
      decisions: [],
      effects: [],
      details: {},
      ...more,
    },
  }) as unknown as UnderstudyEvent;

/** A follower that opens when it is told to, and what came of it. */
function following() {
  let tell: (event: UnderstudyEvent) => void = () => undefined;
  const opening = Promise.withResolvers<void>();
  const counts = { followed: 0, stopped: 0 };
  const streams = eventStreams(
    {
      async follow(_filter, _fromStart, onEvent) {
        counts.followed += 1;
        tell = onEvent;
        await opening.promise;
        return {
          stop: async () => {
            counts.stopped += 1;
          },
        };
      },
    },
    countingTelemetry(),
  );
  const app = new Hono().get('/', (context) => streams.answer(context, session));
  app.onError((error, context) => context.text(error.message, 503));
  return { streams, counts, app, opening, tell: (one: UnderstudyEvent) => tell(one) };
}

test('one that leaves before anything is followed leaves nothing behind', async () => {
  const { streams, counts, app, opening } = following();
  const response = await app.request('/');
  await eventually(() => counts.followed === 1);
  await response.body!.cancel();
  opening.resolve();
  await eventually(() => counts.stopped === 1, 'the follower to be stopped');
  expect(streams.open).toBe(0);
});

test('who asks for the head alone is given none to follow', async () => {
  const { streams, counts, app } = following();
  const response = await app.request('/', { method: 'HEAD' });
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect([response.status, counts.followed, streams.open]).toEqual([200, 0, 0]);
});

test('one that leaves later is stopped as well', async () => {
  const { streams, counts, app, opening, tell } = following();
  opening.resolve();
  const response = await app.request('/');
  const reader = response.body!.getReader();
  await eventually(() => counts.followed === 1);
  tell(event(1));
  expect(new TextDecoder().decode((await reader.read()).value)).toContain('desk-1-1');
  await reader.cancel();
  await eventually(() => counts.stopped === 1 && streams.open === 0);
});

test('one that does not read is let go', async () => {
  const { streams, counts, app, opening, tell } = following();
  opening.resolve();
  const response = await app.request('/');
  await eventually(() => counts.followed === 1);
  for (let version = 1; version <= 100 && counts.stopped === 0; version += 1)
    tell(event(version, { reason: 'x'.repeat(100_000) }));
  await eventually(() => counts.stopped === 1 && streams.open === 0, 'it to be let go');
  expect(response.status).toBe(200);
});

test('a session that is over is followed to its end and no further; the end of one task of a session that goes on is none', async () => {
  const { streams, counts, app, opening, tell } = following();
  opening.resolve();
  const response = await app.request('/');
  await eventually(() => counts.followed === 1);
  tell(event(1, {}, 'desk-1-1-end0'));
  tell(event(2, { status: 'completed', output: 'the answer' }, 'desk-1-2-end0'));
  const text = await response.text();
  expect(text).toMatch(/desk-1-1-end0[\s\S]*desk-1-2-end0[\s\S]*event: over/);
  expect(text).not.toContain('the answer');
  expect([counts.stopped, streams.open]).toEqual([1, 0]);
});

test('a step that is told after the end is heard, and one who comes again hears what is new', async () => {
  const { counts, app, opening, tell } = following();
  opening.resolve();
  const response = await app.request('/', { headers: { 'last-event-id': 'desk-1-2' } });
  await eventually(() => counts.followed === 1);
  for (const version of [1, 2]) tell(event(version));
  tell(event(4, { status: 'completed' }, 'desk-1-4-end0'));
  tell(event(3));
  const ids = [...(await response.text()).matchAll(/^id: (.*)$/gm)].map(([, id]) => id);
  expect(ids).toEqual(['desk-1-2', 'desk-1-4-end0', 'desk-1-3']);
});

test('there are no more than there may be', async () => {
  const { counts, app, opening } = following();
  const responses = [];
  for (let count = 0; count < 200; count += 1) responses.push(await app.request('/'));
  expect((await app.request('/')).status).toBe(503);
  opening.resolve();
  await responses[0]!.body!.cancel();
  await eventually(() => counts.stopped === 1);
  expect((await app.request('/')).status).toBe(200);
});
