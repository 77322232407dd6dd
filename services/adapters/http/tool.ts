/** Tools that are HTTP calls. The effect id goes out as `idempotency-key`, the trace as `traceparent`. */

import { failed, type Outcome } from '../../core/tools/job.ts';
import { wasNeverMade, whyNotSent } from '../../core/tools/never-made.ts';
import {
  expandEnvironment,
  headerNameProblem,
  isHeaderValue,
  secretsIn,
  withoutSecrets,
} from '../../core/tools/placeholders.ts';
import type { ToolRun } from '../../core/tools/tool-spec.ts';
import type { ToolJob, ToolRunner } from '../../ports/performers.ts';
import { type Environment, fillUrl, neverSent, type Refusal } from './template.ts';

type HttpRun = Extract<ToolRun, { kind: 'http' }>;

export function httpRunner(environment: Environment): ToolRunner<HttpRun> {
  const bytesMax = (job: ToolJob) => Math.max(1_000_000, job.spec.outputBytesMax * 4);
  const url = (template: string, job: ToolJob) =>
    fillUrl(job.tool, template, job.arguments, job.idempotencyKey, environment);
  /** A service that refuses may quote what it was sent. */
  const told = (
    outcome: Outcome<unknown>,
    template: string,
    headers: HttpRun['headers'],
  ): Outcome<unknown> => {
    if (outcome.ok) return outcome;
    const secrets = secretsIn(environment, template, ...Object.values(headers));
    const message = withoutSecrets(outcome.failure.message, secrets);
    return { ok: false, failure: { ...outcome.failure, message } };
  };

  return {
    kind: 'http',
    async run(job, run, signal) {
      const filled = url(run.url, job);
      if ('ok' in filled) return filled;
      const headers = headersOf(run, job, environment);
      if (isRefusal(headers)) return headers;
      const target = filled.url;
      const rest = Object.entries(namedOf(job)).filter(([name]) => !filled.used.has(name));
      const hasBody = run.method === 'POST' || run.method === 'PUT';
      // What the operator wrote into the query stands.
      const given = new Set(target.searchParams.keys());
      if (!hasBody)
        for (const [name, value] of rest)
          if (!given.has(name)) target.searchParams.set(name, queryText(value));
      const init: RequestInit = {
        method: run.method,
        headers: hasBody ? { ...headers, 'content-type': 'application/json' } : headers,
        ...(hasBody ? { body: JSON.stringify(Object.fromEntries(rest)) } : {}),
        signal,
      };
      const outcome = await send(target, init, job, bytesMax(job));
      return told(outcome, run.url, run.headers);
    },
    async query(job, run, signal) {
      if (!run.query) return undefined;
      const filled = url(run.query.url, job);
      if ('ok' in filled) return filled;
      const headers = headersOf(run, job, environment);
      if (isRefusal(headers)) return headers;
      const init = { method: run.query.method, headers, signal };
      const outcome = await send(filled.url, init, job, bytesMax(job));
      if (!outcome.ok && outcome.failure.code === 'HTTP_404') return 'never';
      return told(outcome, run.query.url, run.headers);
    },
  };
}

function headersOf(
  run: HttpRun,
  job: ToolJob,
  environment: Environment,
): Record<string, string> | Refusal {
  const headers: Record<string, string> = {
    accept: 'application/json',
    'idempotency-key': job.idempotencyKey,
    'x-understudy-session': job.session,
    'x-understudy-tenant': job.tenant,
    ...(job.traceparent ? { traceparent: job.traceparent } : {}),
  };
  for (const [name, template] of Object.entries(run.headers)) {
    const expanded = expandEnvironment(template, environment);
    if (!expanded.ok)
      return neverSent(
        'permanent',
        'TOOL_ENV_MISSING',
        `tool ${job.tool}: ${expanded.missing.join(', ')} is not set for this executor`,
      );
    const problem =
      headerNameProblem(name) ??
      (isHeaderValue(expanded.text)
        ? undefined
        : `the header ${name} has characters that no header can carry`);
    if (problem)
      return neverSent('permanent', 'TOOL_REQUEST_INVALID', `tool ${job.tool}: ${problem}`);
    headers[name] = expanded.text;
  }
  return headers;
}

/** Arguments that the schema names, where it names any: what a model adds goes nowhere. */
function namedOf({ arguments: args, spec }: ToolJob): Readonly<Record<string, unknown>> {
  const { properties, additionalProperties } = spec.input as {
    properties?: object;
    additionalProperties?: unknown;
  };
  const isOpen = !properties || Object.keys(properties).length === 0 || additionalProperties;
  if (isOpen) return args;
  return Object.fromEntries(
    Object.entries(args).filter(([name]) => Object.hasOwn(properties, name)),
  );
}

const isRefusal = (headers: Readonly<Record<string, string>> | Refusal): headers is Refusal =>
  typeof headers.ok === 'boolean';

