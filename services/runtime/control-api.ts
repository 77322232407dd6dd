/** The control API: what operators ask of sessions. Reads the store; whatever changes a session is a message in its mailbox. */
import { z } from 'zod';
import { issuesOf, messageOf, Refused } from '../core/errors.ts';
import { type SessionId, type ShardId, sessionIdSchema, shardOf, type TenantId } from '../core/ids.ts';
import type { AgentContext } from '../core/session/agent-context.ts';
import type { Message } from '../core/session/messages.ts';
import { parseRecord } from '../core/session/migrate.ts';
import { isEnded, type SessionRecord, stateHashOf } from '../core/session/record.ts';
import { approvalHashOf } from '../core/session/seen.ts';
import type { SpecProblem } from '../core/session/specs.ts';
import { type SessionSummary, summaryOf } from '../core/session/summary.ts';
import { validatorOf } from '../core/session/tool-calls.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { ControlAnswer } from '../ports/control.ts';
import type { Effects } from '../ports/effects.ts';
import type { Events } from '../ports/events.ts';
import type { Leases } from '../ports/leases.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { SessionStore } from '../ports/session-store.ts';
import type { Tasks } from '../ports/tasks.ts';
import type { Definitions } from './definitions.ts';
import { fold, historyOf } from './fold.ts';

export interface ControlPorts {
  readonly store: SessionStore;
  readonly mailbox: Mailbox;
  readonly archive: Archive;
  readonly events: Events;
  readonly effects: Pick<Effects, 'pools'>;
  readonly tasks: Tasks;
  readonly leases: Leases;
  readonly clock: Clock;
  readonly definitions: Definitions;
  readonly shards: number;
  readonly problems: () => readonly SpecProblem[];
  readonly agents: () => readonly { readonly name: string; readonly revision: string; readonly tools: number }[];
}

const filterSchema = z.object({
  tenant: z.string().optional(),
  agent: z.string().optional(),
  status: z.string().optional(),
  ended: z.boolean().default(false),
  max: z.number().int().positive().max(10_000).default(500),
});
const sessionSchema = z.object({ tenant: z.string().optional(), session: sessionIdSchema, conversation: z.boolean().default(false) });
const actSchema = z.object({ session: sessionIdSchema, actor: z.string().min(1).max(128), reason: z.string().max(2_000).default('') });
const decideSchema = actSchema.extend({ approval: z.string().optional(), hash: z.string().optional(), arguments: z.string().optional() });
const deadSchema = z.object({
  id: z.number().int().positive().optional(),
  all: z.boolean().default(false),
  body: z.string().optional(),
  max: z.number().int().positive().max(10_000).default(200),
});

export interface Approval {
  readonly id: string;
  readonly session: string;
  readonly tenant: string;
  readonly agent: string;
  readonly kind: string;
  readonly tool: string;
  readonly arguments: string;
  readonly hash: string;
  readonly since: number;
  readonly expiresAt: number;
  /** Somebody has: the session is paused, and hears of it when it is resumed. */
  readonly isDecided: boolean;
}

type Handlers = Readonly<Record<string, (body: unknown) => Promise<ControlAnswer>>>;

