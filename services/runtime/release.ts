/**
 * Release: send out what committed steps want. Called after the commit, and again by the next owner
 * for whatever was not settled; so everything here may happen twice, under the same ids.
 *
 * L1  Before an end is told, nobody may begin any more what its session gave up: each such call has
 *     a record that says so (`cancelled`), and the end names those that had begun.
 * L2  What no message can carry is not tried for ever: who waits for it is told so.
 */

import { assertNever, isTooLarge, messageOf } from '../core/errors.ts';
import { shardOf } from '../core/ids.ts';
import { modelPool } from '../core/pools.ts';
import { cutAnswer } from '../core/session/draft.ts';
import {
  isPending,
  isPooled,
  type PendingEffect,
  type PromptEffect,
} from '../core/session/effects.ts';
import type { Message } from '../core/session/messages.ts';
import { unheard } from '../core/session/seen.ts';
import type { Failure } from '../core/tools/job.ts';
import { eventLetterOf } from '../core/wire/letters.ts';
import type { Effects } from '../ports/effects.ts';
import type { Events } from '../ports/events.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import { cancelStart, type Starts } from '../ports/starts.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import type { OutboxEntry, Prompted } from './outbox-entry.ts';

export interface ReleasePorts {
  readonly mailbox: Mailbox;
  readonly effects: Effects;
  readonly events: Events;
  readonly starts: Pick<Starts, 'create'>;
  readonly telemetry: Telemetry;
  readonly shards: number;
}

/** A call that had begun when its session gave it up. */
interface UnderWay {
  readonly id: string;
  readonly what: string;
}

/**
 * @param effects  the pending effects that the entry names, as far as they are still pending
 * @param done  what has left in an earlier try, noted here: one part that cannot leave repeats no other
 */
export async function release(
  entry: OutboxEntry,
  effects: readonly PendingEffect[],
  ports: ReleasePorts,
  done = new Set<string>(),
): Promise<void> {
  const sent: Promise<unknown>[] = [];
  const once = async (part: string, send: () => Promise<unknown>) => {
    if (done.has(part)) return;
    await send();
    done.add(part);
  };
  for (const effect of effects) sent.push(once(effect.id, () => releasePending(effect, ports)));
  // Steps before ends: who follows a session sees its last step, then its end.
  if (entry.events.length > 0)
    sent.push(once('steps', () => ports.events.publishSteps(entry.events)));
  for (const [index, prompts] of bySession(entry.prompts).entries())
    sent.push(once(`prompts ${index}`, () => releasePrompts(prompts, ports)));
  await Promise.all(sent);
  // Those that go to a pool are counted when they leave their window.
  const others = effects.filter((effect) => !isPooled(effect)).length;
  if (others > 0) ports.telemetry.released('effect', others);
}

/** What the steps of one session prompt stays together where one of it cancels something. */
function bySession(prompts: readonly Prompted[]): readonly (readonly Prompted[])[] {
  if (!prompts.some(({ effect }) => effect.kind === 'cancel')) return prompts.map((one) => [one]);
  const sessions = new Map<string, Prompted[]>();
  for (const prompted of prompts) {
    const key = `${prompted.tenant}/${prompted.session}`;
    const found = sessions.get(key);
    if (found) found.push(prompted);
    else sessions.set(key, [prompted]);
  }
  return [...sessions.values()];
}

async function releasePrompts(prompts: readonly Prompted[], ports: ReleasePorts): Promise<void> {
  const underWay: UnderWay[] = [];
  for (const { effect } of prompts) {
    if (effect.kind === 'cancel') underWay.push(...(await cancelCalls(effect, ports)));
  }
  await Promise.all(prompts.map((prompted) => releasePrompt(prompted, underWay, ports)));
}

/** @returns which of them had begun. @throws Unavailable while the start records are away: the end waits (L1) */
async function cancelCalls(
  { effects }: Extract<PromptEffect, { kind: 'cancel' }>,
  ports: ReleasePorts,
): Promise<UnderWay[]> {
  const byPool = new Map<string, string[]>();
  for (const { id, pool } of effects) byPool.set(pool, [...(byPool.get(pool) ?? []), id]);
  // Who is at it learns at once; who is not must not begin.
  for (const [pool, ids] of byPool) ports.effects.cancel(pool, ids);
  const begun = await Promise.all(
    effects.map(async ({ id, pool, tool, class: toolClass }): Promise<UnderWay[]> => {
      if (pool === modelPool || toolClass === 'pure') return [];
      const performer = await cancelStart(ports.starts, id, toolClass ?? 'opaque');
      return performer === undefined ? [] : [{ id, what: tool ?? 'a tool' }];
    }),
  );
  return begun.flat();
}

