/** What it means that a call of an MCP server failed: above all, whether its tool can have begun. */
import {
  InsufficientScopeError,
  SdkErrorCode,
  SdkHttpError,
  UnauthorizedError,
} from '@modelcontextprotocol/client';
import { messageOf } from '../../core/errors.ts';
import type { Outcome } from '../../core/tools/job.ts';
import { wasNeverMade } from '../../core/tools/never-made.ts';
import { whyNoToken } from './oauth.ts';
import { programPath } from './transports.ts';

export const notBegun = (
  failureClass: 'transient' | 'semantic' | 'permanent',
  code: string,
  message: string,
): Outcome<never> => ({
  ok: false,
  failure: { class: failureClass, code, message, hasBegun: false },
});

/** Without a token the call was refused as a whole. */
export function tokenRefusalOf(tool: string, error: unknown): Outcome<never> | undefined {
  const why = whyNoToken(error);
  return why
    ? notBegun(
        why.isFinal ? 'permanent' : 'transient',
        'MCP_UNAUTHORIZED',
        `tool ${tool}: no token for its MCP server: ${why.message}`,
      )
    : undefined;
}

/** Where nobody takes a first request there is no streamable HTTP, or not yet. */
export function whyNotReached(error: unknown): string {
  const { code, syscall, path } = error as { code?: string; syscall?: string; path?: string };
  if (code === 'ENOENT' && syscall?.startsWith('spawn'))
    return `there is no program ${path} in its PATH (${programPath}, or what env says), or no folder cwd`;
  const { status } = (error instanceof SdkHttpError ? error.data : {}) as { status?: number };
  return status === 404 || status === 405
    ? `it answered ${status} to the first request: is this its address for streamable HTTP? The older HTTP+SSE is not spoken`
    : messageOf(error).slice(0, 600);
}

/** It was asked again, with the next token: the call was refused each time. */
const refusedAnew: ReadonlySet<string> = new Set([
  SdkErrorCode.ClientHttpAuthentication,
  SdkErrorCode.ClientHttpForbidden,
]);

/** Status of a complete HTTP answer to a call; undefined for none. */
function statusOf(error: unknown): number | undefined {
  if (error instanceof UnauthorizedError) return 401;
  if (error instanceof InsufficientScopeError) return 403;
  if (!(error instanceof SdkHttpError)) return undefined;
  const { status, text } = error.data as { status: number; text?: string | null };
  if (refusedAnew.has(error.code)) return status;
  // Other codes are of other requests: a stream that is opened again, say.
  return error.code !== SdkErrorCode.ClientHttpNotImplemented || text === null ? undefined : status;
}

/**
 * What never reached the tool: the server refused the request as a whole, or was not there.
 *
 * @param hasWorked  the session has answered before
 */
export function refusalOf(
  tool: string,
  error: unknown,
  hasWorked: boolean,
): Outcome<never> | undefined {
  const status = statusOf(error);
  const untold = tokenRefusalOf(tool, error);
  if (untold) return untold;
  if (wasNeverMade(error))
    return notBegun('transient', 'MCP_UNREACHABLE', `tool ${tool}: its MCP server is not there`);
  if (status === 401 || status === 403)
    return notBegun('permanent', 'MCP_REFUSED', `tool ${tool}: its MCP server answered ${status}`);
  // It forgot our session (some say so with 400), or has no room now: the next try begins anew.
  const isGone = status === 404 || (status === 400 && hasWorked);
  if (isGone || status === 425 || status === 429)
    return notBegun(
      'transient',
      isGone ? 'MCP_SESSION_GONE' : 'MCP_BUSY',
      `tool ${tool}: its MCP server answered ${status}`,
    );
  // 408 may be of a call under way, and 303 leads to the result of one that was made.
  if (status === undefined || status < 300 || status > 499 || status === 303 || status === 408)
    return undefined;
  const why = messageOf(error).slice(0, 300);
  return notBegun(
    [400, 409, 422].includes(status) ? 'semantic' : 'permanent',
    'MCP_REFUSED',
    `tool ${tool}: its MCP server answered ${status}: ${why}`,
  );
}

/** A connection takes its time: who waits for it may be stopped meanwhile. */
export function orAborted<Value>(value: Promise<Value>, signal: AbortSignal): Promise<Value> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(new Error('the call was stopped before the server was reached'));
    if (signal.aborted) return stop();
    signal.addEventListener('abort', stop, { once: true });
    value.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}