export function controlHandlers(ports: ControlPorts): Handlers {
  const answer =
    <Shape extends z.ZodType>(schema: Shape, handle: (input: z.infer<Shape>) => Promise<unknown>) =>
    async (body: unknown): Promise<ControlAnswer> => {
      const parsed = schema.safeParse(body);
      if (!parsed.success) return { ok: false, code: 'REQUEST_INVALID', message: issuesOf(parsed.error) };
      return { ok: true, value: await handle(parsed.data) };
    };
  const find = (session: SessionId) => findSession(session, ports);
  const send = async (record: SessionRecord, message: Message) => {
    await ports.mailbox.deliver(shardOf(record.tenant, record.session, ports.shards), { tenant: record.tenant, session: record.session, message });
    return settled(record, ports);
  };
  const act = (kind: 'pause' | 'resume' | 'halt', isAllowed: (record: SessionRecord) => string | undefined) =>
    answer(actSchema, async ({ session, actor, reason }) => {
      const { record } = await find(session);
      const refusal = isAllowed(record);
      if (refusal) throw new Refused('NOT_NOW', `session ${session} ${refusal}`);
      return summaryOf(await send(record, { kind, actor, reason }));
    });

  return {
    list: answer(filterSchema, (filter) => list(filter, ports)),
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
        ...(conversation ? { conversation: isArchived ? await archivedConversation(record, shard, ports) : await ports.store.conversation(shard, session, 0, record.length) } : {}),
      };
    }),
    pause: act('pause', (record) =>
      record.status === 'active'
        ? undefined
        : `is ${record.status}: only an active session can be paused${record.status === 'parked' ? `; understudy resume ${record.session} lets it go on` : ''}`,
    ),
    resume: act('resume', (record) =>
      record.status === 'paused' || record.status === 'parked' ? undefined : `is ${record.status}: only a paused or parked session can be resumed`,
    ),
    halt: act('halt', (record) => (isEnded(record) ? `has ${record.status} already` : undefined)),
    approve: answer(decideSchema, (input) => decide('approve', input, ports, find, send)),
    reject: answer(decideSchema, (input) => decide('reject', input, ports, find, send)),
    approvals: answer(filterSchema, async (filter) => {
      const found: Approval[] = [];
      for await (const record of allRecords(ports)) if (matches(record, filter)) found.push(...approvalsOf(record).filter(({ isDecided }) => !isDecided));
      return found.sort((left, right) => left.since - right.since).slice(0, filter.max);
    }),
    dead: answer(deadSchema, ({ max }) => ports.events.deadLetters(max)),
    requeue: answer(deadSchema, async ({ id, all, body }) => {
      const letters = all ? await ports.events.deadLetters(10_000) : id === undefined ? [] : [await ports.events.deadLetter(id)];
      if (body !== undefined) parseBody(body);
      const requeued: string[] = [];
      const refused: string[] = [];
      for (const letter of letters) {
        if (!letter) throw new Refused('DEAD_LETTER_UNKNOWN', `there is no dead letter ${id} (any more); "understudy dlq" lists them`);
        if (!letter.subject) {
          refused.push(`${letter.id}: it was no task but a message to session ${letter.session ?? 'unknown'}`);
          continue;
        }
        if (letter.isCut && body === undefined) {
          refused.push(`${letter.id}: only the beginning of its body was kept; give a whole one with --body`);
          continue;
        }
        const { 'Nats-Msg-Id': _id, ...headers } = letter.headers;
        const [, tenant = '', agent = ''] = letter.subject.split('.').slice(-3);
        // A new message id: the broker would drop the old one as a duplicate. The task id stays in the session's derivation by key only.
        const task = `${(letter.task ?? 'task').replace(/-requeued-\d+$/, '')}-requeued-${letter.id}`;
        await ports.tasks.publish(tenant, agent, body ?? letter.body, { ...headers, 'Nats-Msg-Id': task });
        await ports.events.unbury(letter.id);
        requeued.push(task);
      }
      return { requeued: requeued.length, tasks: requeued, refused };
    }),
    verify: answer(sessionSchema, ({ session }) => verify(session, ports)),
    doctor: answer(z.object({}).loose(), async () => {
      const owners = await ports.leases.owners(ports.shards);
      const bounds = await ports.mailbox.bounds();
      const positions = await Promise.all(Array.from({ length: ports.shards }, (_, shard) => ports.store.lowest(shard as ShardId)));
      return {
        shards: ports.shards,
        owned: owners.size,
        orphans: Array.from({ length: ports.shards }, (_, shard) => shard).filter((shard) => !owners.has(shard as ShardId)),
        hosts: [...new Set(owners.values())].sort(),
        owners: Object.fromEntries(owners),
        mail: bounds,
        oldestMailNeeded: Math.min(...positions.map((needed) => needed?.floor ?? Number.MAX_SAFE_INTEGER), bounds.last + 1),
        deadLetters: (await ports.events.deadLetters(10_000)).length,
        pools: (await ports.effects.pools()).sort((left, right) => (left.pool < right.pool ? -1 : 1)),
        agents: ports.agents(),
        problems: ports.problems(),
      };
    }),
  };
}

