/** What of a session waits for a person, and what becomes of a decision. */
import { z } from 'zod';
import { messageOf, Refused } from '../core/errors.ts';
import { sessionIdSchema, sha256 } from '../core/ids.ts';
import { hasInfinity, parseJson } from '../core/json.ts';
import { own } from '../core/keyed.ts';
import type { AgentContext } from '../core/session/agent-context.ts';
import type { Message } from '../core/session/messages.ts';
import { questionCutLength } from '../core/session/pipeline.ts';
import type { SessionRecord } from '../core/session/record.ts';
import type { ApprovalSummary } from '../core/session/summary.ts';
import { checkCall } from '../core/session/tool-calls.ts';
import type { Definitions } from './definitions.ts';

const act = {
  session: sessionIdSchema,
  actor: z.string().min(1).max(128),
  reason: z.string().max(2_000).default(''),
};
export const actSchema = z.object(act).strict();
export const decideSchema = z
  .object({
    ...act,
    approval: z.string().optional(),
    hash: z
      .string()
      .regex(/^[0-9a-f]{12,64}$/, 'the first 12 characters of the hash, or more')
      .optional()
      .describe('of what was looked at'),
    arguments: z.string().optional(),
  })
  .strict();

export function approvalsOf(record: SessionRecord): ApprovalSummary[] {
  if (record.status !== 'active' && record.status !== 'paused') return [];
  const open = (record.context as unknown as Partial<AgentContext>).approvals ?? {};
  return Object.entries(record.pending).flatMap(([id, note]) => {
    if (note.kind !== 'askHuman') return [];
    const approval = record.machine === 'agent' ? open[id] : undefined;
    return [
      {
        id,
        session: record.session,
        tenant: record.tenant,
        agent: record.agent,
        kind: approval?.kind ?? 'question',
        tool: approval?.tool ?? 'question',
        arguments: approval?.arguments ?? questionOf(note.what),
        // The record of a pipeline keeps no hash of its question: what is shown of it stands for it.
        hash: approval?.hash ?? sha256(`${id}\n${note.what}\n${note.deadlineAt}`),
        since: note.since,
        expiresAt: note.deadlineAt,
        isDecided: isDecided(record, id),
      },
    ];
  });
}

/** The question of a pipeline as arguments: whole, or it says that it may be longer. */
const questionOf = (question: string): string =>
  JSON.stringify(
    question.length === questionCutLength
      ? {
          question,
          note: `may be cut: its session keeps the first ${questionCutLength} characters`,
        }
      : { question },
  );

const isDecided = (record: SessionRecord, approval: string): boolean =>
  record.deferred.some(
    ({ message }) =>
      (message.kind === 'approve' || message.kind === 'reject') && message.approval === approval,
  );

export interface Decided {
  readonly decision: 'approve' | 'reject';
  readonly actor: string;
  readonly reason: string;
}

/** The decision of an approval that stands: applied, or kept as the first by a paused session. */
export function decidedOn(record: SessionRecord, approval: string): Decided | undefined {
  const applied = record.decisions?.find((one) => one.approval === approval);
  return applied ?? firstDecision(record.deferred, approval);
}

/** @param mail  what a session has heard, in order */
export function firstDecision(
  mail: readonly { readonly message: Message }[],
  approval: string,
): Decided | undefined {
  for (const { message } of mail) {
    const { kind } = message;
    if ((kind === 'approve' || kind === 'reject') && message.approval === approval)
      return { decision: kind, actor: message.actor, reason: message.reason };
  }
  return undefined;
}

/** @throws Refused (APPROVAL_DECIDED) when the decision that stands is another's, or another one */
export function mustStand(
  mine: Extract<Message, { kind: 'approve' | 'reject' }>,
  decided: Decided,
): void {
  const { decision, actor, reason } = decided;
  // Records keep the beginning of a long reason.
  const isSame = mine.reason === reason || (reason.length >= 500 && mine.reason.startsWith(reason));
  if (decision === mine.kind && actor === mine.actor && isSame) return;
  const what = decision === 'approve' ? 'approved' : 'rejected';
  const why = reason ? `: ${reason}` : '';
  throw new Refused(
    'APPROVAL_DECIDED',
    `approval ${mine.approval} was decided first by ${actor}, who ${what} it${why}`,
  );
}

