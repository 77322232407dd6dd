/** What the control API answers, as text for people. */

import {
  age,
  approvalShown,
  cut,
  dollars,
  escaped,
  escapedLine,
  indented,
} from '../core/format.ts';
import type { ApprovalSummary, SessionSummary } from '../core/session/summary.ts';
import type { Health, Letter, Verdict, WholeLetter } from '../core/wire/control-answers.ts';
import { type Check, checksOf } from '../core/wire/health-checks.ts';
import { hint } from './failure.ts';
import { table } from './format.ts';

export function sessionTable(sessions: readonly SessionSummary[], now: number): string {
  if (sessions.length === 0)
    return hint(
      'no session fits; understudy ps --all shows those that ended too, understudy doctor which agents there are',
    );
  return table(
    [
      'SESSION',
      'TENANT',
      'STATE',
      'WAITING ON',
      'SINCE',
      'MODEL+TOOL CALLS',
      'TOKENS',
      'COST',
      'AGE',
    ],
    sessions.map((one) => [
      one.session,
      one.tenant,
      one.state,
      cut(escapedLine(one.waitingOn || one.reason || '-'), 40),
      one.waitingOn ? age(now - one.since) : '-',
      `${one.steps}+${one.toolCalls}`,
      String(one.tokens),
      dollars(one.costMicros),
      age(now - one.startedAt),
    ]),
  );
}

export function approvalTable(approvals: readonly ApprovalSummary[], now: number): string {
  if (approvals.length === 0) return 'nothing waits for a person';
  const rows = approvals.map((one) => [
    one.session,
    one.id,
    approvalShown(one).tool,
    one.hash.slice(0, 12),
    age(now - one.since),
    one.isDecided ? 'decided' : age(one.expiresAt - now),
    approvalShown(one).line,
  ]);
  const sessions = new Set(approvals.map(({ session }) => session));
  const session = sessions.size === 1 ? [...sessions][0] : '<session>';
  const next = approvals.every(({ isDecided }) => isDecided)
    ? `the session hears of it when it goes on: understudy resume ${session}`
    : `next: understudy approvals ${session} shows all of it; understudy approve ${session} --hash <hash> | understudy reject ${session} --reason <text>`;
  return `${table(['SESSION', 'APPROVAL', 'TOOL', 'HASH', 'WAITS', 'EXPIRES IN', 'ARGUMENTS'], rows)}\n\n${hint(next)}`;
}

/** One approval, all of it: who decides must see what. */
export function approvalText(one: ApprovalSummary, now: number): string {
  const { tool, whole } = approvalShown(one);
  const lines: [string, string][] = [
    ['approval', one.id],
    ['session', `${one.session} of tenant ${one.tenant}, agent ${one.agent}`],
    ['tool', tool],
    ['hash', one.hash],
    ['waits', age(now - one.since)],
    ['expires in', one.isDecided ? 'decided' : age(one.expiresAt - now)],
  ];
  return [...lines.map(([name, value]) => `${name.padEnd(12)}${value}`), 'arguments', whole].join(
    '\n',
  );
}

interface Inspected {
  readonly summary: SessionSummary;
  readonly shard: number;
  readonly owner: string | null;
  readonly isArchived: boolean;
  readonly hash: string;
  readonly record: {
    readonly revision: string;
    readonly machine: string;
    readonly machineVersion: number;
    readonly position: { readonly sequence: number; readonly incarnation: number };
    readonly pending: Readonly<
      Record<
        string,
        {
          readonly kind: string;
          readonly what: string;
          readonly since: number;
          readonly deadlineAt: number;
        }
      >
    >;
    readonly output?: unknown;
    readonly decisions?: readonly {
      readonly what: string;
      readonly decision: string;
      readonly actor: string;
      readonly reason: string;
      readonly at: number;
    }[];
    readonly length: number;
    readonly context: {
      readonly limits?: {
        readonly costMicrosMax: number;
        readonly tokensMax: number;
        readonly stepsMax: number;
        readonly toolCallsMax: number;
      };
    };
  };
  readonly approvals: readonly ApprovalSummary[];
  readonly conversation?: readonly {
    readonly role: string;
    readonly content: string;
    readonly tool?: string;
    readonly calls?: readonly { readonly name: string; readonly arguments: string }[];
  }[];
}

