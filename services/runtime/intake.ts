/**
 * Intake: a published task becomes the first message of a session, or a dead letter with the reason.
 *
 * I1  The task is acknowledged only after one of the two is stored.
 * I2  The session derives from the task id (or the session key), so a task that comes twice lands on itself.
 */
import { z } from 'zod';
import { narrowed, narrowerLimitsSchema } from '../core/budget/budget.ts';
import { issuesOf, isTooLarge, messageOf, Refused, Unavailable } from '../core/errors.ts';
import {
  agentNameSchema,
  keySeedOf,
  type SessionId,
  sessionIdOf,
  shardOf,
  taskIdSchema,
  taskSeedOf,
  tenantIdSchema,
} from '../core/ids.ts';
import { parseJson } from '../core/json.ts';
import { limits } from '../core/limits.ts';
import type { Message } from '../core/session/messages.ts';
import type { Catalog } from '../core/session/specs.ts';
import { taskIdentity } from '../core/wire/letters.ts';
import type { RawTask } from '../ports/tasks.ts';
import { takeEventIn } from './intake-events.ts';
import type { IntakePorts } from './intake-ports.ts';

/** A task is any JSON. An object with an `input` says that, and narrower limits, by name, and nothing else; any other is the input itself. */
const taskSchema = z
  .object({ input: z.unknown(), limits: narrowerLimitsSchema.optional() })
  .strict();
const hasInput = (body: unknown): boolean =>
  typeof body === 'object' && body !== null && !Array.isArray(body) && 'input' in body;

const traceparentSchema = z.string().regex(/^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/);

/** @throws Unavailable, or what a stream said that is full; take it in again */
export async function takeIn(task: RawTask, ports: IntakePorts): Promise<void> {
  const { session: told } = task;
  if (told !== undefined) return takeEventIn({ ...task, session: told }, ports);
  const { mailbox, telemetry, shards } = ports;
  let addressed: ReturnType<typeof addressOf>;
  try {
    addressed = addressOf(task, ports.catalog());
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const unknown =
      error.code === 'AGENT_UNKNOWN'
        ? task.agent
        : error.code === 'TENANT_UNKNOWN'
          ? task.tenant
          : undefined;
    if (unknown !== undefined && ports.isUnsure(unknown))
      throw new Unavailable('SPEC_BROKEN', `what defines ${unknown} is broken now`);
    return deadLetter(task, error, ports);
  }
  const { tenant, session, message } = addressed;
  try {
    await mailbox.deliver(shardOf(tenant, session, shards), { tenant, session, message });
  } catch (error) {
    if (isTooLarge(error)) return deadLetter(task, error, ports);
    throw error;
  }
  telemetry.accepted();
  telemetry.log('info', 'task accepted', {
    tenant,
    agent: message.agent,
    session,
    task: message.task,
    revision: message.revision,
    trace: message.traceparent,
  });
}

async function deadLetter(task: RawTask, error: Refused, { events, telemetry }: IntakePorts) {
  const id = taskIdOf(task);
  const session = sessionOf(task);
  await events.putDeadLetter({
    tenant: task.tenant,
    agent: task.agent,
    code: error.code,
    reason: messageOf(error).slice(0, 500),
    task: id.slice(0, 256),
    ...(session ? { session } : {}),
    subject: task.subject,
    body: task.body.slice(0, limits.taskBytesMax),
    headers: task.headers,
    identity: taskIdentity(session ?? `${task.tenant}\n${task.agent}`, id),
    ...(task.body.length > limits.taskBytesMax ? { isCut: true } : {}),
  });
  telemetry.refused('task', error.code, { subject: task.subject });
  telemetry.deadLettered(error.code, { subject: task.subject });
}

/** As its publisher named it. `Nats-Msg-Id` serves as well, but the broker drops what repeats one within its window. */
const taskIdOf = ({ headers, sequenceId }: RawTask): string =>
  headers['Understudy-Task'] ?? headers['Nats-Msg-Id'] ?? sequenceId;