/** What no message carries: whoever waits for it is told. @throws what it is not */
export function tellTooLarge(
  effect: PendingEffect,
  error: unknown,
  { mailbox, shards, telemetry }: Pick<ReleasePorts, 'mailbox' | 'shards' | 'telemetry'>,
): Promise<void> {
  if (!isTooLarge(error)) throw error;
  telemetry.log('error', 'an effect is too large for a message; its session is told', {
    effect: effect.id,
    session: effect.session,
  });
  const failure: Failure = {
    class: 'permanent',
    code: 'EFFECT_TOO_LARGE',
    message: messageOf(error),
  };
  const { tenant, session } = effect;
  const shard = shardOf(tenant, session, shards);
  return mailbox.deliver(shard, { tenant, session, message: refusalOf(effect, failure) });
}

function refusalOf({ kind, id: effect }: PendingEffect, failure: Failure): Message {
  if (kind === 'callModel') return { kind: 'modelFailed', effect, failure, attempts: 0 };
  if (kind === 'startAgent') {
    const output = `${failure.code}: ${failure.message}`;
    const spent = { steps: 0, toolCalls: 0, tokens: 0, costMicros: 0 };
    return { kind: 'agentEnded', effect, outcome: 'failed', output, spent };
  }
  return { kind: 'toolFailed', effect, failure, latencyMs: 0, attempts: 0, executor: 'none' };
}

export async function releasePending(effect: PendingEffect, ports: ReleasePorts): Promise<void> {
  const { effects, mailbox, shards } = ports;
  if (isPooled(effect))
    return effects.offer(effect).catch((error: unknown) => tellTooLarge(effect, error, ports));
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
  return mailbox
    .deliver(shardOf(effect.tenant, effect.child, shards), {
      tenant: effect.tenant,
      session: effect.child,
      message,
    })
    .catch((error: unknown) => tellTooLarge(effect, error, ports));
}

async function releasePrompt(
  { tenant, session, effect, event }: Prompted,
  underWay: readonly UnderWay[],
  { mailbox, events, telemetry, shards }: ReleasePorts,
): Promise<void> {
  switch (effect.kind) {
    case 'cancel':
      return;
    case 'unheard': {
      const { code, message } = unheard(session, effect.from);
      return events.putDeadLetter({ ...eventLetterOf(session, effect), code, reason: message });
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
      if (effect.parent) await tellParent(effect, mailbox, shards);
      if (!event) return;
      const { tenant: of, session: ended } = event.data;
      const shard = shardOf(of as typeof tenant, ended as Prompted['session'], shards);
      const told = underWay.length > 0 ? { ...event, data: { ...event.data, underWay } } : event;
      if (await events.publishEnd(told, shard)) telemetry.ended(effect.outcome);
      return;
    }
    default:
      return assertNever(effect);
  }
}

async function tellParent(
  { parent, outcome, output, reason, spent }: Extract<PromptEffect, { kind: 'reply' }>,
  mailbox: Mailbox,
  shards: number,
): Promise<void> {
  const { tenant, session, effect } = parent!;
  const tell = (text: string) =>
    mailbox.deliver(shardOf(tenant, session, shards), {
      tenant,
      session,
      message: {
        kind: 'agentEnded',
        effect,
        outcome: outcome === 'dead-lettered' ? 'failed' : outcome,
        output: text,
        spent,
      },
    });
  const text = output || (reason ?? '');
  try {
    await tell(cutAnswer(text));
  } catch (error) {
    if (!isTooLarge(error)) throw error;
    await tell(`${text.slice(0, 1_000)} [cut: ${messageOf(error)}]`);
  }
}

export const pendingOf = (effects: readonly (PendingEffect | PromptEffect)[]): PendingEffect[] =>
  effects.filter(isPending);