export function inspectText(
  { summary, shard, owner, isArchived, hash, record, approvals, conversation }: Inspected,
  now: number,
): string {
  const lines: [string, string][] = [
    ['session', summary.session],
    [
      'task',
      `${summary.task} of tenant ${summary.tenant}, agent ${summary.agent} (revision ${record.revision})`,
    ],
    [
      'state',
      `${summary.state}, version ${summary.version}${summary.reason ? `: ${summary.reason}` : ''}`,
    ],
    [
      'waiting on',
      summary.waitingOn
        ? `${escapedLine(summary.waitingOn)}, for ${age(now - summary.since)}`
        : 'nothing',
    ],
    ['owner', isArchived ? 'archived' : `${owner ?? 'nobody'} (shard ${shard})`],
    ['spent', spentText(summary, record.context.limits)],
    [
      'machine',
      `${record.machine} version ${record.machineVersion}, ${record.length} conversation entries`,
    ],
    [
      'mailbox',
      `sequence ${record.position.sequence}${record.position.incarnation > 0 ? `, incarnation ${record.position.incarnation}` : ''}`,
    ],
    ['state hash', hash],
    ['began', `${new Date(summary.startedAt).toISOString()}, ${age(now - summary.startedAt)} ago`],
  ];
  for (const { decision, what, actor, reason, at } of record.decisions ?? [])
    lines.push([
      decision === 'approve' ? 'approved' : 'rejected',
      `${escapedLine(what)} by ${actor}, ${age(now - at)} ago${reason ? `: ${reason}` : ''}`,
    ]);
  if (record.output !== undefined) lines.push(['output', cut(String(record.output), 400)]);
  const text = lines.map(([name, value]) => `${name.padEnd(12)}${value}`);
  const pending = Object.entries(record.pending);
  if (pending.length > 0)
    text.push(
      '',
      table(
        ['EFFECT', 'KIND', 'WHAT', 'SINCE', 'DEADLINE IN'],
        pending.map(([id, note]) => [
          id,
          note.kind,
          cut(escapedLine(note.what), 200),
          age(now - note.since),
          age(note.deadlineAt - now),
        ]),
      ),
    );
  if (approvals.length > 0) text.push('', approvalTable(approvals, now));
  for (const entry of conversation ?? [])
    text.push(
      '',
      `[${entry.tool ? `${entry.role} ${entry.tool}` : entry.role}] ${cut(entry.content, 600)}`,
      ...(entry.calls ?? []).map((call) => `  -> ${call.name}(${cut(call.arguments, 200)})`),
    );
  return text.join('\n');
}

function spentText(
  summary: SessionSummary,
  limits: Inspected['record']['context']['limits'],
): string {
  if (!limits)
    return `${dollars(summary.costMicros)}, ${summary.tokens} tokens, ${summary.steps} model calls, ${summary.toolCalls} tool calls`;
  return `${dollars(summary.costMicros)} of ${dollars(limits.costMicrosMax)}, ${summary.tokens} of ${limits.tokensMax} tokens, ${summary.steps} of ${limits.stepsMax} model calls, ${summary.toolCalls} of ${limits.toolCallsMax} tool calls`;
}

export function deadTable(letters: readonly Letter[], now: number): string {
  if (letters.length === 0) return 'no dead letters';
  const rows = letters.map((one) => [
    String(one.id),
    one.tenant,
    one.agent,
    cut(one.task ?? '-', 40),
    one.code,
    age(now - one.at),
    cut(one.reason, 80),
  ]);
  return `${table(['ID', 'TENANT', 'AGENT', 'TASK', 'CODE', 'AGE', 'REASON'], rows)}\n\n${hint('next: understudy requeue <id> [--body <json>] [--agent <agent>] [--tenant <tenant>] | understudy dlq --rm <id>')}`;
}

/** Of one all of it. What publishers wrote is escaped: it must not move an operator's cursor. */
export function letterText(one: WholeLetter, now: number): string {
  const headers = Object.entries(one.headers).map(([name, value]) => `${name}: ${value}`);
  const lines: [string, string][] = [
    ['letter', String(one.id)],
    ['came', `${age(now - one.at)} ago`],
    ['tenant', one.tenant],
    ['agent', one.agent],
    ...(one.task === undefined ? [] : [['task', one.task] as [string, string]]),
    ...(one.session === undefined ? [] : [['session', one.session] as [string, string]]),
    ['code', one.code],
    ['reason', one.reason],
    ...headers.map((line, index): [string, string] => [index === 0 ? 'headers' : '', line]),
  ];
  return [
    ...lines.map(([name, value]) => `${name.padEnd(12)}${escapedLine(value)}`),
    one.isCut ? 'body (the beginning of it: the rest was too large to keep)' : 'body',
    escaped(indented(one.body)),
    '',
    hint(
      one.subject
        ? `next: understudy requeue ${one.id} [--body <json>] [--agent <agent>] [--tenant <tenant>] | understudy dlq --rm ${one.id}`
        : `next: it was no task, so it cannot be requeued: understudy dlq --rm ${one.id}`,
    ),
  ].join('\n');
}

export function verifyText(verdict: Verdict): string {
  const from = verdict.isArchived ? 'its archive' : 'its archive and the mailbox';
  return verdict.isEqual
    ? `equal: ${verdict.messages} messages from ${from} fold to version ${verdict.version} with hash ${verdict.stored.slice(0, 16)}; its end: ${verdict.end}`
    : `NOT EQUAL (${verdict.differences.join(', ')}): stored ${verdict.stored.slice(0, 16)} at version ${verdict.version}, folded ${verdict.computed.slice(0, 16)} from ${verdict.messages} messages`;
}

const marks = { good: 'ok ', look: 'see', bad: 'BAD' } as const;

export function doctorText(health: Health): string {
  const next: Partial<Record<Check['what'], string>> = {
    'dead letters': ' (understudy dlq)',
    parked: ' (understudy ps --status parked)',
    failed: ' (understudy ps --status failed)',
  };
  return checksOf(health)
    .map(
      ({ verdict, what, text }) =>
        `${marks[verdict]} ${text}${verdict === 'good' ? '' : hint(next[what] ?? '')}`,
    )
    .join('\n');
}
