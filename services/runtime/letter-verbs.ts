/** What operators do with dead letters: look at them, publish them again, throw them away. */
import { z } from 'zod';
import { messageOf, Refused } from '../core/errors.ts';
import { agentNameSchema, tenantIdSchema } from '../core/ids.ts';
import { parseJson } from '../core/json.ts';
import type { Discarded, Requeued } from '../core/wire/control-answers.ts';
import { requeuedTask, toldSession } from '../core/wire/letters.ts';
import type { DeadLetter, Events, LetterHead } from '../ports/events.ts';
import type { Tasks } from '../ports/tasks.ts';

const letterId = z.number().int().positive();
const which = {
  id: letterId.optional(),
  all: z.boolean().default(false),
  tenant: z.string().optional().describe('with all: only of this tenant'),
  agent: z.string().optional().describe('with all: only for this agent'),
  code: z.string().optional().describe('with all: only with this code'),
};
const isOne = ({ id, all }: { id?: number | undefined; all: boolean }) =>
  (id !== undefined) !== all;
const isFiltered = (given: { tenant?: unknown; agent?: unknown; code?: unknown }) =>
  given.tenant !== undefined || given.agent !== undefined || given.code !== undefined;
const oneOrAll = 'name one dead letter by its id, or say all: one of the two';

export const deadSchema = z
  .object({
    id: letterId.optional(),
    before: letterId.optional().describe('only letters with a smaller number: the next page'),
    max: z.number().int().positive().max(10_000).default(200),
  })
  .strict();

export const requeueSchema = z
  .object({
    ...which,
    body: z.string().optional(),
    toTenant: tenantIdSchema.optional().describe('publish it for this tenant instead'),
    toAgent: agentNameSchema.optional().describe('publish it for this agent instead'),
  })
  .strict()
  .refine(isOne, oneOrAll)
  .refine(({ all, body }) => !all || body === undefined, {
    path: ['body'],
    message: 'is for one dead letter, not for all of them',
  })
  .refine((given) => given.all || !isFiltered(given), 'a filter goes with all');

export const discardSchema = z
  .object(which)
  .strict()
  .refine(isOne, oneOrAll)
  .refine((given) => given.all || !isFiltered(given), 'a filter goes with all');

export interface LetterPorts {
  readonly events: Pick<Events, 'deadLetters' | 'deadLetter' | 'removeDeadLetter'>;
  readonly tasks: Pick<Tasks, 'publish' | 'tell'>;
}

const pageMax = 1_000;

/**
 * A page of heads, newest first; bodies are large, and of tenants: one is given to who names the
 * letter.
 */
export async function dead(
  { id, max, before }: z.infer<typeof deadSchema>,
  { events }: LetterPorts,
): Promise<(LetterHead | DeadLetter)[]> {
  if (id === undefined) return events.deadLetters(max, before);
  const letter = await events.deadLetter(id);
  if (!letter) throw unknownLetter(id);
  return [letter];
}

export async function requeue(
  { body, toTenant, toAgent, ...given }: z.infer<typeof requeueSchema>,
  ports: LetterPorts,
): Promise<Requeued> {
  if (body !== undefined) parseBody(body);
  const tasks: string[] = [];
  const refused: string[] = [];
  for await (const { id } of lettersOf(given, ports)) {
    const letter = await ports.events.deadLetter(id);
    // Another has published it again, or thrown it away.
    if (!letter) continue;
    const why = whyNotRequeued(letter, body);
    if (why) {
      refused.push(`${id}: ${why}`);
      continue;
    }
    const { 'Nats-Msg-Id': _m, 'Understudy-Task': _t, ...headers } = letter.headers;
    const told = toldSession(letter.subject);
    if (told !== undefined) {
      const problem = await toldAgain(letter, told, { body, toTenant, toAgent }, ports);
      if (problem) refused.push(`${id}: ${problem}`);
      else tasks.push(`event for ${told}`);
      continue;
    }
    // An id that follows from the letter: two requeues make one task, on one session.
    const { task: named = `letter-${id}`, identity = `letter-${id}`, isCut } = letter;
    const [tenant, agent] = [toTenant ?? letter.tenant, toAgent ?? letter.agent];
    const isMoved = tenant !== letter.tenant || agent !== letter.agent;
    const task = requeuedTask({ task: named, identity, isCut }, body, isMoved);
    try {
      await ports.tasks.publish(tenant, agent, body ?? letter.body, {
        ...headers,
        'Understudy-Task': task,
      });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      refused.push(`${id}: ${error.message}`);
      continue;
    }
    await ports.events.removeDeadLetter(id);
    tasks.push(task);
  }
  return { requeued: tasks.length, tasks, refused };
}

