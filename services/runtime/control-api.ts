/** The control API: what operators ask of sessions. Reads the store; whatever changes a session is a message in its mailbox. */
import { z } from 'zod';
import { issuesOf, Refused } from '../core/errors.ts';
import { fitting } from '../core/fitting.ts';
import { type SessionId, type ShardId, sessionIdSchema, shardOf } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import { behaviourOf } from '../core/session/behaviour.ts';
import type { Entry } from '../core/session/conversation.ts';
import type { Message, MessageOf } from '../core/session/messages.ts';
import { parseRecord } from '../core/session/migrate.ts';
import { isEnded, type SessionRecord, stateHashOf } from '../core/session/record.ts';
import { type ApprovalSummary, summaryOf } from '../core/session/summary.ts';
import type { Archive } from '../ports/archive.ts';
import type { ControlAnswer } from '../ports/control.ts';
import type { Events } from '../ports/events.ts';
import type { Tasks } from '../ports/tasks.ts';
import {
  actSchema,
  approvalsOf,
  decidedOn,
  decideSchema,
  decisionOf,
  firstDecision,
  mustStand,
} from './approvals.ts';
import type { Definitions } from './definitions.ts';
import { fold, historyOf } from './fold.ts';
import { type HealthPorts, healthOf } from './health.ts';
import {
  dead,
  deadSchema,
  discard,
  discardSchema,
  requeue,
  requeueSchema,
} from './letter-verbs.ts';
import {
  acceptListing,
  acceptSchema,
  type ServerPorts,
  server,
  serverSchema,
  servers,
  signIn,
  signInSchema,
} from './server-verbs.ts';
import { allRecords, countSessions, filterSchema, list, matches } from './session-lists.ts';
import { verify } from './verify.ts';

export interface ControlPorts extends HealthPorts, ServerPorts {
  readonly archive: Archive;
  readonly events: Events;
  readonly tasks: Tasks;
  readonly definitions: Definitions;
}

const approvalsSchema = filterSchema.extend({ session: sessionIdSchema.optional() }).strict();
const sessionSchema = z
  .object({
    tenant: z.string().optional(),
    session: sessionIdSchema,
    conversation: z.boolean().default(false),
  })
  .strict();

type Handlers = Readonly<Record<string, (body: unknown) => Promise<ControlAnswer>>>;

