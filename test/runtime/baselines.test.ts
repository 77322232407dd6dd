/** What goes into the archive is trimmed from the log: a part of the mail must never pass for the whole. */
import { expect, test } from 'vitest';
import { memoryArchive } from '../../services/adapters/memory/archive.ts';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import type { ShardId } from '../../services/core/ids.ts';
import { encodeEnvelope } from '../../services/core/wire/envelopes.ts';
import { Actor } from '../../services/runtime/actor.ts';
import { Baselines } from '../../services/runtime/baselines.ts';
import { Residents } from '../../services/runtime/residents.ts';
import { address, Talk, task } from '../support/sessions.ts';

const shard = 0 as ShardId;

/** A session after its first message, in the memory of a runtime that has taken it over: its mail is in the log alone. */
function takenOver() {
  const mailbox = memoryMailbox(systemClock);
  const archive = memoryArchive();
  const told: string[] = [];
  const host = {
    isOpen: () => true,
    isHolding: () => false,
    hasDraft: () => false,
    hasUnreleased: () => false,
    onWritten: () => void told.push('written'),
  };
  const baselines = new Baselines(
    shard,
    { archive, mailbox, telemetry: countingTelemetry(), clock: systemClock },
    new Residents(),
    host,
  );
  const talk = new Talk();
  talk.say(task('hello'));
  const actor = new Actor(address.tenant, address.session, 0);
  actor.record = talk.record;
  actor.committedVersion = talk.record!.version;
  actor.isMailComplete = false;
  baselines.need(address.session, 1);
  return { mailbox, archive, told, baselines, actor };
}
const envelope = (message: Parameters<typeof encodeEnvelope>[0]['message']) =>
  encodeEnvelope({ ...address, message });

test('a baseline is not written while the log gives less than the session has heard', async () => {
  const { mailbox, archive, told, baselines, actor } = takenOver();
  await baselines.write(actor);
  expect([await archive.chain(shard, address.session), told]).toEqual([[], []]);

  mailbox.inject(shard, envelope(task('hello')));
  await baselines.write(actor);
  expect((await archive.chain(shard, address.session)).map(({ mail }) => mail.length)).toEqual([1]);
  expect(told).toEqual(['written']);
});

test('a message that changed nothing may stand behind the last that did', async () => {
  const { mailbox, archive, baselines, actor } = takenOver();
  mailbox.inject(shard, `[${envelope(task('hello'))},${envelope({ kind: 'wake' })}]`);
  await baselines.write(actor);
  expect(await archive.chain(shard, address.session)).toHaveLength(1);
});