async function findSession(session: SessionId, { store, archive, shards }: ControlPorts): Promise<{ record: SessionRecord; shard: ShardId; isArchived: boolean }> {
  // The shard hangs on the tenant, which the asker need not know: look everywhere, the shards are few.
  const stored = await Promise.all(Array.from({ length: shards }, (_, shard) => store.load(shard as ShardId, session)));
  const shard = stored.findIndex((text) => text !== undefined);
  if (shard >= 0) return { record: parseRecord(stored[shard]!), shard: shard as ShardId, isArchived: false };
  for (let other = 0; other < shards; other += 1) {
    const baseline = await archive.latest(other as ShardId, session);
    if (baseline) return { record: baseline.record, shard: other as ShardId, isArchived: true };
  }
  throw new Refused('SESSION_UNKNOWN', `there is no session ${session}; "understudy ps --all" lists them`);
}

async function* allRecords({ store, shards }: ControlPorts): AsyncIterable<SessionRecord> {
  for (let shard = 0; shard < shards; shard += 1) {
    for await (const { record } of store.records(shard as ShardId)) {
      try {
        yield parseRecord(record);
      } catch (error) {
        if (!(error instanceof Refused)) throw error; // a poisoned record is rebuilt when its session is next spoken to
      }
    }
  }
}

const matches = (record: { tenant: string; agent: string; status: string }, filter: { tenant?: string | undefined; agent?: string | undefined; status?: string | undefined }) =>
  (!filter.tenant || record.tenant === filter.tenant) && (!filter.agent || record.agent === filter.agent) && (!filter.status || record.status === filter.status);

async function list(filter: z.infer<typeof filterSchema>, ports: ControlPorts): Promise<SessionSummary[]> {
  const found: SessionSummary[] = [];
  for await (const record of allRecords(ports)) {
    const summary = summaryOf(record);
    if (matches(summary, filter) && (filter.ended || !isEnded(record))) found.push(summary);
  }
  if (filter.ended) {
    for (let shard = 0; shard < ports.shards; shard += 1) {
      for (const text of await ports.store.recent(shard as ShardId)) {
        const summary = JSON.parse(text) as SessionSummary;
        if (matches(summary, filter)) found.push(summary);
      }
    }
  }
  return found.sort((left, right) => right.changedAt - left.changedAt).slice(0, filter.max);
}

export function approvalsOf(record: SessionRecord): Approval[] {
  if (record.status !== 'active' && record.status !== 'paused') return [];
  const open = (record.context as unknown as Partial<AgentContext>).approvals ?? {};
  return Object.entries(record.pending).flatMap(([id, note]) => {
    if (note.kind !== 'askHuman') return [];
    const approval = open[id];
    return [
      {
        id,
        session: record.session,
        tenant: record.tenant,
        agent: record.agent,
        kind: approval?.kind ?? 'question',
        tool: approval?.tool ?? note.what,
        arguments: approval?.arguments ?? '',
        hash: approval?.hash ?? '',
        since: note.since,
        expiresAt: note.deadlineAt,
        isDecided: isDecided(record, id),
      },
    ];
  });
}

const isDecided = (record: SessionRecord, approval: string): boolean =>
  record.deferred.some(({ message }) => (message.kind === 'approve' || message.kind === 'reject') && message.approval === approval);

