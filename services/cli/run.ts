/** `understudy run`: a task that is published, and followed to its result. */
import { messageOf, Refused, Unavailable } from '../core/errors.ts';
import {
  agentNameSchema,
  keySeedOf,
  type SessionId,
  sessionIdOf,
  taskIdSchema,
  taskSeedOf,
  tenantIdSchema,
} from '../core/ids.ts';
import { isFinal } from '../core/session/status.ts';
import type { SessionSummary } from '../core/session/summary.ts';
import type { UnderstudyEvent } from '../core/wire/cloud-event.ts';
import { isEndEvent } from '../core/wire/event-end.ts';
import type { Control } from '../ports/control.ts';
import type { Events } from '../ports/events.ts';
import type { Tasks } from '../ports/tasks.ts';

export interface Task {
  readonly tenant: string;
  readonly agent: string;
  readonly id: string;
  readonly body: string;
  readonly headers: Record<string, string>;
  /** Where it lands: derived, so known before it is published. */
  readonly session: SessionId;
  /** It may have been published before: its id was given. */
  readonly mayBeKnown: boolean;
}

export interface RunPorts {
  readonly events: Events;
  readonly tasks: Tasks;
  readonly control: Pick<Control, 'ask'>;
  readonly waitMs: number;
}

export interface RunView {
  /** The task was accepted before. */
  onKnown(task: Task, status: string): void;
  onStep(event: UnderstudyEvent): void;
  onEnd(event: UnderstudyEvent): void;
  onRefused(letter: { readonly id: number; readonly code: string; readonly reason: string }): void;
  /** It is over, so long ago that nobody tells its events any more. */
  onPast(task: Task, summary: SessionSummary, output: string | undefined): void;
  /** Nothing has been heard for a while. */
  onSilence(task: Task): void;
}

const silenceMs = 10_000;
const lookEveryMs = 700; // whether it is over, where nothing is heard
const archivedMs = 2_000; // an end that EVENTS still has is read in less

/** @throws Refused for what can be no task, before anything is published */
export function taskOf(
  agent: string,
  input: string,
  options: { tenant: string; id?: string | undefined; session?: string | undefined },
  drawn: string,
): Task {
  const named = <Value>(
    what: string,
    parsed: { success: boolean; data?: Value },
    text: string,
  ): Value => {
    if (!parsed.success)
      throw new Refused(
        `${what.toUpperCase()}_INVALID`,
        `"${text.slice(0, 64)}" can be no ${what}: letters, digits, - and _ only`,
      );
    return parsed.data as Value;
  };
  const tenant = named('tenant', tenantIdSchema.safeParse(options.tenant), options.tenant);
  const name = named('agent', agentNameSchema.safeParse(agent), agent);
  const id = options.id ?? drawn;
  if (!taskIdSchema.safeParse(id).success)
    throw new Refused('TASK_ID_INVALID', 'a task id has 1 to 256 characters');
  let parsed: unknown = input;
  try {
    parsed = JSON.parse(input);
  } catch (error) {
    // Plain text is a task as well; what looks like JSON and is none is a slip of the hand.
    if (/^\s*[{[]/.test(input))
      throw new Refused(
        'TASK_NOT_JSON',
        `the input looks like JSON and does not parse: ${messageOf(error)}`,
      );
  }
  return {
    tenant,
    agent: name,
    id,
    body: JSON.stringify({
      input: typeof parsed === 'object' && parsed !== null ? parsed : String(parsed),
    }),
    headers: {
      'Understudy-Task': id,
      ...(options.session === undefined ? {} : { 'Understudy-Session': options.session }),
    },
    session: sessionIdOf(
      tenant,
      name,
      options.session === undefined ? taskSeedOf(id) : keySeedOf(options.session),
    ),
    mayBeKnown: options.id !== undefined && options.session === undefined,
  };
}

/** @returns whether it was completed */
export async function runTask(
  task: Task,
  { events, tasks, control, waitMs }: RunPorts,
  view: RunView,
): Promise<boolean> {
  let heardAt = Date.now();
  const { promise, resolve: finish } = Promise.withResolvers<boolean>();
  const onEvent = (event: UnderstudyEvent) => {
    heardAt = Date.now();
    if (!isEndEvent(event)) return view.onStep(event);
    if (event.data.task !== task.id) return;
    const { to, details, reason = '' } = event.data;
    if (to === 'dead-lettered') {
      const code = String(details.code);
      view.onRefused({
        id: Number(details.letter),
        code,
        reason: reason.replace(`${code}: `, ''),
      });
      return finish(false);
    }
    view.onEnd(event);
    finish(event.data.to === 'completed');
  };
  const known = task.mayBeKnown ? await before(task, control, waitMs) : undefined;
  if (known) view.onKnown(task, known.summary.status);
  // One that is known is told from its beginning: its end may have been said, or be said while we begin to listen.
  const filter = { tenant: task.tenant, agent: task.agent, session: task.session };
  const following = await events.follow(
    known ? { ...filter, since: known.summary.startedAt } : filter,
    known !== undefined,
    onEvent,
  );
  let watch: NodeJS.Timeout | undefined;
  let past: NodeJS.Timeout | undefined;
  try {
    if (!known) await tasks.publish(task.tenant, task.agent, task.body, task.headers);
    else if (isFinal(known.summary.status)) {
      past = setTimeout(() => {
        view.onPast(task, known.summary, known.output);
        finish(known.summary.status === 'completed');
      }, archivedMs);
    }
    let isLooking = false;
    const look = async () => {
      if (task.mayBeKnown && Date.now() - heardAt > archivedMs) {
        // Its end may have been said between our question and our listening.
        const now = await before(task, control, waitMs);
        if (now && isFinal(now.summary.status)) {
          view.onPast(task, now.summary, now.output);
          return finish(now.summary.status === 'completed');
        }
      }
      if (Date.now() - heardAt > silenceMs) {
        heardAt = Number.POSITIVE_INFINITY; // said once
        view.onSilence(task);
      }
    };
    // One that fails is followed by the next.
    watch = setInterval(() => {
      if (isLooking) return;
      isLooking = true;
      void look()
        .catch(() => undefined)
        .finally(() => {
          isLooking = false;
        });
    }, lookEveryMs);
    return await promise;
  } finally {
    clearInterval(watch);
    clearTimeout(past);
    await following.stop();
  }
}

interface Known {
  readonly summary: SessionSummary;
  readonly output: string | undefined;
}

/** The session of a task that was accepted before. Nothing, too, when nobody can say now: publishing it again does no harm. */
async function before(
  { session }: Task,
  control: Pick<Control, 'ask'>,
  waitMs: number,
): Promise<Known | undefined> {
  try {
    const answer = await control.ask('inspect', { session }, waitMs);
    if (!answer.ok) return undefined;
    const { summary, record } = answer.value as {
      summary: SessionSummary;
      record: { output?: string };
    };
    return { summary, output: record.output };
  } catch (error) {
    if (error instanceof Unavailable) return undefined;
    throw error;
  }
}
