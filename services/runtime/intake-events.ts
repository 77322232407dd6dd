/**
 * Intake of events: one that was published for a session becomes its mail, or a dead letter with
 * the reason. I1 and I2 of intake.ts hold for events as they do for tasks.
 */
import { z } from 'zod';
import { issuesOf, isTooLarge, messageOf, Refused } from '../core/errors.ts';
import { agentOf, sessionIdSchema, shardOf, tenantIdSchema } from '../core/ids.ts';
import { inexactNumber, parseJson } from '../core/json.ts';
import { limits } from '../core/limits.ts';
import { eventSchema, type OutsideEvent } from '../core/session/messages.ts';
import { eventIdentity, eventSubject } from '../core/wire/letters.ts';
import type { RawTask } from '../ports/tasks.ts';
import type { IntakePorts } from './intake-ports.ts';

/** An event in the broker's hands: the session is a part of its subject. */
type RawEvent = RawTask & { readonly session: string };

const idSchema = z.string().min(1).max(256);

export async function takeEventIn(raw: RawEvent, ports: IntakePorts): Promise<void> {
  const { mailbox, telemetry, shards } = ports;
  let addressed: ReturnType<typeof eventOf>;
  try {
    addressed = eventOf(raw, ports);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return deadLetter(raw, error, ports);
  }
  const { tenant, session, id, event } = addressed;
  try {
    await mailbox.deliver(shardOf(tenant, session, shards), {
      tenant,
      session,
      message: { kind: 'event', id, from: tenant, event },
    });
  } catch (error) {
    if (isTooLarge(error)) return deadLetter(raw, error, ports);
    throw error;
  }
  telemetry.log('info', 'event accepted', { tenant, session });
}

/** As its publisher named it; without a name it is known by its place in the stream. */
const idOf = ({ headers, sequenceId }: RawEvent): string =>
  headers['Understudy-Event'] ?? headers['Nats-Msg-Id'] ?? sequenceId;

/** @throws Refused with the reason, for whoever looks at the dead letter */
function eventOf(raw: RawEvent, { catalog }: Pick<IntakePorts, 'catalog'>) {
  const tenant = tenantIdSchema.safeParse(raw.tenant);
  if (!tenant.success)
    throw new Refused('TENANT_INVALID', `the tenant of an event: ${issuesOf(tenant.error)}`);
  if (!catalog().tenants.has(tenant.data))
    throw new Refused('TENANT_UNKNOWN', `there is no tenant ${tenant.data}`);
  const session = sessionIdSchema.safeParse(raw.session);
  if (!session.success)
    throw new Refused('SESSION_INVALID', `the session of an event: ${issuesOf(session.error)}`);
  if (raw.headersProblem !== undefined)
    throw new Refused(
      'EVENT_INVALID',
      `the headers of the event cannot be read: ${raw.headersProblem.slice(0, 200)}`,
    );
  const id = idSchema.safeParse(idOf(raw));
  if (!id.success) throw new Refused('EVENT_INVALID', `the id of the event: ${issuesOf(id.error)}`);
  return { tenant: tenant.data, session: session.data, id: id.data, event: bodyOf(raw.body) };
}

function bodyOf(body: string): OutsideEvent {
  const bytes = Buffer.byteLength(body);
  if (bytes > limits.taskBytesMax)
    throw new Refused(
      'EVENT_INVALID',
      `the event has ${bytes} bytes; ${limits.taskBytesMax} are allowed`,
    );
  let value: unknown;
  try {
    value = parseJson(body);
  } catch (error) {
    const why = messageOf(error).slice(0, 120);
    throw new Refused('EVENT_INVALID', `the event does not parse: ${why}`, { cause: error });
  }
  const number = inexactNumber(body);
  if (number !== undefined)
    throw new Refused('EVENT_INVALID', `the event holds ${number}, which would not stay exact`);
  const event = eventSchema.safeParse(value);
  if (!event.success)
    throw new Refused('EVENT_INVALID', `the event does not parse: ${issuesOf(event.error)}`);
  return event.data;
}

async function deadLetter(raw: RawEvent, error: Refused, { events, telemetry }: IntakePorts) {
  const { tenant, session, body, headers } = raw;
  const isTelling = sessionIdSchema.safeParse(session).success;
  await events.putDeadLetter({
    tenant,
    agent: agentOf(session),
    code: error.code,
    reason: messageOf(error).slice(0, 500),
    ...(isTelling ? { session } : {}),
    subject: eventSubject(tenant, session),
    body: body.slice(0, limits.taskBytesMax),
    headers,
    identity: eventIdentity(tenant, session, idOf(raw)),
    ...(body.length > limits.taskBytesMax ? { isCut: true } : {}),
  });
  telemetry.refused('event', error.code, { subject: raw.subject });
  telemetry.deadLettered(error.code, { subject: raw.subject });
}