async function decide(
  kind: 'approve' | 'reject',
  input: z.infer<typeof decideSchema>,
  ports: ControlPorts,
  find: (session: SessionId) => Promise<{ record: SessionRecord }>,
  send: (record: SessionRecord, message: Message) => Promise<SessionRecord>,
): Promise<unknown> {
  const { record } = await find(input.session);
  const open = approvalsOf(record);
  const chosen = input.approval ? open.find(({ id }) => id === input.approval) : open[0];
  if (!chosen)
    throw new Refused(
      'APPROVAL_UNKNOWN',
      `session ${input.session} ${input.approval ? `has no open approval ${input.approval}` : `waits for no approval: it is ${record.status}`}`,
    );
  if (!input.approval && open.length > 1)
    throw new Refused('APPROVAL_AMBIGUOUS', `session ${input.session} waits for ${open.length} approvals; name one with --approval: ${open.map(({ id }) => id).join(', ')}`);
  const hash = approvalHashOf(record, chosen.id) ?? chosen.hash;
  if (input.hash !== undefined && !hash.startsWith(input.hash)) {
    throw new Refused(
      'APPROVAL_CHANGED',
      `approval ${chosen.id} is for hash ${hash.slice(0, 12)} now, and the decision is for ${input.hash.slice(0, 12)}: look at it again: understudy approvals`,
    );
  }
  if (chosen.isDecided)
    throw new Refused(
      'APPROVAL_DECIDED',
      `approval ${chosen.id} has been decided; the session is ${record.status} and hears of it when it is resumed: understudy resume ${record.session}`,
    );
  if (kind === 'approve' && input.arguments !== undefined) await checkEdit(record, chosen, input.arguments, ports);
  if (chosen.expiresAt <= ports.clock.now()) throw new Refused('APPROVAL_EXPIRED', `approval ${chosen.id} expired at ${new Date(chosen.expiresAt).toISOString()}`);
  const approval = chosen.id as Extract<Message, { kind: 'approve' }>['approval'];
  const by = { actor: input.actor, reason: input.reason };
  const after = await send(
    record,
    kind === 'approve' ? { kind, approval, hash, ...by, ...(input.arguments === undefined ? {} : { arguments: input.arguments }) } : { kind, approval, hash, ...by },
  );
  return { approval: chosen, session: summaryOf(after) };
}

/** A task that is none would only come back as another dead letter. */
function parseBody(body: string): void {
  try {
    JSON.parse(body);
  } catch (error) {
    throw new Refused('BODY_NOT_JSON', `the body is not JSON: ${messageOf(error).slice(0, 120)}; the dead letter is as it was`, { cause: error });
  }
}

/** An edit replaces the arguments as a whole; one that the tool would refuse must not use up the approval. */
async function checkEdit(record: SessionRecord, { tool, kind }: Approval, edited: string, { definitions }: ControlPorts): Promise<void> {
  if (kind !== 'tool') return;
  let parsed: unknown;
  try {
    parsed = JSON.parse(edited);
  } catch (error) {
    throw new Refused('ARGUMENTS_NOT_JSON', `the edited arguments are not JSON: ${messageOf(error).slice(0, 120)}`, { cause: error });
  }
  const { bundle } = await definitions.get(record.revision);
  const spec = bundle.tools[tool];
  const checked = spec && validatorOf(spec.input)?.safeParse(parsed);
  if (checked && !checked.success)
    throw new Refused('ARGUMENTS_INVALID', `${tool} would refuse the edited arguments (they replace the old ones as a whole): ${issuesOf(checked.error)}`);
}

/** Wait until the session has taken note (or 3 s have gone): the answer then shows what came of it. */
async function settled(before: SessionRecord, ports: ControlPorts): Promise<SessionRecord> {
  for (let waited = 0; waited < 30; waited += 1) {
    await ports.clock.sleep(100);
    const { record } = await findSession(before.session, ports);
    if (record.version > before.version) return record;
  }
  return before;
}

/** The store has dropped it; the log has it. */
async function archivedConversation(record: SessionRecord, shard: ShardId, ports: ControlPorts): Promise<readonly unknown[]> {
  const { mail } = await historyOf(shard, record.session, ports, undefined);
  return (await fold(mail, { tenant: record.tenant, session: record.session }, ports.definitions)).entries;
}

/** Fold the mailbox from the beginning and compare with what is stored. */
async function verify(session: SessionId, ports: ControlPorts): Promise<unknown> {
  const { record, shard, isArchived } = await findSession(session, ports);
  const { mail } = await historyOf(shard, session, ports, isArchived ? undefined : record.position);
  const folded = await fold(mail, { tenant: record.tenant as TenantId, session }, ports.definitions);
  const stored = stateHashOf(record);
  const computed = folded.record ? stateHashOf(folded.record) : 'nothing';
  return { session, isEqual: stored === computed, version: record.version, messages: folded.messages, stored, computed, isArchived };
}
