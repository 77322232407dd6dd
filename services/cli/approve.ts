/** `understudy approve`: nothing is approved that was not looked at. */
import { createInterface } from 'node:readline/promises';
import { Refused } from '../core/errors.ts';
import { approvalShown, escaped } from '../core/format.ts';
import type { ApprovalSummary } from '../core/session/summary.ts';
import { hint } from './failure.ts';
import type { Terminal } from './terminal.ts';
import { approvalText } from './views.ts';

export interface ApproveOptions {
  readonly approval?: string;
  readonly hash?: string;
  readonly all?: boolean;
  readonly tenant?: string;
  readonly agent?: string;
  readonly reason: string;
  readonly edit?: string;
}

export interface Decided {
  readonly approval: { readonly tool: string; readonly arguments: string };
  readonly session: { readonly state: string; readonly status: string };
}

interface Around {
  readonly terminal: Terminal;
  /** Who decides. */
  readonly actor: string;
}

export async function approve(
  session: string | undefined,
  options: ApproveOptions,
  around: Around,
): Promise<void> {
  if ((session === undefined) !== Boolean(options.all))
    throw new Refused('USAGE', 'name one session, or say --all: one of the two');
  if (session === undefined) return approveAll(options, around);
  const { terminal, actor } = around;
  const chosen = options.hash ? undefined : await lookedAt(session, options, terminal);
  if (chosen === null) return; // it was told why
  const { approval = chosen?.id, hash = chosen?.hash, reason, edit } = options;
  const done = await terminal.ask<Decided>('approve', {
    session,
    actor,
    reason,
    ...(approval ? { approval } : {}),
    ...(hash ? { hash } : {}),
    ...(edit ? { arguments: edit } : {}),
  });
  if (done) terminal.print(done, () => decidedText('approved', session, done, edit));
}

/** Shows all of it, and asks. Who cannot be asked says the hash of what was shown before. */
async function lookedAt(
  session: string,
  { approval }: ApproveOptions,
  { ask, tell, options }: Terminal,
): Promise<ApprovalSummary | undefined | null> {
  if (options().explain) return undefined;
  const found = await ask<ApprovalSummary[]>('approvals', { session });
  if (!found) return null;
  const open = found.filter((one) => approval === undefined || one.id === approval);
  const [chosen] = open;
  if (open.length !== 1 || !chosen) return undefined; // the answer says what is wrong
  if (!isAsked(options().output)) {
    throw new Refused(
      'APPROVAL_HASH_NEEDED',
      `say --hash ${chosen.hash.slice(0, 12)} if that is what you looked at: understudy approvals ${session}`,
    );
  }
  tell(approvalText(chosen, Date.now()));
  if (!(await isYes('Approve exactly this? [y/N] ')))
    throw new Refused('NOT_APPROVED', 'not approved');
  return chosen;
}

/** What came or changed since the preview is skipped and listed. */
async function approveAll(
  { tenant, agent, reason }: ApproveOptions,
  { terminal, actor }: Around,
): Promise<void> {
  const { ask, tell, print, options, withPorts } = terminal;
  const filter = { ...(tenant ? { tenant } : {}), ...(agent ? { agent } : {}) };
  const open = await ask<ApprovalSummary[]>('approvals', filter);
  if (!open) return;
  if (open.length === 0) return print([], () => 'nothing waits for a person');
  if (!isAsked(options().output))
    throw new Refused(
      'APPROVAL_HASH_NEEDED',
      '--all shows what it approves and asks: use a terminal',
    );
  tell(open.map((one) => approvalText(one, Date.now())).join('\n\n'));
  if (!(await isYes(`\nApprove these ${open.length}? [y/N] `)))
    throw new Refused('NOT_APPROVED', 'not approved');
  const skipped: string[] = [];
  let approved = 0;
  await withPorts(async ({ control }) => {
    for (const { session, id: approval, hash } of open) {
      const body = { session, approval, hash, actor, reason };
      const answer = await control.ask('approve', body, options().timeout);
      if (answer.ok) approved += 1;
      else skipped.push(`${session} ${approval}: ${answer.code} ${answer.message}`);
    }
  });
  if (skipped.length > 0) process.exitCode = 1;
  print({ approved, skipped }, () =>
    [`${approved} approved`, ...skipped.map((line) => `skipped: ${line}`)].join('\n'),
  );
}

/** Is there a person who can be asked? */
export const isAsked = (output: string): boolean =>
  output === 'text' && Boolean(process.stdin.isTTY) && Boolean(process.stdout.isTTY);

export async function isYes(question: string): Promise<boolean> {
  const reader = createInterface({ input: process.stdin, output: process.stdout });
  try {
    return /^y(es)?$/i.test((await reader.question(question)).trim());
  } finally {
    reader.close();
  }
}

export function decidedText(
  word: 'approved' | 'rejected',
  session: string,
  { approval, session: now }: Decided,
  edited?: string,
): string {
  const later =
    now.status === 'paused'
      ? hint(`, and hears of it when it goes on: understudy resume ${session}`)
      : '';
  const { tool } = approvalShown(approval);
  return `${word}: ${tool} ${escaped(edited ?? approval.arguments)}\n${session} is ${now.state}${later}`;
}
