/**
 * What a tenant may ask: how its own task stands, and what came of it, also where it missed the
 * end.
 */
import { z } from 'zod';
import { issuesOf } from '../core/errors.ts';
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
import type { AgentContext } from '../core/session/agent-context.ts';
import { parseRecord } from '../core/session/migrate.ts';
import { isEnded, type SessionRecord, tasksOf } from '../core/session/record.ts';
import { summaryOf } from '../core/session/summary.ts';
import type { UnderstudyEvent } from '../core/wire/cloud-event.ts';
import type { TaskAnswer } from '../core/wire/control-answers.ts';
import type { Archive } from '../ports/archive.ts';
import type { ControlAnswer } from '../ports/control.ts';
import type { Events } from '../ports/events.ts';
import type { SessionStore } from '../ports/session-store.ts';

const askSchema = z
  .object({
    agent: agentNameSchema,
    task: taskIdSchema,
    session: z.string().optional().describe('the key, of a task that was published with one'),
  })
  .strict();

export interface AskPorts {
  readonly store: Pick<SessionStore, 'load'>;
  readonly archive: Pick<Archive, 'latest'>;
  readonly events: Pick<Events, 'endsOf' | 'letterOf'>;
  readonly shards: number;
}

/** @param tenant  of the subject that was asked on: the broker let nobody else ask there */
export async function askTask(
  tenant: string,
  body: unknown,
  ports: AskPorts,
): Promise<ControlAnswer> {
  const asked = askSchema.safeParse(body);
  const of = tenantIdSchema.safeParse(tenant);
  if (!asked.success || !of.success) {
    const message = asked.success ? 'the tenant is not a name' : issuesOf(asked.error);
    return { ok: false, code: 'REQUEST_INVALID', message };
  }
  const { agent, task, session: key } = asked.data;
  const seed = key === undefined ? taskSeedOf(task) : keySeedOf(key);
  const session = sessionIdOf(of.data, agent, seed);
  const shard = shardOf(of.data, session, ports.shards);
  const text = await ports.store.load(shard, session);
  const record = text ? parseRecord(text) : (await ports.archive.latest(shard, session))?.record;
  const base = { task, agent, session };
  if (record && tasksOf(record).includes(task)) {
    return { ok: true, value: await answerOf(record, base, shard, ports) };
  }
  const letter = await ports.events.letterOf(of.data, agent, session, task);
  if (letter) {
    const { code, reason, at } = letter;
    const value: TaskAnswer = {
      ...base,
      status: 'dead-lettered',
      reason: `${code}: ${reason}`,
      at,
    };
    return { ok: true, value };
  }
  // One that never began may have been answered all the same: what was told is the truth.
  const end = record && (await endOf(record, task, shard, ports));
  if (end) return { ok: true, value: endAnswer(end, base) };
  if (record && isWaiting(record, task)) return { ok: true, value: { ...base, status: 'waiting' } };
  const message = `agent ${agent} knows no task ${task.slice(0, 64)}: it was not published, not taken in yet, or is forgotten after 30 days`;
  return { ok: false, code: 'TASK_UNKNOWN', message };
}

const isWaiting = (record: SessionRecord, task: string): boolean =>
  ((record.context as unknown as Partial<AgentContext>).queue ?? []).some(
    (queued) => queued.task === task,
  ) || record.deferred.some(({ message }) => message.kind === 'task' && message.task === task);

async function answerOf(
  record: SessionRecord,
  base: { task: string; agent: string; session: SessionId },
  shard: number,
  ports: AskPorts,
): Promise<TaskAnswer> {
  const isCurrent = record.task === base.task;
  if (isCurrent && !isEnded(record) && record.value !== 'idle') {
    const { waitingOn, state } = summaryOf(record);
    return {
      ...base,
      status: record.status === 'active' ? 'running' : record.status,
      state,
      waitingOn,
    };
  }
  // What its publisher was told is the truth about its end.
  const end = await endOf(record, base.task, shard, ports);
  if (end) return endAnswer(end, base);
  if (!isCurrent || !isEnded(record)) return { ...base, status: 'ended' };
  return {
    ...base,
    status: record.status,
    ...(record.reason ? { reason: record.reason } : {}),
    ...(typeof record.output === 'string' ? { output: record.output } : {}),
    at: record.changedAt,
  };
}

async function endOf(
  { tenant, agent, session, startedAt }: SessionRecord,
  task: string,
  shard: number,
  { events }: AskPorts,
): Promise<UnderstudyEvent | undefined> {
  const ends = await events.endsOf({ tenant, agent, session }, shard, startedAt - 60_000);
  return ends.find(({ data }) => data.task === task);
}

const endAnswer = (
  { data, time }: UnderstudyEvent,
  base: { task: string; agent: string; session: SessionId },
): TaskAnswer => ({
  ...base,
  status: data.to,
  at: Date.parse(time),
  ...(data.reason ? { reason: data.reason } : {}),
  ...(data.output ? { output: data.output } : {}),
  ...(data.spent ? { spent: data.spent } : {}),
});

const askedAtOnce = 2; // of one tenant, by one runtime: an answer may read many ends
const askedWaiting = 32;

/** A tenant that asks much waits for itself: its questions are answered a few at a time. */
export function inTurns(
  answer: (tenant: string, body: unknown) => Promise<ControlAnswer>,
): (tenant: string, body: unknown) => Promise<ControlAnswer> {
  const lines = new Map<string, { running: number; waiting: (() => void)[] }>();
  return async (tenant, body) => {
    const line = lines.get(tenant) ?? { running: 0, waiting: [] };
    lines.set(tenant, line);
    if (line.running >= askedAtOnce) {
      if (line.waiting.length >= askedWaiting)
        return {
          ok: false,
          code: 'BUSY',
          message: 'this tenant asks more than is answered; ask later',
        };
      await new Promise<void>((resolve) => line.waiting.push(resolve));
    } else line.running += 1;
    try {
      return await answer(tenant, body);
    } finally {
      const next = line.waiting.shift();
      if (next) next();
      else {
        line.running -= 1;
        if (line.running === 0) lines.delete(tenant);
      }
    }
  };
}
