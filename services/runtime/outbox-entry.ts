/** An entry of the outbox, as it is stored and as it is read again. */
import { z } from 'zod';
import { issuesOf, Refused } from '../core/errors.ts';
import { type SessionId, sessionIdSchema, type TenantId, tenantIdSchema } from '../core/ids.ts';
import { type PromptEffect, promptEffectSchema } from '../core/session/effects.ts';
import { type StepEvent, stepEventOf, type UnderstudyEvent } from '../core/wire/cloud-event.ts';

export interface Prompted {
  readonly tenant: TenantId;
  readonly session: SessionId;
  readonly effect: PromptEffect;
  /** Told to the world when a task ended. */
  readonly event?: UnderstudyEvent | undefined;
}

/** What the steps of one commit want. Pending effects stand in the store; here are their ids. */
export interface OutboxEntry {
  readonly pending: readonly string[];
  readonly prompts: readonly Prompted[];
  readonly events: readonly StepEvent[];
}

/** What an entry says of its own format. Entries of earlier releases say nothing: 1. With events that nobody heard: 2. */
const outboxVersion = 2;
const versionOf = (prompts: OutboxEntry['prompts']): number =>
  prompts.some(({ effect }) => effect.kind === 'unheard') ? outboxVersion : 1;

/** JSON, made of events that are JSON already. They are the bulk of it. */
export const encodeOutbox = ({ pending, prompts, events }: OutboxEntry): string =>
  `{"v":${versionOf(prompts)},"pending":${JSON.stringify(pending)},"prompts":${JSON.stringify(prompts)},"events":[${events.map(({ text }) => text).join(',')}]}`;

/** Whom it is about, by what is told of them. */
export const sessionsOf = ({ prompts, events }: OutboxEntry): Set<SessionId> =>
  new Set([
    ...prompts.map(({ session }) => session),
    ...events.map(({ text }) => (JSON.parse(text) as UnderstudyEvent).data.session as SessionId),
  ]);

const eventSchema = z.looseObject({
  id: z.string(),
  type: z.string(),
  data: z.looseObject({
    tenant: z.string(),
    agent: z.string(),
    session: z.string(),
    version: z.number(),
  }),
});
const storedSchema = z.object({
  pending: z.array(z.string()),
  prompts: z.array(
    z.object({
      tenant: tenantIdSchema,
      session: sessionIdSchema,
      effect: promptEffectSchema,
      event: eventSchema.optional(),
    }),
  ),
  events: z.array(eventSchema),
});

/** @throws Refused: OUTBOX_POISONED for what no runtime wrote, OUTBOX_NEWER for what a newer release did */
export function decodeOutbox(text: string): OutboxEntry {
  let stored: unknown;
  try {
    stored = JSON.parse(text);
  } catch (error) {
    throw new Refused('OUTBOX_POISONED', 'an outbox entry is not JSON', { cause: error });
  }
  const { v } = (stored ?? {}) as { v?: unknown };
  if (typeof v === 'number' && v > outboxVersion)
    throw new Refused('OUTBOX_NEWER', `an outbox entry has version ${v}`);
  const parsed = storedSchema.safeParse(stored);
  if (!parsed.success)
    throw new Refused(
      'OUTBOX_POISONED',
      `an outbox entry does not parse: ${issuesOf(parsed.error)}`,
    );
  // As it was written, to the order of its keys: what is told again is the same text.
  const { pending, prompts, events } = stored as Omit<OutboxEntry, 'events'> & {
    events: UnderstudyEvent[];
  };
  return { pending, prompts, events: events.map(stepEventOf) };
}
