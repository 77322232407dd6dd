/** Folding a session from its log: for verify, for rebuilding what the store lost, for replay. */
import { Refused } from '../core/errors.ts';
import type { Revision, SessionId, ShardId, TenantId } from '../core/ids.ts';
import { behaviourOf } from '../core/session/behaviour.ts';
import type { Entry } from '../core/session/conversation.ts';
import type { Incoming, Step } from '../core/session/draft.ts';
import { isPending, type PendingEffect } from '../core/session/effects.ts';
import type { Message } from '../core/session/messages.ts';
import { comparePositions, type Position, type SessionRecord } from '../core/session/record.ts';
import { seen } from '../core/session/seen.ts';
import { park } from '../core/session/step.ts';
import type { Archive } from '../ports/archive.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import { boundedStep } from './bounded-step.ts';
import type { Definitions } from './definitions.ts';

export interface Folded {
  readonly record: SessionRecord | undefined;
  readonly entries: readonly Entry[];
  readonly pending: readonly PendingEffect[];
  readonly messages: number;
}

/** Of the session that a message would begin. */
export const revisionOf = (message: Message): Revision | undefined =>
  message.kind === 'task'
    ? message.revision
    : message.kind === 'halt'
      ? message.child?.revision
      : undefined;

/** Apply messages in order, from nothing. */
export async function fold(
  mail: readonly Incoming[],
  address: { tenant: TenantId; session: SessionId },
  definitions: Definitions,
): Promise<Folded> {
  let record: SessionRecord | undefined;
  const entries: Entry[] = [];
  const pending = new Map<string, PendingEffect>();
  let messages = 0;
  for (const incoming of mail) {
    const revision = record?.revision ?? revisionOf(incoming.message);
    if (!revision) continue;
    const stepped = await stepOrPark(record, incoming, revision, address, definitions);
    if (stepped.kind === 'seen') continue;
    messages += 1;
    record = stepped.record;
    entries.push(...stepped.entries);
    for (const effect of stepped.effects) if (isPending(effect)) pending.set(effect.id, effect);
    for (const id of stepped.settled) pending.delete(id);
  }
  return { record, entries, pending: [...pending.values()], messages };
}

/**
 * The fold makes of a message what the shard made of it: a step, a parked session, or nothing. It cannot know of a session that
 * was parked because its machine was missing at the time: such a session does not verify once the machine is back.
 */
async function stepOrPark(
  record: SessionRecord | undefined,
  incoming: Incoming,
  revision: Revision,
  address: { tenant: TenantId; session: SessionId },
  definitions: Definitions,
): Promise<Step> {
  const definition = await definitions.get(revision);
  try {
    return boundedStep(record, incoming, definition, address);
  } catch (error) {
    if (error instanceof Refused || !record) return seen('refused', 'refused');
    return park(record, incoming, error, address, false, behaviourOf(definition.bundle));
  }
}

/**
 * What a session has heard: from its archived baselines, then from MAIL up to a position.
 *
 * @param isBefore  without the message at that position
 * @returns with the sequence of the first message that no baseline holds
 */
export async function historyOf(
  shard: ShardId,
  session: SessionId,
  ports: { archive: Archive; mailbox: Mailbox },
  upTo: Position | undefined,
  isBefore = false,
): Promise<{
  mail: Incoming[];
  baseline: SessionRecord | undefined;
  tenant: TenantId | undefined;
  sequence: number | undefined;
}> {
  const chain = await ports.archive.chain(shard, session);
  const mail = chain.flatMap((baseline) => [...baseline.mail]);
  const baseline = chain.at(-1)?.record;
  let tenant = baseline?.tenant;
  let sequence: number | undefined;
  if (upTo && (!baseline || comparePositions(baseline.position, upTo) < 0)) {
    const collected = await collectMail(
      shard,
      new Map([[session, baseline?.position.sequence ?? 0]]),
      upTo,
      ports.mailbox,
    );
    tenant ??= collected.get(session)?.tenant;
    for (const incoming of collected.get(session)?.mail ?? []) {
      if (isBefore && comparePositions(incoming.position, upTo) >= 0) break;
      if (baseline && comparePositions(incoming.position, baseline.position) <= 0) continue;
      sequence ??= incoming.position.sequence;
      mail.push(incoming);
    }
  }
  return { mail, baseline, tenant, sequence };
}

/** Read a stretch of MAIL once, for several sessions of a shard: each from its own sequence on. */
export async function collectMail(
  shard: ShardId,
  from: ReadonlyMap<SessionId, number>,
  upTo: Position,
  mailbox: Mailbox,
): Promise<Map<SessionId, { tenant: TenantId; mail: Incoming[] }>> {
  const found = new Map<SessionId, { tenant: TenantId; isSure: boolean; mail: Incoming[] }>();
  const start = Math.min(...from.values());
  if (!Number.isFinite(start) || upTo.sequence < start) return found;
  let newer: number | undefined;
  await mailbox.readTo(shard, Math.max(0, start - 1), upTo.sequence, (batch) => {
    batch.items.forEach((item, index) => {
      if (!item.ok) {
        if (item.isNewer) newer ??= batch.sequence;
        return;
      }
      const since = from.get(item.envelope.session);
      if (since === undefined || batch.sequence < since) return;
      const incoming: Incoming = {
        message: item.envelope.message,
        at: batch.at,
        position: { incarnation: upTo.incarnation, sequence: batch.sequence, index },
      };
      const { tenant, session, message } = item.envelope;
      const list = found.get(session);
      // Anybody may send an event to anything: whose a session is, what began it says.
      const isSure = message.kind !== 'event';
      if (!list) found.set(session, { tenant, isSure, mail: [incoming] });
      else {
        list.mail.push(incoming);
        if (isSure && !list.isSure) Object.assign(list, { tenant, isSure });
      }
    });
  });
  if (newer !== undefined)
    throw new Refused('MAIL_NEWER', `mail ${newer} was written by a newer release`);
  return found;
}
