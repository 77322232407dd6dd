/** Tools that are HTTP calls. The effect id goes out as `idempotency-key`, the trace as `traceparent`. */
import { failed, type Outcome } from '../../core/tools/job.ts';
import type { ToolRun } from '../../core/tools/tool-spec.ts';
import type { ToolJob, ToolRunner } from '../../ports/performers.ts';

type HttpRun = Extract<ToolRun, { kind: 'http' }>;

export function httpRunner(
  environment: Readonly<Record<string, string | undefined>>,
): ToolRunner<HttpRun> {
  const secrets = (text: string) =>
    text.replace(/\$\{env:([A-Z0-9_]+)\}/g, (_, name: string) => environment[name] ?? '');
  const fill = (template: string, job: ToolJob, used: Set<string>) =>
    secrets(template)
      .replaceAll('{idempotencyKey}', encodeURIComponent(job.idempotencyKey))
      .replace(/\{([A-Za-z0-9_]+)\}/g, (_, name: string) => {
        used.add(name);
        return encodeURIComponent(String(job.arguments[name] ?? ''));
      });
  const headersOf = (run: HttpRun, job: ToolJob): Record<string, string> => ({
    accept: 'application/json',
    'idempotency-key': job.idempotencyKey,
    'x-understudy-session': job.session,
    'x-understudy-tenant': job.tenant,
    ...(job.traceparent ? { traceparent: job.traceparent } : {}),
    ...Object.fromEntries(
      Object.entries(run.headers).map(([name, value]) => [name, secrets(value)]),
    ),
  });
  const bytesMax = (job: ToolJob) => Math.max(1_000_000, job.spec.outputBytesMax * 4);

  return {
    kind: 'http',
    async run(job, run, signal) {
      const used = new Set<string>();
      const target = new URL(fill(run.url, job, used));
      const rest = Object.fromEntries(
        Object.entries(job.arguments).filter(([name]) => !used.has(name)),
      );
      const hasBody = run.method === 'POST' || run.method === 'PUT';
      if (!hasBody)
        for (const [name, value] of Object.entries(rest))
          target.searchParams.set(name, typeof value === 'string' ? value : JSON.stringify(value));
      return send(
        target,
        {
          method: run.method,
          headers: {
            ...headersOf(run, job),
            ...(hasBody ? { 'content-type': 'application/json' } : {}),
          },
          ...(hasBody ? { body: JSON.stringify(rest) } : {}),
          signal,
        },
        job,
        bytesMax(job),
      );
    },
    async query(job, run, signal) {
      if (!run.query) return undefined;
      const target = new URL(fill(run.query.url, job, new Set()));
      const outcome = await send(
        target,
        { method: run.query.method, headers: headersOf(run, job), signal },
        job,
        bytesMax(job),
      );
      if (!outcome.ok && outcome.failure.code === 'HTTP_404') return 'never';
      return outcome;
    },
  };
}

async function send(
  target: URL,
  init: RequestInit,
  job: ToolJob,
  bytesMax: number,
): Promise<Outcome<unknown>> {
  let response: Response;
  let text: string;
  try {
    response = await fetch(target, { ...init, redirect: 'error' });
    text = await readCapped(response, bytesMax);
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
    if (neverLeft(error))
      return {
        ok: false,
        failure: {
          class: 'transient',
          code: 'HTTP_UNREACHABLE',
          message: `tool ${job.tool}: ${target.host} cannot be reached`,
          hasBegun: false,
        },
      };
    return failed(
      'transient',
      'HTTP_BROKEN',
      `tool ${job.tool}: the request to ${target.host} broke off`,
    );
  }
  const value = parse(text);
  if (response.ok) return { ok: true, value };
  const detail =
    typeof value === 'object' && value !== null && 'error' in value
      ? `: ${JSON.stringify((value as { error: unknown }).error).slice(0, 300)}`
      : '';
  const message = `tool ${job.tool}: ${target.host} answered ${response.status}${detail}`;
  const { status } = response;
  if (status === 408 || status === 425 || status === 429 || status >= 500) {
    const seconds = Number(response.headers.get('retry-after') ?? Number.NaN);
    return failed(
      'transient',
      `HTTP_${status}`,
      message,
      Number.isFinite(seconds) ? seconds * 1_000 : undefined,
    );
  }
  // 400, 404, 409, 422: other arguments may do. 401, 403 and the rest: they will not.
  return failed(
    [400, 404, 409, 422].includes(status) ? 'semantic' : 'permanent',
    `HTTP_${status}`,
    message,
  );
}

/** No connection was made, so no request was sent. */
function neverLeft(error: unknown): boolean {
  const { code } = ((error as { cause?: { code?: string } }).cause ?? {}) as { code?: string };
  return (
    code === 'ECONNREFUSED' ||
    code === 'ENOTFOUND' ||
    code === 'EAI_AGAIN' ||
    code === 'EHOSTUNREACH'
  );
}

class TooLarge extends Error {}

async function readCapped(response: Response, bytesMax: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of response.body ?? []) {
    bytes += chunk.length;
    if (bytes > bytesMax) throw new TooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