export function controlHandlers(ports: ControlPorts): Handlers {
  const answer =
    <Shape extends z.ZodType>(schema: Shape, handle: (input: z.infer<Shape>) => Promise<unknown>) =>
    async (body: unknown): Promise<ControlAnswer> => {
      const parsed = schema.safeParse(body);
      if (!parsed.success)
        return { ok: false, code: 'REQUEST_INVALID', message: issuesOf(parsed.error) };
      return { ok: true, value: await handle(parsed.data) };
    };
  const find = (session: SessionId) => findSession(session, ports);
  const send = async (record: SessionRecord, message: Message) => {
    await ports.mailbox.deliver(shardOf(record.tenant, record.session, ports.shards), {
      tenant: record.tenant,
      session: record.session,
      message,
    });
  };
  const act = (
    kind: 'pause' | 'resume' | 'halt',
    isAllowed: (record: SessionRecord) => string | undefined,
  ) =>
    answer(actSchema, async ({ session, actor, reason }) => {
      const { record } = await find(session);
      const refusal = isAllowed(record);
      if (refusal) throw new Refused('NOT_NOW', `session ${session} ${refusal}`);
      await send(record, { kind, actor, reason });
      return summaryOf(await steered(kind, record, ports));
    });

  const decide = (kind: 'approve' | 'reject') =>
    answer(decideSchema, async (input) => {
      const { record } = await find(input.session);
      const { approval, message } = await decisionOf(kind, input, record, {
        definitions: ports.definitions,
        now: ports.clock.now(),
      });
      await send(record, message);
      return { approval, session: summaryOf(await decided(message, record, ports)) };
    });

  return {
    list: answer(filterSchema, (filter) => list(filter, ports)),
    count: answer(filterSchema, (filter) => countSessions(filter, ports)),
    inspect: answer(sessionSchema, async ({ session, conversation }) => {
      const { record, shard, isArchived } = await find(session);
      const owner = (await ports.leases.owners(ports.shards)).get(shard);
      return {
        summary: summaryOf(record),
        shard,
        owner: owner ?? null,
        isArchived,
        hash: stateHashOf(record),
        record,
        approvals: approvalsOf(record),
        ...(conversation
          ? lastOf(
              isArchived
                ? await archivedConversation(record, shard, ports)
                : await ports.store.conversation(shard, session, 0, record.length),
            )
          : {}),
      };
    }),
    pause: act('pause', (record) =>
      record.status === 'active'
        ? undefined
        : `is ${record.status}: only an active session can be paused${record.status === 'parked' ? `; understudy resume ${record.session} lets it go on` : ''}`,
    ),
    resume: act('resume', (record) =>
      record.status === 'paused' || record.status === 'parked'
        ? undefined
        : `is ${record.status}: only a paused or parked session can be resumed`,
    ),
    halt: act('halt', (record) => (isEnded(record) ? `has ${record.status} already` : undefined)),
    approve: decide('approve'),
    reject: decide('reject'),
    approvals: answer(approvalsSchema, async ({ session, ...filter }) => {
      // Of one session all, however many others wait.
      if (session !== undefined) {
        const { record } = await find(session);
        return approvalsOf(record).filter(({ isDecided }) => !isDecided);
      }
      const found: ApprovalSummary[] = [];
      for await (const record of allRecords(ports))
        if (matches(record, filter))
          found.push(...approvalsOf(record).filter(({ isDecided }) => !isDecided));
      // What waits longest comes first, and as many as one answer carries: decided ones make room for the next.
      return fitting(
        found.sort((left, right) => left.since - right.since).slice(0, filter.max),
        limits.conversationBytesMax,
      );
    }),
    dead: answer(deadSchema, (given) => dead(given, ports)),
    requeue: answer(requeueSchema, (given) => requeue(given, ports)),
    discard: answer(discardSchema, (given) => discard(given, ports)),
    verify: answer(sessionSchema, async ({ session }) => verify(await find(session), ports)),
    servers: answer(z.object({}).strict(), () => servers(ports)),
    server: answer(serverSchema, (given) => server(given, ports)),
    signIn: answer(signInSchema, (given) => signIn(given, ports)),
    acceptListing: answer(acceptSchema, (given) => acceptListing(given, ports)),
    doctor: answer(z.object({}).strict(), () => healthOf(ports)),
  };
}

async function findSession(
  session: SessionId,
  { store, archive, shards }: ControlPorts,
): Promise<{ record: SessionRecord; shard: ShardId; isArchived: boolean }> {
  // The shard hangs on the tenant, which the asker need not know: look everywhere, the shards are few.
  const stored = await Promise.all(
    Array.from({ length: shards }, (_, shard) => store.load(shard as ShardId, session)),
  );
  const shard = stored.findIndex((text) => text !== undefined);
  if (shard >= 0)
    return { record: parseRecord(stored[shard]!), shard: shard as ShardId, isArchived: false };
  for (let other = 0; other < shards; other += 1) {
    const baseline = await archive.latest(other as ShardId, session);
    if (baseline) return { record: baseline.record, shard: other as ShardId, isArchived: true };
  }
  throw new Refused(
    'SESSION_UNKNOWN',
    `there is no session ${session}; "understudy ps --all" lists them`,
  );
}

const heardWithinMs = 3_000; // how long an operator waits for what became of a message
const lookMs = 100;

/**
 * Look at a session until it shows what became of a message, or `heardWithinMs` have gone.
 *
 * @param isDone  throws Refused when the message did not count
 * @returns the last record that was seen, whether it is done or not
 */
async function watched(
  before: SessionRecord,
  ports: ControlPorts,
  isDone: (record: SessionRecord, shard: ShardId) => boolean | Promise<boolean>,
): Promise<{ record: SessionRecord; done: boolean }> {
  let last = before;
  for (let waited = 0; waited < heardWithinMs; waited += lookMs) {
    await ports.clock.sleep(lookMs);
    const { record, shard } = await findSession(before.session, ports);
    // An older one comes of a store that lost its tail: it says nothing.
    if (record.version <= before.version) continue;
    last = record;
    if (await isDone(record, shard)) return { record, done: true };
  }
  return { record: last, done: false };
}

