/** What the owner of a shard says of a call that an executor would take over. */
import { expect, test } from 'vitest';
import type { EffectId, SessionId, ShardId, TenantId } from '../../services/core/ids.ts';
import type { SessionRecord } from '../../services/core/session/record.ts';
import { isWanted } from '../../services/runtime/wanted.ts';
import { returned, Talk, task } from '../support/sessions.ts';

const call = {
  shard: 3 as ShardId,
  tenant: 'acme' as TenantId,
  session: 's' as SessionId,
  effect: 'e' as EffectId,
};

interface Case {
  readonly pending?: readonly string[];
  readonly isStored?: boolean;
  readonly archived?: string;
  /** Mail that the owner has not heard yet, and whether it ever does. */
  readonly behind?: number;
  readonly isStuck?: boolean;
  readonly isOwner?: boolean;
  /** A paused session keeps the result of this effect. */
  readonly kept?: string;
}

async function asked({
  pending = [],
  isStored = true,
  archived,
  behind = 0,
  isStuck = false,
  isOwner = true,
  kept,
}: Case) {
  const talk = new Talk();
  talk.say(task('hello'));
  const note = Object.values(talk.record?.pending ?? {})[0];
  const deferred = kept ? [{ message: returned(kept), at: 1 }] : [];
  const notes = Object.fromEntries(pending.map((id) => [id, note]));
  const record = { ...talk.record, pending: notes, deferred };
  let now = 0;
  let sequence = 10 - behind;
  const shard = {
    get position() {
      return { incarnation: 0, sequence, index: 0 };
    },
  };
  return isWanted(call, { shard: () => (isOwner ? shard : undefined) } as never, {
    mailbox: { lastOf: async () => 10 },
    store: { load: async () => (isStored ? JSON.stringify(record) : undefined) },
    archive: {
      latest: async () =>
        archived
          ? ({ record: { ...talk.record, status: archived } as SessionRecord } as never)
          : undefined,
    },
    clock: {
      now: () => now,
      sleep: async (ms) => {
        now += ms;
        if (!isStuck) sequence = Math.min(10, sequence + 1);
      },
    },
  });
}

test.each<[string, Case, boolean | undefined]>([
  ['it is pending', { pending: ['e'] }, true],
  ['its answer is kept by a session that stands still', { pending: ['e'], kept: 'e' }, false],
  ['another answer is kept', { pending: ['e'], kept: 'f' }, true],
  ['it was answered', { pending: ['other'] }, false],
  ['its answer is in the log, and is heard first', { pending: [], behind: 5 }, false],
  [
    'its owner does not get to the end of the log',
    { pending: [], behind: 5, isStuck: true },
    undefined,
  ],
  ['another owns the shard', { pending: ['e'], isOwner: false }, undefined],
  ['its session has ended and is put away', { isStored: false, archived: 'halted' }, false],
  ['the store has lost its session', { isStored: false, archived: 'active' }, undefined],
  ['nobody knows its session', { isStored: false }, undefined],
])('%s', async (_what, given, answer) => {
  expect(await asked(given)).toBe(answer);
});
