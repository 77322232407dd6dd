/** How a command fails: what is said, what to do next, and the exit code. */
import { messageOf, Refused, Unavailable, UnderstudyError } from '../core/errors.ts';

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly next: string | undefined;
  /** 1 refused, 2 wrong usage, 3 nobody answered, 70 a mistake of ours. */
  readonly exitCode: number;
}

/** What was typed is at fault, and nothing has changed. */
const usage = new Set([
  'USAGE',
  'SERVER_INVALID',
  'TENANT_INVALID',
  'AGENT_INVALID',
  'TASK_ID_INVALID',
  'TASK_NOT_JSON',
  'REQUEST_INVALID',
  'BODY_NOT_JSON',
  'ARGUMENTS_NOT_JSON',
]);

const nexts: Readonly<Record<string, string>> = {
  APPROVAL_UNKNOWN: 'understudy approvals lists what is open',
  APPROVAL_EXPIRED: 'understudy approvals lists what is open',
  APPROVAL_HASH_NEEDED: 'understudy approvals <session> shows it whole, with its hash',
  APPROVAL_CHANGED: 'understudy approvals shows what is asked now',
  APPROVAL_DECIDED:
    'understudy inspect <session> shows the decision; if it is paused: understudy resume <session>',
  NOT_HEARD_YET:
    'understudy inspect <session> shows what came of it; if nothing does: understudy doctor',
  DEAD_LETTER_UNKNOWN: 'understudy dlq lists them',
  AGENT_UNKNOWN:
    'run it again with a name that is known (understudy doctor), or add the agent and requeue',
  TENANT_UNKNOWN:
    'run it again with --tenant and a name that is known, or add the tenant and requeue',
  TASK_NOT_JSON: `quote it whole: understudy run <agent> '{"case":"C-0001"}'`,
  NOTHING_HELD: 'understudy mcp show <server> --ask asks it again',
  SIGN_IN_STALE: 'understudy mcp login <server> begins again',
  SIGN_IN_REFUSED: 'understudy mcp show <server>; docs/mcp.md on oauth.login',
  MCP_UNHEARD: 'understudy doctor names the pool: are its executors there?',
  SERVER_UNKNOWN: 'understudy mcp lists them',
  LISTING_DIGEST_NEEDED: 'understudy mcp show <server> shows what has changed, with its digest',
  LISTING_CHANGED: 'understudy mcp show <server> shows what it says now',
  NO_RUNTIME:
    'is --prefix right? Here: make stop, then make dev. On Kubernetes: kubectl get pods -l app.kubernetes.io/component=runtime',
};

/** @param server  the address that was asked */
export function failureOf(error: unknown, server: string): Failure {
  const code = error instanceof UnderstudyError ? error.code : 'DEFECT';
  const exitCode = usage.has(code)
    ? 2
    : error instanceof Unavailable
      ? 3
      : error instanceof Refused
        ? 1
        : 70;
  return {
    code,
    message: messageOf(error),
    next:
      nexts[code] ??
      (error instanceof Unavailable ? `make dev, or say --server (asked: ${server})` : undefined),
    exitCode,
  };
}

export const nextOf = (code: string): string | undefined => nexts[code];

/** Hints name the command as it was called: from a checkout it is not on the path. */
export const asCalled = (text: string, self: string): string =>
  self === 'understudy' ? text : text.replaceAll(/(?<![\w/.-])understudy (?=[a-z<-])/g, `${self} `);

/** As `bin/understudy` was called. */
const self = process.env.UNDERSTUDY_CALLED ?? 'understudy';
/** Our own words that name a command. What others wrote is never given to it. */
export const hint = (text: string): string => asCalled(text, self);

/** One word of a POSIX shell. */
export const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
