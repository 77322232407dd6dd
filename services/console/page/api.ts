/** What the page asks of its server, and what comes back. */

import type { ApprovalSummary, SessionSummary } from '../../core/session/summary.ts';
import type { Health, Letter, SessionCounts } from '../../core/wire/control-answers.ts';
import type { ConversationView, SessionView, VerdictView } from '../answers.ts';

export type {
  ApprovalSummary,
  ConversationView,
  Health,
  Letter,
  SessionCounts,
  SessionSummary,
  SessionView,
  VerdictView,
};

export class Refusal extends Error {
  readonly code: string;
  readonly status: number;
  constructor(code: string, message: string, status: number) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

async function call<Value>(method: string, path: string, body?: object): Promise<Value> {
  const response = await fetch(`/api${path}`, {
    method,
    ...(body
      ? { headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
      : {}),
  }).catch(() => {
    throw new Refusal('CONSOLE_AWAY', 'the console does not answer', 0);
  });
  const value = (await response.json().catch(() => ({
    code: 'NO_ANSWER',
    message: `the console answered ${response.status}`,
  }))) as { readonly code?: unknown; readonly message?: unknown };
  if (!response.ok) throw new Refusal(String(value.code), String(value.message), response.status);
  return value as Value;
}

export const ask = <Value>(path: string) => call<Value>('GET', path);
export const act = <Value = object>(path: string, body: object) => call<Value>('POST', path, body);
export const at = (...parts: string[]) => `/${parts.map(encodeURIComponent).join('/')}`;