/**
 * An event goes to its session again, under its own id: one that was heard meanwhile is known.
 *
 * @returns why not
 */
async function toldAgain(
  letter: DeadLetter,
  session: string,
  {
    body,
    toTenant,
    toAgent,
  }: { body: string | undefined; toTenant: string | undefined; toAgent: string | undefined },
  { events, tasks }: LetterPorts,
): Promise<string | undefined> {
  if (toTenant !== undefined || toAgent !== undefined)
    return `it was an event for session ${session}: it goes to no other`;
  // One that had no id of its own is known by its letter.
  const named = { 'Understudy-Event': letter.identity ?? `letter-${letter.id}` };
  const id = letter.headers['Understudy-Event'] ?? letter.headers['Nats-Msg-Id'];
  const headers = id === undefined ? { ...letter.headers, ...named } : { ...letter.headers };
  await tasks.tell(letter.tenant, session, body ?? letter.body, headers);
  await events.removeDeadLetter(letter.id);
  return undefined;
}

export async function discard(
  given: z.infer<typeof discardSchema>,
  ports: LetterPorts,
): Promise<Discarded> {
  let discarded = 0;
  for await (const { id } of lettersOf(given, ports)) {
    if (await ports.events.removeDeadLetter(id)) discarded += 1;
  }
  return { discarded };
}

async function* lettersOf(
  {
    id,
    tenant,
    agent,
    code,
  }: {
    id?: number | undefined;
    tenant?: string | undefined;
    agent?: string | undefined;
    code?: string | undefined;
  },
  { events }: LetterPorts,
): AsyncIterable<{ readonly id: number }> {
  if (id !== undefined) {
    if (!(await events.deadLetter(id))) throw unknownLetter(id);
    yield { id };
    return;
  }
  // Those that come meanwhile have larger numbers: they are not of this call.
  for (let before: number | undefined; ; ) {
    const page = await events.deadLetters(pageMax, before);
    for (const letter of page) {
      const isWanted =
        (tenant === undefined || letter.tenant === tenant) &&
        (agent === undefined || letter.agent === agent) &&
        (code === undefined || letter.code === code);
      if (isWanted) yield letter;
    }
    if (page.length < pageMax) return;
    before = page.at(-1)!.id;
  }
}

function whyNotRequeued(
  { subject, code, session, isCut }: DeadLetter,
  body: string | undefined,
): string | undefined {
  if (!subject)
    return `it was not a task (${code})${session ? `, but for session ${session}` : ''}`;
  if (!isCut || body !== undefined) return undefined;
  return 'only a part of it was kept: the beginning of its body, or none of its headers; give a whole body with --body';
}

const unknownLetter = (id: number | undefined) =>
  new Refused('DEAD_LETTER_UNKNOWN', `there is no dead letter ${id} (any more)`);

/** A task that is not JSON would only come back as another dead letter. */
function parseBody(body: string): void {
  try {
    parseJson(body);
  } catch (error) {
    throw new Refused(
      'BODY_NOT_JSON',
      `body is not valid JSON: ${messageOf(error).slice(0, 120)}; the dead letter is as it was`,
      { cause: error },
    );
  }
}
