/** An installation of version 0.1.0 (its streams, its consumer, its sessions in flight) goes on. */
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { headers } from 'nats';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { natsArchive } from '../../services/adapters/nats/archive.ts';
import { ask, connectNats, type Nats } from '../../services/adapters/nats/connection.ts';
import { natsMailbox } from '../../services/adapters/nats/mailbox.ts';
import {
  type AgentName,
  type Revision,
  type SessionId,
  sessionIdOf,
  shardOf,
  type TaskId,
  type TenantId,
} from '../../services/core/ids.ts';
import { revisionOf } from '../../services/core/session/specs.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import { type Server, serverPrograms, startNats } from '../../services/local/servers.ts';
import { eventually } from '../support/eventually.ts';
import { bundleOf } from '../support/sessions.ts';
import { System, script } from '../support/system.ts';

interface StreamConfig {
  readonly name: string;
  readonly subjects: readonly string[];
  readonly duplicate_window: number;
  readonly max_bytes: number;
  readonly max_age: number;
}

const streams = JSON.parse(
  readFileSync(join(import.meta.dirname, '../golden/streams-5124013.json'), 'utf8'),
) as Record<string, StreamConfig>;
const acme = 'acme' as TenantId;
const desk = 'desk' as AgentName;
let revision: Revision;
const session = sessionIdOf(acme, desk, 'began-before');

let server: Server;
let before: Nats;
let system: System;

const publish = async (id: string, body: object, key?: string) => {
  const header = headers();
  header.set('Nats-Msg-Id', id);
  if (key) header.set('Understudy-Session', key);
  await before.connection
    .jetstream()
    .publish('understudy.task.acme.desk', JSON.stringify({ input: body }), { headers: header });
};
const configOf = async (name: string): Promise<StreamConfig> =>
  (await ask<{ config: StreamConfig }>(before, `$JS.API.STREAM.INFO.${name}`, undefined)).config;

beforeAll(async () => {
  const folder = mkdtempSync(join(tmpdir(), 'understudy-upgrade-'));
  server = await startNats(serverPrograms().nats, { folder, logs: folder });
  before = await connectNats({ url: server.url, name: 'version-0.1.0' });
  for (const config of Object.values(streams)) {
    const { error } = await ask(before, `$JS.API.STREAM.CREATE.${config.name}`, config);
    expect(error).toBeUndefined();
  }
  // What an operator has set stays.
  await ask(before, '$JS.API.STREAM.UPDATE.EVENTS', {
    ...streams.EVENTS,
    max_bytes: 1024 ** 3,
    max_age: 3 * 86_400 * 1e9,
  });
  await ask(before, '$JS.API.CONSUMER.DURABLE.CREATE.TASKS.intake', {
    stream_name: 'TASKS',
    config: {
      durable_name: 'intake',
      filter_subject: 'understudy.task.>',
      deliver_policy: 'all',
      ack_policy: 'explicit',
      ack_wait: 10e9,
      max_ack_pending: 20_000,
      max_deliver: -1,
      max_waiting: 512,
      replay_policy: 'instant',
    },
  });
  for (let number = 1; number <= 4; number += 1) await publish(`old-${number}`, script('keyed'));
  for (let number = 1; number <= 3; number += 1)
    await publish(`order-${number}`, script('pure'), 'kept');
  // Two are in the hands of a runtime that is gone.
  const inbox = before.connection.subscribe('in-hand.>', { max: 2 });
  before.connection.publish(
    '$JS.API.CONSUMER.MSG.NEXT.TASKS.intake',
    JSON.stringify({ batch: 2, expires: 5e9 }),
    { reply: 'in-hand.1' },
  );
  for await (const _ of inbox);

  // A session that began with a bundle that names no behaviour: it is still in the log.
  const { behaviour: _, ...bundle } = bundleOf({
    model: 'scripted',
    tools: ['keyed'],
    limits: { stepsMax: 20, toolCallsMax: 20, tokensMax: 1e8, costMicrosMax: 1e8 } as never,
  });
  const began = {
    ...bundle,
    name: desk,
    models: [{ ...bundle.models[0]!, name: 'scripted' }],
    tools: {
      keyed: toolSpecSchema.parse({
        description: 'a keyed tool',
        class: 'keyed',
        run: { kind: 'http', url: '${env:WORLD_URL}/do/keyed' },
      }),
    },
  };
  revision = revisionOf(began as never);
  await natsArchive(before).putBundle(revision, began as never);
  await natsMailbox(before).deliver(shardOf(acme, session, 4), {
    tenant: acme,
    session,
    message: {
      kind: 'task',
      task: 'began-before' as TaskId,
      agent: desk,
      revision,
      input: JSON.stringify(script('keyed')),
      isKeyed: false,
    },
  });
  system = await System.start({ natsUrl: server.url, runtimes: 2 });
}, 60_000);
afterAll(async () => {
  await system?.stop();
  await before?.close();
  await server?.running.stop();
});