const queryText = (value: unknown): string =>
  (typeof value === 'string' ? value : (JSON.stringify(value) ?? '')).toWellFormed();

async function send(
  target: URL,
  init: RequestInit,
  job: ToolJob,
  bytesMax: number,
): Promise<Outcome<unknown>> {
  let response: Response;
  let value: unknown;
  let request: Request;
  try {
    request = new Request(target, { ...init, redirect: 'manual' });
  } catch {
    // Its message may quote a header or the url.
    const message = `tool ${job.tool}: no request can be made of its url, method and headers`;
    return neverSent('permanent', 'TOOL_REQUEST_INVALID', message);
  }
  try {
    response = await fetch(request);
    value = answerOf(response, await readCapped(response, bytesMax));
  } catch (error) {
    if (error instanceof TooLarge)
      return {
        ok: false,
        failure: {
          class: 'permanent',
          code: 'HTTP_TOO_LARGE',
          message: `tool ${job.tool}: the answer is larger than ${bytesMax} bytes`,
          hasBegun: true,
        },
      };
    const why = whyNotSent(error);
    if (why)
      return neverSent(
        'permanent',
        'TOOL_REQUEST_INVALID',
        `tool ${job.tool}: the request to ${target.host} cannot be sent: ${why}`,
      );
    if (wasNeverMade(error))
      return {
        ok: false,
        failure: {
          class: 'transient',
          code: 'HTTP_UNREACHABLE',
          message: `tool ${job.tool}: ${target.host} cannot be reached${codeOf(error)}`,
          hasBegun: false,
        },
      };
    return failed(
      'transient',
      'HTTP_BROKEN',
      `tool ${job.tool}: the request to ${target.host} broke off`,
    );
  }
  if (response.ok) return { ok: true, value };
  return refusalOf(response, value, target, job);
}

/** Of the connection, in brackets: an expired certificate is not a host that is away. */
function codeOf(error: unknown): string {
  const { code } = ((error as Error).cause ?? {}) as { code?: string };
  return code ? ` (${code})` : '';
}

function refusalOf(
  response: Response,
  value: unknown,
  target: URL,
  job: ToolJob,
): { ok: false; failure: ReturnType<typeof failed>['failure'] } {
  const { status } = response;
  const code = `HTTP_${status}`;
  const detail =
    typeof value === 'object' && value !== null && 'error' in value
      ? `: ${JSON.stringify((value as { error: unknown }).error).slice(0, 300)}`
      : '';
  const message = `tool ${job.tool}: ${target.host} answered ${status}${detail}`;
  // It would be another request, to another place: the operator names that. 303 says that it was done.
  if (status === 303 && job.spec.run.kind === 'http' && job.spec.run.method !== 'GET')
    return failed('transient', code, `${message}, as after a request that was done`);
  if (status >= 300 && status < 400)
    return neverSent(
      'permanent',
      code,
      `${message} and sends on to ${placeOf(response.headers.get('location'), target)}, where no tool is sent`,
    );
  const retryAfterMs = retryAfterOf(response);
  // Refused as a whole: nothing has begun.
  if (status === 425 || status === 429) {
    const { failure } = failed('transient', code, message, retryAfterMs);
    return { ok: false, failure: { ...failure, hasBegun: false } };
  }
  if (status === 408 || status >= 500) return failed('transient', code, message, retryAfterMs);
  // 400, 404, 409, 422: other arguments may do. 401, 403 and the rest: they will not.
  return failed([400, 404, 409, 422].includes(status) ? 'semantic' : 'permanent', code, message);
}

const retryAfterMaxMs = 3_600_000; // what asks for more is not asked again

function retryAfterOf(response: Response): number | undefined {
  const seconds = Number(response.headers.get('retry-after') ?? Number.NaN);
  if (Number.isNaN(seconds)) return undefined;
  return Math.min(retryAfterMaxMs, Math.max(0, seconds * 1_000));
}

/** Host and path of where a redirect leads; its query may hold secrets. */
function placeOf(location: string | null, target: URL): string {
  try {
    const { host, pathname } = new URL(location ?? '', target);
    return `${host}${pathname}`.slice(0, 200);
  } catch {
    return 'nowhere';
  }
}

class TooLarge extends Error {}

async function readCapped(response: Response, bytesMax: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > bytesMax) throw new TooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** JSON where the service says that it is, or where nobody could take it for text; else the text as it came. */
function answerOf(response: Response, bytes: Uint8Array): unknown {
  const type = response.headers.get('content-type') ?? '';
  const text = decoderOf(/charset="?([^";\s]+)/i.exec(type)?.[1]).decode(bytes);
  if (!/[/+]json\b/i.test(type) && !/^\s*[{[]/.test(text)) return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function decoderOf(charset = 'utf-8') {
  try {
    return new TextDecoder(charset);
  } catch {
    return new TextDecoder();
  }
}
