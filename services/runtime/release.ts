/**
 * Release: send out what committed steps want. Called after the commit, and again by the next owner
 * for whatever was not settled; so everything here may happen twice, under the same ids.
 */

import { assertNever } from '../core/errors.ts';
import { shardOf } from '../core/ids.ts';
import {
  isPending,
  isPooled,
  type PendingEffect,
  type PromptEffect,
} from '../core/session/effects.ts';
import type { Message } from '../core/session/messages.ts';
import type { Effects } from '../ports/effects.ts';
import type { Events } from '../ports/events.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import type { OutboxEntry, Prompted } from './outbox-entry.ts';

export interface ReleasePorts {
  readonly mailbox: Mailbox;
  readonly effects: Effects;
  readonly events: Events;
  readonly telemetry: Telemetry;
  readonly shards: number;
}

/**
 * @param effects   the pending effects that the entry names, as far as they are still pending
 * @param isRepeat  the entry may have been released before: look before telling an end a second time
 */
export async function release(
  entry: OutboxEntry,
  effects: readonly PendingEffect[],
  ports: ReleasePorts,
  isRepeat: boolean,
): Promise<void> {
  const sent: Promise<unknown>[] = [];
  for (const effect of effects) sent.push(releasePending(effect, ports));
  // Steps before ends: who follows a session sees its last step, then its end.
  if (entry.events.length > 0) sent.push(ports.events.publishSteps(entry.events));
  for (const prompted of entry.prompts) sent.push(releasePrompt(prompted, ports, isRepeat));
  await Promise.all(sent);
  // Those that go to a pool are counted when they leave their window.
  const others = effects.filter((effect) => !isPooled(effect)).length;
  if (others > 0) ports.telemetry.released('effect', others);
}

export async function releasePending(
  effect: PendingEffect,
  { effects, mailbox, shards }: ReleasePorts,
): Promise<void> {
  if (isPooled(effect)) return effects.offer(effect);
  if (effect.kind === 'askHuman') return; // nobody performs it: the control API shows it, a person answers
  const message: Message = {
    kind: 'task',
    task: effect.id as unknown as Extract<Message, { kind: 'task' }>['task'],
    agent: effect.childAgent,
    revision: effect.childRevision,
    input: effect.input,
    isKeyed: false,
    limits: effect.limits,
    parent: { tenant: effect.tenant, session: effect.session, effect: effect.id },
    ...(effect.traceparent ? { traceparent: effect.traceparent } : {}),
  };
  return mailbox.deliver(shardOf(effect.tenant, effect.child, shards), {
    tenant: effect.tenant,
    session: effect.child,
    message,
  });
}

async function releasePrompt(
  { tenant, effect, event }: Prompted,
  { effects, mailbox, events, telemetry, shards }: ReleasePorts,
  isRepeat: boolean,
): Promise<void> {
  switch (effect.kind) {
    case 'cancel': {
      const byPool = new Map<string, string[]>();
      for (const { id, pool } of effect.effects)
        byPool.set(pool, [...(byPool.get(pool) ?? []), id]);
      for (const [pool, ids] of byPool) effects.cancel(pool, ids);
      return;
    }
    case 'haltChild': {
      const { child, actor, reason, start } = effect;
      return mailbox.deliver(shardOf(tenant, child, shards), {
        tenant,
        session: child,
        message: { kind: 'halt', actor, reason, ...(start ? { child: start } : {}) },
      });
    }
    case 'reply': {
      if (effect.parent) {
        const { parent } = effect;
        const outcome = effect.outcome === 'dead-lettered' ? 'failed' : effect.outcome;
        await mailbox.deliver(shardOf(parent.tenant, parent.session, shards), {
          tenant: parent.tenant,
          session: parent.session,
          message: {
            kind: 'agentEnded',
            effect: parent.effect,
            outcome,
            output: effect.output || (effect.reason ?? ''),
            spent: effect.spent,
          },
        });
      }
      if (event && !(isRepeat && (await events.has(event)))) {
        await events.publishEnd(event);
        telemetry.ended(effect.outcome);
      }
      return;
    }
    default:
      return assertNever(effect);
  }
}

export const pendingOf = (effects: readonly (PendingEffect | PromptEffect)[]): PendingEffect[] =>
  effects.filter(isPending);