/** Where it would land, as far as its names are names. */
function sessionOf(task: RawTask): SessionId | undefined {
  const tenant = tenantIdSchema.safeParse(task.tenant);
  const agent = agentNameSchema.safeParse(task.agent);
  if (!tenant.success || !agent.success) return undefined;
  const key = task.headers['Understudy-Session'];
  const seed = key === undefined ? taskSeedOf(taskIdOf(task)) : keySeedOf(key);
  return sessionIdOf(tenant.data, agent.data, seed);
}

function bodyOf(task: RawTask): unknown {
  try {
    return parseJson(task.body);
  } catch (error) {
    if (error instanceof RangeError)
      throw new Refused('TASK_INVALID', `the task does not parse: ${error.message}`, {
        cause: error,
      });
    throw new Refused('TASK_NOT_JSON', `the task is not JSON: ${messageOf(error).slice(0, 120)}`, {
      cause: error,
    });
  }
}

/** @throws Refused with the reason, for whoever looks at the dead letter */
export function addressOf(
  task: RawTask,
  catalog: Catalog,
): {
  tenant: ReturnType<typeof tenantIdSchema.parse>;
  session: ReturnType<typeof sessionIdOf>;
  message: Extract<Message, { kind: 'task' }>;
} {
  const tenant = tenantIdSchema.safeParse(task.tenant);
  if (!tenant.success)
    throw new Refused(
      'TENANT_INVALID',
      `tenant "${task.tenant.slice(0, 64)}": ${issuesOf(tenant.error)}`,
    );
  const tenantSpec = catalog.tenants.get(tenant.data);
  if (!tenantSpec)
    throw new Refused(
      'TENANT_UNKNOWN',
      // Who publishes may be anybody: the names of others are not told.
      `there is no tenant ${tenant.data}; \`understudy doctor\` lists what is known`,
    );
  const agent = agentNameSchema.safeParse(task.agent);
  if (!agent.success)
    throw new Refused(
      'AGENT_INVALID',
      `agent "${task.agent.slice(0, 64)}": ${issuesOf(agent.error)}`,
    );
  const isAllowed = (name: string) =>
    tenantSpec.agents.includes('*') || tenantSpec.agents.includes(name);
  const known = catalog.agents.get(agent.data);
  if (!known) {
    const own = [...catalog.agents.keys()].filter(isAllowed).join(', ') || 'none';
    throw new Refused('AGENT_UNKNOWN', `there is no agent ${agent.data}; known: ${own}`);
  }
  if (!isAllowed(agent.data))
    throw new Refused('AGENT_FORBIDDEN', `tenant ${tenant.data} may not use agent ${agent.data}`);
  const bytes = Buffer.byteLength(task.body);
  if (bytes > limits.taskBytesMax)
    throw new Refused(
      'TASK_TOO_LARGE',
      `the task has ${bytes} bytes, ${limits.taskBytesMax} are allowed`,
    );

  if (task.headersProblem !== undefined)
    throw new Refused(
      'TASK_HEADERS_INVALID',
      `the headers of the task cannot be read: ${task.headersProblem.slice(0, 200)}`,
    );

  const body = bodyOf(task);
  const parsed = taskSchema.safeParse(hasInput(body) ? body : { input: body });
  if (!parsed.success)
    throw new Refused('TASK_INVALID', `the task does not parse: ${issuesOf(parsed.error)}`);
  const { input, limits: narrower } = parsed.data;

  const id = taskIdSchema.safeParse(taskIdOf(task));
  if (!id.success) throw new Refused('TASK_ID_INVALID', `the task id: ${issuesOf(id.error)}`);
  const key = task.headers['Understudy-Session'];
  const traceparent = traceparentSchema.safeParse(task.headers.traceparent);
  return {
    tenant: tenant.data,
    session: sessionIdOf(
      tenant.data,
      agent.data,
      key === undefined ? taskSeedOf(id.data) : keySeedOf(key),
    ),
    message: {
      kind: 'task',
      task: id.data,
      agent: agent.data,
      revision: known.revision,
      input: typeof input === 'string' ? input : JSON.stringify(input),
      isKeyed: key !== undefined,
      ...(narrower ? { limits: narrowed(known.bundle.agent.limits, narrower) } : {}),
      ...(traceparent.success ? { traceparent: traceparent.data } : {}),
    },
  };
}
