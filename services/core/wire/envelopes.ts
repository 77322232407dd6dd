/** What travels in MAIL and EFFECTS: plain JSON with a schema version, one or many to a message. */
import { z } from 'zod';
import { issuesOf, messageOf } from '../errors.ts';
import { type SessionId, sessionIdSchema, type TenantId, tenantIdSchema } from '../ids.ts';
import { jsonText } from '../json.ts';
import { callModelSchema, type PooledEffect, runToolSchema } from '../session/effects.ts';
import { type Message, messageSchema } from '../session/messages.ts';

/** Versions of an envelope: 2 carries events from outside, which releases that know only 1 cannot read. */
export const wireVersion = 2;

const envelopeSchema = z.object({
  v: z.union([z.literal(1), z.literal(wireVersion)]),
  tenant: tenantIdSchema,
  session: sessionIdSchema,
  message: messageSchema,
});

/** A message with its address. */
export interface Envelope {
  readonly tenant: TenantId;
  readonly session: SessionId;
  readonly message: Message;
}

export type ParsedEnvelope =
  | { readonly ok: true; readonly envelope: Envelope }
  | {
      readonly ok: false;
      readonly problem: string;
      readonly raw: string;
      /** Of a newer release: not broken, and not ours to read. */
      readonly isNewer?: boolean;
    };

const isFromNewer = (item: unknown): boolean => {
  const { v } = (item ?? {}) as { v?: unknown };
  return typeof v === 'number' && v > wireVersion;
};

export const encodeEnvelope = ({ tenant, session, message }: Envelope): string =>
  JSON.stringify({ v: message.kind === 'event' ? wireVersion : 1, tenant, session, message });

/** For people: one of many that came in one message, or what can be said of it. */
function textOf(item: unknown): string {
  try {
    return jsonText(item);
  } catch (error) {
    return `(${messageOf(error)})`;
  }
}

/** One stream message may hold one envelope or an array; each is judged alone, so a bad one spoils no other. */
export function parseMail(text: string): ParsedEnvelope[] {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return [{ ok: false, problem: 'not JSON', raw: text }];
  }
  return (Array.isArray(body) ? body : [body]).map((item) => {
    const parsed = envelopeSchema.safeParse(item);
    return parsed.success
      ? { ok: true, envelope: parsed.data }
      : {
          ok: false,
          problem: issuesOf(parsed.error),
          raw: textOf(item),
          ...(isFromNewer(item) ? { isNewer: true } : {}),
        };
  });
}

const pooledSchema = z.discriminatedUnion('kind', [callModelSchema, runToolSchema]);

export type ParsedEffect =
  | { readonly ok: true; readonly effect: PooledEffect }
  | { readonly ok: false; readonly problem: string; readonly raw: string };

export function parseEffects(text: string): ParsedEffect[] {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch {
    return [{ ok: false, problem: 'not JSON', raw: text }];
  }
  return (Array.isArray(body) ? body : [body]).map((item) => {
    const parsed = pooledSchema.safeParse(item);
    return parsed.success
      ? { ok: true, effect: parsed.data }
      : { ok: false, problem: issuesOf(parsed.error), raw: textOf(item) };
  });
}
