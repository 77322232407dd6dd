/**
 * Is a call still waited for? Executors ask before they take over what another had begun: its result
 * may be in the log, told by an executor that died after it.
 */

import type { EffectId } from '../core/ids.ts';
import { parseRecord } from '../core/session/migrate.ts';
import { isEnded, type SessionRecord } from '../core/session/record.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { SessionStore } from '../ports/session-store.ts';
import type { WantedCall } from '../ports/starts.ts';
import type { Host } from './host.ts';

export interface WantedPorts {
  readonly mailbox: Pick<Mailbox, 'lastOf'>;
  readonly store: Pick<SessionStore, 'load'>;
  readonly archive: Pick<Archive, 'latest'>;
  readonly clock: Pick<Clock, 'now' | 'sleep'>;
}

const hearWithinMs = 2_500; // less than an executor waits for an answer
const lookMs = 50;

/**
 * Told by the owner of the session's shard, once it has heard and stored all that the log has now.
 *
 * @returns undefined where another must say, or nobody can say in time
 */
export async function isWanted(
  { shard, session, effect }: WantedCall,
  host: Pick<Host, 'shard'>,
  { mailbox, store, archive, clock }: WantedPorts,
): Promise<boolean | undefined> {
  const owned = host.shard(shard);
  if (!owned) return undefined;
  const last = await mailbox.lastOf(shard);
  const until = clock.now() + hearWithinMs;
  while (owned.position.sequence < last) {
    if (clock.now() > until || host.shard(shard) !== owned) return undefined;
    await clock.sleep(lookMs);
  }
  const text = await store.load(shard, session);
  const record = text === undefined ? undefined : parseRecord(text);
  if (record) return host.shard(shard) === owned ? waitsFor(record, effect) : undefined;
  // Not stored: it has ended, or the store has lost it and it will be there again.
  const baseline = await archive.latest(shard, session);
  return baseline && isEnded(baseline.record) && host.shard(shard) === owned ? false : undefined;
}

/** A session that stands still keeps a result for later: the call is done all the same. */
const waitsFor = ({ pending, deferred }: SessionRecord, effect: EffectId): boolean =>
  effect in pending &&
  !deferred.some(({ message }) => 'effect' in message && message.effect === effect);