test('its tasks and sessions go on, each once, through a kill', async () => {
  const tasks = ['old-1', 'old-2', 'old-3', 'old-4', 'order-1', 'order-2', 'order-3'];
  for (const runtime of system.of('runtime').slice(0, 1)) system.stack.kill(runtime);
  await system.stack.start('runtime');
  for (const task of [...tasks, 'began-before'])
    expect((await system.endOf(task)).data).toMatchObject({ task });
  const ends = system.ends().map(({ data }) => data.task);
  expect(ends.toSorted()).toEqual([...tasks, 'began-before'].toSorted());
  expect(ends.filter((task) => task.startsWith('order-'))).toEqual([
    'order-1',
    'order-2',
    'order-3',
  ]);
  expect(system.world.doubled()).toEqual([]);
  await system.verifyAll([...tasks, 'began-before']);
  const { record } = await system.ask<{ record: { session: SessionId; revision: string } }>(
    'inspect',
    { session },
  );
  expect(record.revision).toBe(revision);
  // Published once more under the header of that time, it is known.
  await publish('old-1', script('keyed'));
  await publish('after', script('pure'));
  await system.endOf('after');
  expect(system.ends().filter(({ data }) => data.task === 'old-1')).toHaveLength(1);
});

test('what is ours of its streams is brought up to date, what is the operator’s stays', async () => {
  expect((await configOf('TASKS')).duplicate_window).toBe(100e6);
  expect((await configOf('DEAD')).duplicate_window).toBe(100e6);
  expect((await configOf('STARTS')).subjects).toEqual(['understudy.start.>', 'understudy.clock.>']);
  expect(await configOf('EVENTS')).toMatchObject({
    max_bytes: 1024 ** 3,
    max_age: 3 * 86_400 * 1e9,
  });
});

test('the reader of that time is gone, and one may come back after a rollback', async () => {
  const names = async () =>
    (
      await ask<{ consumers: string[] | null }>(before, '$JS.API.CONSUMER.NAMES.TASKS', {})
    ).consumers?.filter((name) => name.startsWith('intake')) ?? [];
  expect(await names()).toEqual([expect.stringMatching(/^intake-/)]);
  for (const runtime of system.of('runtime')) system.stack.kill(runtime);
  // A runtime of that version makes its consumer: it is refused while ours is there, then it is not.
  const made = await eventually(
    async () => {
      const { error } = await ask(before, '$JS.API.CONSUMER.DURABLE.CREATE.TASKS.intake', {
        stream_name: 'TASKS',
        config: {
          durable_name: 'intake',
          filter_subject: 'understudy.task.>',
          deliver_policy: 'all',
          ack_policy: 'explicit',
          ack_wait: 10e9,
        },
      });
      return error ? undefined : true;
    },
    'the consumer to be made',
    60_000,
  );
  expect(made).toBe(true);
}, 90_000);
