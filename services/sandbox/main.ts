/**
 * Inside a sandbox pod: runs jobs for the one session that claimed it. It knows nothing: no credential, no client library, no
 * name of any other service. Its executor comes to it.
 *
 *   GET  /readyz      is it up?
 *   GET  /state       { claimed, idleMs, jobs, running }
 *   POST /claim       { tenant, session } → { token }, or 409 when it is somebody's
 *   POST /jobs        a job → lines of JSON: { stream, text }... and at last { done }, with `isWornOut` when the holder had better
 *                     take another sandbox for the next
 *   GET  /workspace   all files of the workspace, compressed;  PUT replaces them
 *
 * Everything below /claim wants `authorization: Bearer <token>`. Environment: PORT (0 takes a free one), HOST, WORKSPACE,
 * ENDS_WITH_INPUT (any text: end, and forget the workspace, when the standard input does; for a runner that is a process's child).
 */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Claims } from './claim.ts';
import { isWornOut, type Job, runJob } from './job.ts';
import { emptyWorkspace, receiveWorkspace, sendWorkspace } from './workspace.ts';

const {
  PORT = '8080',
  HOST = '0.0.0.0',
  WORKSPACE = '/workspace',
  ENDS_WITH_INPUT = '',
} = process.env;
mkdirSync(WORKSPACE, { recursive: true });
// A container that was started again keeps its volumes: what an earlier life's session left must not meet the next.
if (process.pid === 1)
  for (const folder of [WORKSPACE, tmpdir()])
    for (const name of readdirSync(folder))
      rmSync(join(folder, name), { recursive: true, force: true });
const claims = new Claims();
let jobs = 0;
let running = 0;
let before: Promise<unknown> = Promise.resolve();
const underWay = new Set<AbortController>();

const jobBytesMax = 8 * 1_048_576;

async function bodyOf(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += (chunk as Buffer).length;
    if (bytes > jobBytesMax) throw new RangeError('too large');
    chunks.push(chunk as Buffer);
  }
  const value: unknown = JSON.parse(Buffer.concat(chunks).toString('utf8'));
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new TypeError('not an object');
  return value as Record<string, unknown>;
}

function answer(response: ServerResponse, status: number, value: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

/** No schema library in here, so by hand. @throws TypeError naming the field */
function jobOf(body: Record<string, unknown>): Job {
  const number = (name: string, most: number): number => {
    const value = body[name];
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0 || value > most)
      throw new TypeError(`${name} must be a number up to ${most}`);
    return value;
  };
  const { language, code, proxy } = body;
  if (
    proxy !== undefined &&
    (typeof proxy !== 'string' || !/^http:\/\/pass:[\w-]+@[\w.:[\]-]+$/.test(proxy))
  )
    throw new TypeError('proxy must be an address with a pass');
  if (
    language !== 'javascript' &&
    language !== 'shell' &&
    language !== 'python' &&
    language !== 'mcp'
  )
    throw new TypeError('language must be javascript, shell, python or mcp');
  if (typeof code !== 'string') throw new TypeError('code must be text');
  return {
    language,
    code,
    input: body.input,
    isWorkspace: body.isWorkspace === true,
    timeoutMs: number('timeoutMs', 3_600_000),
    outputBytesMax: number('outputBytesMax', 16 * 1_048_576),
    memoryMiB: number('memoryMiB', 65_536),
    diskMiB: number('diskMiB', 1_048_576),
    processesMax: number('processesMax', 32_768),
    proxy,
  };
}

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const what = `${request.method} ${request.url}`;
  if (what === 'GET /readyz') return answer(response, 200, { ok: true });
  if (what === 'GET /state')
    return answer(response, 200, {
      claimed: claims.isClaimed,
      idleMs: claims.idleMs,
      jobs,
      running,
    });
  if (what === 'POST /claim') {
    const { tenant, session } = await bodyOf(request);
    const token = claims.take(String(tenant), String(session));
    return token === undefined
      ? answer(response, 409, { error: 'claimed' })
      : answer(response, 200, { token });
  }
  if (!claims.isHolder(request.headers.authorization))
    return answer(response, 401, { error: 'not yours' });
  claims.heard();
  if (what === 'GET /workspace') return await sendWorkspace(WORKSPACE, response);
  if (what === 'PUT /workspace')
    return (await receiveWorkspace(WORKSPACE, request))
      ? answer(response, 200, { ok: true })
      : answer(response, 422, { error: 'not an archive' });
  if (what !== 'POST /jobs') return answer(response, 404, { error: 'not found' });

  const job = jobOf(await bodyOf(request));
  const gone = new AbortController();
  underWay.add(gone);
  response.on('close', () => {
    underWay.delete(gone);
    gone.abort();
  });
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  const line = (value: unknown) => {
    try {
      response.write(`${JSON.stringify(value)}\n`);
    } catch {
      // A value that is nested deeper than a stack.
      response.write(
        `${JSON.stringify({ done: { ok: false, code: 'SANDBOX_CODE', message: 'the result is nested too deep to be told', isWornOut: isWornOut() } })}\n`,
      );
    }
  };
  jobs += 1;
  // One after the other: they share a workspace, and what is left of one is killed before the next.
  const mine = before.then(() =>
    runJob(job, WORKSPACE, gone.signal, (stream, text) => line({ stream, text })),
  );
  before = mine.catch(() => undefined);
  running += 1;
  const done = await mine.finally(() => {
    running -= 1;
  });
  claims.heard();
  line({ done: { ...done, isWornOut: isWornOut() } });
  response.end();
}

if (ENDS_WITH_INPUT) {
  process.stdin.resume().once('end', () => {
    server.close();
    for (const job of underWay) job.abort();
    // They are ended with all that they started; then so are we.
    setTimeout(() => {
      void emptyWorkspace(WORKSPACE)
        .then(() => rmSync(WORKSPACE, { recursive: true, force: true }))
        .catch(() => undefined)
        .finally(() => process.exit());
    }, 500);
  });
}

const server = createServer((request, response) => {
  handle(request, response).catch((error: unknown) => {
    if (response.headersSent) response.destroy();
    else
      answer(response, 400, {
        error: error instanceof Error ? error.message.slice(0, 200) : 'bad request',
      });
  });
});
server.keepAliveTimeout = 60_000;
server.listen(Number(PORT), HOST, () => {
  const address = server.address();
  process.stdout.write(
    `${JSON.stringify({ listening: typeof address === 'object' ? address?.port : PORT })}\n`,
  );
});