/** What each verb comes to; a session that goes on after a resume may have ended since. */
const outcomes = {
  pause: { wanted: ['paused'], over: ['parked', 'completed', 'failed', 'halted'] },
  resume: { wanted: ['active', 'completed', 'failed'], over: ['halted'] },
  halt: { wanted: ['halted'], over: ['completed', 'failed'] },
} as const satisfies Record<string, Record<string, readonly SessionRecord['status'][]>>;

/**
 * Wait until a session is as it was asked to be.
 *
 * @throws Refused NOT_NOW when it came to something else, NOT_HEARD_YET when nothing has changed
 */
async function steered(
  kind: 'pause' | 'resume' | 'halt',
  before: SessionRecord,
  ports: ControlPorts,
): Promise<SessionRecord> {
  const { wanted, over }: Record<string, readonly string[]> = outcomes[kind];
  const { record, done } = await watched(
    before,
    ports,
    ({ status }) => wanted!.includes(status) || over!.includes(status),
  );
  if (done && wanted!.includes(record.status)) return record;
  // A halt that is heard always counts.
  const isUnheard = !done && (kind === 'halt' || record.version === before.version);
  if (isUnheard) throw notHeardYet(kind, record);
  throw new Refused(
    'NOT_NOW',
    `session ${record.session} ${standing(record)}: the ${kind} did not count, or was undone`,
  );
}

/**
 * Wait until an approval is decided.
 *
 * @throws Refused APPROVAL_DECIDED when another decision stands, APPROVAL_UNKNOWN when it closed
 *         without one, NOT_HEARD_YET
 */
async function decided(
  message: MessageOf<'approve' | 'reject'>,
  before: SessionRecord,
  ports: ControlPorts,
): Promise<SessionRecord> {
  const { approval, kind } = message;
  const { record, done } = await watched(before, ports, async (now, shard) => {
    const decision =
      decidedOn(now, approval) ??
      (now.pending[approval] ? undefined : await decisionInLog(approval, now, shard, ports));
    if (decision) mustStand(message, decision);
    else if (!now.pending[approval])
      throw new Refused(
        'APPROVAL_UNKNOWN',
        `approval ${approval} closed before the ${kind} was heard: the session ${standing(now)}`,
      );
    return decision !== undefined;
  });
  if (!done) throw notHeardYet(kind, record);
  return record;
}

/** Records of sessions that began with behaviour 1 keep no decisions: their mail does. */
async function decisionInLog(
  approval: string,
  record: SessionRecord,
  shard: ShardId,
  ports: ControlPorts,
) {
  const { bundle } = await ports.definitions.get(record.revision);
  if (behaviourOf(bundle) >= 2) return undefined;
  const { mail } = await historyOf(shard, record.session, ports, record.position);
  return firstDecision(mail, approval);
}

const standing = ({ status, reason }: SessionRecord): string =>
  `is ${status} now${reason ? ` (${reason})` : ''}`;

const notHeardYet = (kind: string, { session, status }: SessionRecord) =>
  new Refused(
    'NOT_HEARD_YET',
    `session ${session} (${status}) did not apply the ${kind} within ${heardWithinMs} ms; it may still do so`,
  );

/** As much of the end of a conversation as an answer may carry. */
function lastOf(entries: readonly Entry[]): {
  conversation: readonly Entry[];
  conversationFrom: number;
} {
  const last = fitting(entries.toReversed(), limits.conversationBytesMax).reverse();
  return { conversation: last, conversationFrom: entries.length - last.length };
}

/** The store has dropped it; the log has it. */
async function archivedConversation(
  record: SessionRecord,
  shard: ShardId,
  ports: ControlPorts,
): Promise<readonly Entry[]> {
  const { mail } = await historyOf(shard, record.session, ports, undefined);
  return (await fold(mail, { tenant: record.tenant, session: record.session }, ports.definitions))
    .entries;
}
