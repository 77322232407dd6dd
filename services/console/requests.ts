/** What comes from a browser, judged and parsed. */
import type { Context } from 'hono';
import { z } from 'zod';
import { issuesOf, messageOf, Refused } from '../core/errors.ts';
import { type SessionId, sessionIdSchema } from '../core/ids.ts';

/**
 * Another page can send a form but no JSON, and a browser says where a request comes from. One that does not say so is judged by its
 * origin: behind a proxy that writes another Host, old browsers stay outside.
 */
export function isOurPage(context: Context): boolean {
  const site = context.req.header('sec-fetch-site');
  const origin = context.req.header('origin');
  const isSame =
    site === undefined
      ? origin === undefined || origin.replace(/^https?:\/\//, '') === context.req.header('host')
      : site === 'same-origin';
  return isSame && /^application\/json\b/.test(context.req.header('content-type') ?? '');
}

/** @throws Refused when the body is no JSON or does not fit */
export async function bodyOf<Schema extends z.ZodType>(
  context: Context,
  schema: Schema,
): Promise<z.output<Schema>> {
  const text = await context.req.text();
  let body: unknown;
  try {
    body = text === '' ? {} : JSON.parse(text);
  } catch (error) {
    throw new Refused('BODY_NOT_JSON', `the body is no JSON: ${messageOf(error).slice(0, 120)}`, {
      cause: error,
    });
  }
  const parsed = schema.safeParse(body);
  if (!parsed.success) throw new Refused('BODY_INVALID', issuesOf(parsed.error));
  return parsed.data;
}

/** @throws Refused */
export function sessionOf(context: Context): SessionId {
  const given = String(context.req.param('session'));
  const session = sessionIdSchema.safeParse(given);
  if (!session.success)
    throw new Refused(
      'SESSION_INVALID',
      `"${given.slice(0, 80)}" is no session id; the list of sessions has them`,
    );
  return session.data;
}

/** @throws Refused */
export function letterOf(context: Context): number {
  const given = String(context.req.param('id'));
  const id = z.coerce.number().int().positive().safeParse(given);
  if (!id.success)
    throw new Refused(
      'DEAD_LETTER_INVALID',
      `"${given.slice(0, 40)}" is no number of a dead letter; the list of dead letters has them`,
    );
  return id.data;
}

const filterSchema = z.object({
  tenant: z.string().optional(),
  agent: z.string().optional(),
  status: z.string().optional(),
  ended: z.stringbool().default(false),
  max: z.coerce.number().int().positive().max(1_000).default(200),
});

/** @throws Refused */
export function filterOf(context: Context): z.infer<typeof filterSchema> {
  const filter = filterSchema.safeParse(context.req.query());
  if (!filter.success) throw new Refused('FILTER_INVALID', issuesOf(filter.error));
  return filter.data;
}