/**
 * The message that tells a session of a decision.
 *
 * @throws Refused when nothing, something else, or more than one thing is open, when it is too late, or when the tool would refuse the edit
 */
export async function decisionOf(
  kind: 'approve' | 'reject',
  input: z.infer<typeof decideSchema>,
  record: SessionRecord,
  { definitions, now }: { readonly definitions: Definitions; readonly now: number },
): Promise<{
  approval: ApprovalSummary;
  message: Extract<Message, { kind: 'approve' | 'reject' }>;
}> {
  const { session } = input;
  const open = approvalsOf(record);
  const chosen = input.approval ? open.find(({ id }) => id === input.approval) : open[0];
  if (!chosen)
    throw new Refused(
      'APPROVAL_UNKNOWN',
      `session ${session} ${input.approval ? `has no open approval ${input.approval}` : `waits for no approval: it is ${record.status}`}`,
    );
  if (!input.approval && open.length > 1)
    throw new Refused(
      'APPROVAL_AMBIGUOUS',
      `session ${session} waits for ${open.length} approvals; name one with --approval: ${open.map(({ id }) => id).join(', ')}`,
    );
  if (kind === 'approve' && input.hash === undefined)
    throw new Refused(
      'APPROVAL_HASH_NEEDED',
      `approval ${chosen.id}: say the hash of what you looked at (understudy approvals ${session} shows it whole)`,
    );
  if (input.hash !== undefined && !chosen.hash.startsWith(input.hash)) {
    throw new Refused(
      'APPROVAL_CHANGED',
      `approval ${chosen.id} is for hash ${chosen.hash.slice(0, 12)} now, and the decision is for ${input.hash.slice(0, 12)}: look at it again`,
    );
  }
  if (chosen.isDecided)
    throw new Refused(
      'APPROVAL_DECIDED',
      `approval ${chosen.id} has been decided; the session is ${record.status} and hears of it when it is resumed`,
    );
  if (kind === 'approve' && input.arguments !== undefined)
    await checkEdit(record, chosen, input.arguments, definitions);
  if (chosen.expiresAt <= now)
    throw new Refused(
      'APPROVAL_EXPIRED',
      `approval ${chosen.id} expired at ${new Date(chosen.expiresAt).toISOString()}`,
    );
  const decision = {
    approval: chosen.id as Extract<Message, { kind: 'approve' }>['approval'],
    hash: chosen.hash,
    actor: input.actor,
    reason: input.reason,
  };
  const edited =
    kind === 'approve' && input.arguments !== undefined ? { arguments: input.arguments } : {};
  return { approval: chosen, message: { kind, ...decision, ...edited } };
}

/** An edit replaces the arguments as a whole; one that the tool would refuse must not use up the approval. */
async function checkEdit(
  record: SessionRecord,
  { tool, kind }: ApprovalSummary,
  edited: string,
  definitions: Definitions,
): Promise<void> {
  if (kind !== 'tool') return;
  let parsed: unknown;
  try {
    parsed = parseJson(edited);
  } catch (error) {
    throw new Refused(
      'ARGUMENTS_NOT_JSON',
      `the edited arguments are no JSON that can be read: ${messageOf(error).slice(0, 120)}`,
      { cause: error },
    );
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed) || hasInfinity(parsed))
    throw new Refused(
      'ARGUMENTS_INVALID',
      'the edited arguments must be a JSON object, of numbers that JSON can write',
    );
  const { bundle } = await definitions.get(record.revision);
  const spec = own(bundle.tools, tool);
  const call = { id: '', name: tool, arguments: edited };
  const checked = spec && checkCall(call, bundle);
  if (checked && !checked.ok)
    throw new Refused(
      checked.code,
      `${tool} would refuse the edited arguments (they replace the old ones as a whole): ${checked.message}`,
    );
}
