/**
 * Release: send out what committed steps want. Called after the commit, and again by the next owner
 * for whatever was not settled; so everything here may happen twice, under the same ids.
 */

import { z } from 'zod';
import { assertNever, issuesOf, Refused } from '../core/errors.ts';
import { type SessionId, sessionIdSchema, shardOf, type TenantId, tenantIdSchema } from '../core/ids.ts';
import { isPending, isPooled, outcomeSchema, type PendingEffect, type PromptEffect } from '../core/session/effects.ts';
import { type Message, parentSchema } from '../core/session/messages.ts';
import { type ToldEvent, told, type UnderstudyEvent } from '../core/wire/cloud-event.ts';
import type { Effects } from '../ports/effects.ts';
import type { Events } from '../ports/events.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { Telemetry } from '../ports/telemetry.ts';

export interface Prompted {
  readonly tenant: TenantId;
  readonly session: SessionId;
  readonly effect: PromptEffect;
  /** Told to the world when a task ended. */
  readonly event?: UnderstudyEvent | undefined;
}

/** One entry of the outbox: what the steps of one commit want. Pending effects stand in the store; here are their ids. */
export interface OutboxEntry {
  readonly pending: readonly string[];
  readonly prompts: readonly Prompted[];
  readonly events: readonly ToldEvent[];
}

/** The entry as it is stored: JSON, made of events that are JSON already. They are the bulk of it. */
export const encodeOutbox = ({ pending, prompts, events }: OutboxEntry): string =>
  `{"pending":${JSON.stringify(pending)},"prompts":${JSON.stringify(prompts)},"events":[${events.map(({ text }) => text).join(',')}]}`;

const eventSchema = z.looseObject({ id: z.string(), type: z.string(), data: z.looseObject({ tenant: z.string(), agent: z.string(), session: z.string(), version: z.number() }) });
const storedSchema = z.object({
  pending: z.array(z.string()),
  prompts: z.array(
    z.object({
      tenant: tenantIdSchema,
      session: sessionIdSchema,
      effect: z.discriminatedUnion('kind', [
        z.looseObject({ kind: z.literal('reply'), outcome: outcomeSchema, output: z.string(), parent: parentSchema.optional() }),
        z.looseObject({ kind: z.literal('cancel'), effects: z.array(z.object({ id: z.string(), pool: z.string() })) }),
        z.looseObject({ kind: z.literal('haltChild'), child: sessionIdSchema, actor: z.string(), reason: z.string() }),
      ]),
      event: eventSchema.optional(),
    }),
  ),
  events: z.array(eventSchema),
});

/** @throws Refused (OUTBOX_POISONED) for what no runtime wrote */
export function decodeOutbox(text: string): OutboxEntry {
  let stored: unknown;
  try {
    stored = JSON.parse(text);
  } catch (error) {
    throw new Refused('OUTBOX_POISONED', 'an outbox entry is not JSON', { cause: error });
  }
  const parsed = storedSchema.safeParse(stored);
  if (!parsed.success) throw new Refused('OUTBOX_POISONED', `an outbox entry does not parse: ${issuesOf(parsed.error)}`);
  // As it was written, to the order of its keys: what is told again is the same text.
  const { pending, prompts, events } = stored as Omit<OutboxEntry, 'events'> & { events: UnderstudyEvent[] };
  return { pending, prompts, events: events.map(told) };
}

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
export async function release(entry: OutboxEntry, effects: readonly PendingEffect[], ports: ReleasePorts, isRepeat: boolean): Promise<void> {
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

export async function releasePending(effect: PendingEffect, { effects, mailbox, shards }: ReleasePorts): Promise<void> {
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
  return mailbox.deliver(shardOf(effect.tenant, effect.child, shards), { tenant: effect.tenant, session: effect.child, message });
}

async function releasePrompt({ tenant, effect, event }: Prompted, { effects, mailbox, events, telemetry, shards }: ReleasePorts, isRepeat: boolean): Promise<void> {
  switch (effect.kind) {
    case 'cancel': {
      const byPool = new Map<string, string[]>();
      for (const { id, pool } of effect.effects) byPool.set(pool, [...(byPool.get(pool) ?? []), id]);
      for (const [pool, ids] of byPool) effects.cancel(pool, ids);
      return;
    }
    case 'haltChild': {
      const child = sessionIdSchema.parse(effect.child);
      return mailbox.deliver(shardOf(tenant, child, shards), { tenant, session: child, message: { kind: 'halt', actor: effect.actor, reason: effect.reason } });
    }
    case 'reply': {
      if (effect.parent) {
        const { parent } = effect;
        const outcome = effect.outcome === 'dead-lettered' ? 'failed' : effect.outcome;
        await mailbox.deliver(shardOf(parent.tenant, parent.session, shards), {
          tenant: parent.tenant,
          session: parent.session,
          message: { kind: 'agentEnded', effect: parent.effect, outcome, output: effect.output || (effect.reason ?? ''), spent: effect.spent },
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

export const pendingOf = (effects: readonly (PendingEffect | PromptEffect)[]): PendingEffect[] => effects.filter(isPending);
