/** A store that does not agree with itself, or holds what a newer release wrote. */
import { describe, expect, test } from 'vitest';
import { esbuildMachines } from '../../services/adapters/esbuild/machines.ts';
import { memoryArchive, memoryEvents } from '../../services/adapters/memory/archive.ts';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { memoryEffects, memoryStarts } from '../../services/adapters/memory/queues.ts';
import { memoryStore } from '../../services/adapters/memory/session-store.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { Refused } from '../../services/core/errors.ts';
import type { HostId, ShardId } from '../../services/core/ids.ts';
import { CommitRounds } from '../../services/runtime/commit-rounds.ts';
import { Definitions } from '../../services/runtime/definitions.ts';
import { Host } from '../../services/runtime/host.ts';
import { Windows } from '../../services/runtime/windows.ts';
import { eventually } from '../support/eventually.ts';
import { address, bundleOf, replied, revision, task } from '../support/sessions.ts';

const shard = 0 as ShardId;

async function world() {
  const clock = systemClock;
  const store = memoryStore(clock);
  const archive = memoryArchive();
  const ports = {
    store,
    archive,
    mailbox: memoryMailbox(clock),
    effects: memoryEffects(clock),
    starts: memoryStarts(clock),
    events: memoryEvents(clock),
    telemetry: countingTelemetry(),
    clock,
    definitions: new Definitions(archive, ['.'], esbuildMachines()),
    shards: 1,
  };
  await archive.putBundle(revision, bundleOf());
  const hostOf = async (boot: string) => {
    const host = new Host(
      { host: 'runtime-1' as HostId, boot, leaseMs: 2_000 },
      { ...ports, windows: new Windows(ports), rounds: new CommitRounds() },
      store.leases,
    );
    await host.start();
    return host;
  };
  const host = await hostOf('b1');
  await eventually(() => host.shard(shard)?.isCaughtUp);
  const say = (message: Parameters<typeof ports.mailbox.deliver>[1]['message']) =>
    ports.mailbox.deliver(shard, { ...address, message });
  return { ...ports, host, hostOf, say };
}

async function thinking() {
  const found = await world();
  await found.say(task('hello'));
  const [effect] = await eventually(async () => {
    const pending = await found.store.pending(shard);
    return pending.length > 0 ? pending : undefined;
  });
  return { ...found, effect: effect! };
}

test('a commit that is stale twice at one place discards what disagrees, and the log builds it again', async () => {
  const { store, archive, say, host, effect } = await thinking();
  const stored = JSON.parse((await store.load(shard, address.session))!) as { version: number };
  store.setVersion(shard, address.session, stored.version + 5);

  await say(replied(effect.id, { content: 'done' }));

  const ended = await eventually(async () => {
    const baseline = await archive.latest(shard, address.session);
    return baseline?.record.status === 'completed' ? baseline : undefined;
  }, 'the session to end');
  expect(ended.record.version).toBe(2);
  await host.drain();
});

describe('what a newer release wrote is not ours to read', () => {
  test('a record: the shard stays closed, readiness says why, nothing is discarded or dead-lettered', async () => {
    const { store, say, host, hostOf, effect, events } = await thinking();
    const record = JSON.parse((await store.load(shard, address.session))!) as object;
    const newer = JSON.stringify({ ...record, schema: 99 });
    await host.drain();
    store.poison(shard, address.session, newer);
    const again = await hostOf('b2');
    await say(replied(effect.id, { content: 'done' }));

    await eventually(() => again.whyNotReady.includes('stays closed here'), 'it to say so');
    expect(again.whyNotReady).toContain('has schema 99');
    expect(await store.load(shard, address.session)).toBe(newer);
    expect(await store.pending(shard)).toHaveLength(1);
    expect(await events.deadLetters(10)).toEqual([]);
    await again.drain();
  });

  test('mail: the shard stays closed, and its position does not move', async () => {
    const { host, mailbox, events } = await thinking();
    const before = host.shard(shard)!.position.sequence;
    mailbox.inject(shard, JSON.stringify({ v: 3, ...address, message: { kind: 'new' } }));

    await eventually(() => host.whyNotReady.includes('newer release'), 'it to say so');
    await host.drain();
    expect(before).toBe(1);
    expect(await events.deadLetters(10)).toEqual([]);
  });

  test('mail that is heard while the shard is opened: what closed it stands', async () => {
    const { host, hostOf, mailbox } = await world();
    await host.drain();
    mailbox.inject(shard, JSON.stringify({ v: 3, ...address, message: { kind: 'new' } }));
    const read = mailbox.read.bind(mailbox);
    const opened: string[] = [];
    let heir: Host | undefined;
    mailbox.read = async (...how) => {
      const reading = await read(...how);
      await eventually(() => heir?.whyNotReady.includes('stays closed here'), 'it to be closed');
      setTimeout(() => opened.push(heir?.whyNotReady ?? ''), 20);
      return reading;
    };
    heir = await hostOf('b2');

    expect(await eventually(() => opened[0], 'what is said once it was opened')).toContain(
      'stays closed here: mail 1 is of a newer release',
    );
    await heir.drain();
  });

  test.each(['BASELINE_NEWER', 'BUNDLE_NEWER'])('%s: the shard stays closed', async (code) => {
    const { host, archive, say, events } = await world();
    const refuse = async () => {
      throw new Refused(code, 'of a newer release');
    };
    archive.bundle = refuse;
    archive.latest = refuse;
    await say(task('hello'));

    await eventually(() => host.whyNotReady.includes('newer release'), 'it to say so');
    await host.drain();
    expect(await events.deadLetters(10)).toEqual([]);
  });
});

test('an event that comes before its session does not say whose the session is', async () => {
  const { mailbox, store, say, host, events } = await world();
  const event = {
    kind: 'event' as const,
    id: 'e1',
    from: 'globex' as never,
    event: { type: 'GO' },
  };
  await Promise.all([
    mailbox.deliver(shard, { ...address, tenant: 'globex' as never, message: event }),
    say(task('hello')),
  ]);
  const text = await eventually(() => store.load(shard, address.session), 'the session');
  expect(JSON.parse(text).tenant).toBe(address.tenant);
  const letters = await eventually(async () => {
    const found = await events.deadLetters(10);
    return found.length > 0 ? found : undefined;
  }, 'the letter');
  expect(JSON.stringify(letters)).toContain('EVENT_UNHEARD');
  expect(await store.pending(shard)).toHaveLength(1);
  await host.drain();
});
