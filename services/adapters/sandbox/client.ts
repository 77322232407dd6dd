/** Talks to one sandbox over HTTP. Everything that can go wrong on the way means that the sandbox is gone. */
import { Agent, type IncomingMessage, request } from 'node:http';
import { z } from 'zod';
import { Refused, Unavailable } from '../../core/errors.ts';
import type { Sandbox } from '../../ports/sandboxes.ts';

const agent = new Agent({ keepAlive: true, maxFreeSockets: 64 });

const doneSchema = z.discriminatedUnion('ok', [
  z.object({ ok: z.literal(true), value: z.unknown(), isWornOut: z.boolean().default(false) }),
  z.object({
    ok: z.literal(false),
    code: z.string().max(64),
    message: z.string().max(2_000),
    isWornOut: z.boolean().default(false),
  }),
]);
const lineSchema = z.union([
  z.object({ done: doneSchema }),
  z.object({ stream: z.enum(['stdout', 'stderr']), text: z.string() }),
]);
export type Done = z.infer<typeof doneSchema>;

export interface SandboxJob {
  readonly language: string;
  readonly code: string;
  readonly input: unknown;
  readonly isWorkspace: boolean;
  readonly timeoutMs: number;
  readonly outputBytesMax: number;
  readonly memoryMiB: number;
  readonly diskMiB: number;
  readonly processesMax: number;
  /** The job's way out, with its pass. */
  readonly proxy?: string | undefined;
}

const gone = (sandbox: Pick<Sandbox, 'name'>, cause?: unknown) =>
  new Unavailable('SANDBOX_GONE', `sandbox ${sandbox.name} is gone`, { cause });

function open(
  sandbox: Sandbox,
  method: string,
  path: string,
  body: string | Uint8Array | undefined,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const sent = request(
      `${sandbox.url}${path}`,
      {
        method,
        agent,
        signal,
        headers: {
          authorization: `Bearer ${sandbox.token}`,
          ...(body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }),
        },
      },
      resolve,
    );
    sent.on('error', (error) => reject(gone(sandbox, error)));
    sent.end(body);
  });
}

async function bytesOf(
  sandbox: Sandbox,
  answer: IncomingMessage,
  bytesMax: number,
): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of answer) {
      bytes += (chunk as Buffer).length;
      if (bytes > bytesMax) {
        answer.destroy();
        return undefined;
      }
      chunks.push(chunk as Buffer);
    }
  } catch (error) {
    throw gone(sandbox, error);
  }
  if (!answer.complete) throw gone(sandbox);
  return Buffer.concat(chunks);
}

/** @throws Unavailable SANDBOX_GONE when it ends, hangs up or answers what is no answer */
export async function runInSandbox(
  sandbox: Sandbox,
  job: SandboxJob,
  signal: AbortSignal,
): Promise<Done> {
  const answer = await open(sandbox, 'POST', '/jobs', JSON.stringify(job), signal);
  const bytes = await bytesOf(sandbox, answer, job.outputBytesMax * 64 + 1_048_576);
  if (answer.statusCode === 400)
    throw new Refused(
      'SANDBOX_JOB',
      `the sandbox does not take this job: ${bytes?.toString('utf8').slice(0, 200)}`,
    );
  if (answer.statusCode !== 200 || !bytes)
    throw gone(sandbox, new Error(`it answered ${answer.statusCode}`));
  const last = bytes.toString('utf8').trimEnd().split('\n').at(-1) ?? '';
  try {
    const parsed = lineSchema.parse(JSON.parse(last));
    if ('done' in parsed) return parsed.done;
  } catch (error) {
    throw gone(sandbox, error);
  }
  throw gone(sandbox, new Error('it ended in the middle'));
}

/** @returns undefined when it is larger than `bytesMax` */
export async function workspaceOf(
  sandbox: Sandbox,
  bytesMax: number,
  signal: AbortSignal,
): Promise<Buffer | undefined> {
  const answer = await open(sandbox, 'GET', '/workspace', undefined, signal);
  if (answer.statusCode !== 200) throw gone(sandbox, new Error(`it answered ${answer.statusCode}`));
  return bytesOf(sandbox, answer, bytesMax);
}

/** @throws Refused WORKSPACE_UNREADABLE when it is no archive */
export async function putWorkspace(
  sandbox: Sandbox,
  archive: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  const answer = await open(sandbox, 'PUT', '/workspace', archive, signal);
  answer.resume();
  if (answer.statusCode === 422)
    throw new Refused('WORKSPACE_UNREADABLE', 'the checkpoint of the workspace cannot be unpacked');
  if (answer.statusCode !== 200) throw gone(sandbox, new Error(`it answered ${answer.statusCode}`));
}

/** @returns the token, or undefined when it is somebody's already. @throws Unavailable when it does not answer within 2 s */
export async function claimSandbox(
  name: string,
  url: string,
  holder: { readonly tenant: string; readonly session: string },
): Promise<string | undefined> {
  const answer = await open(
    { name, url, token: '' },
    'POST',
    '/claim',
    JSON.stringify(holder),
    AbortSignal.timeout(2_000),
  );
  const bytes = await bytesOf({ name, url, token: '' }, answer, 4_096);
  if (answer.statusCode === 409) return undefined;
  const parsed = z
    .object({ token: z.string().min(16) })
    .safeParse(JSON.parse(bytes?.toString('utf8') || 'null'));
  if (answer.statusCode !== 200 || !parsed.success)
    throw gone({ name }, new Error(`it answered ${answer.statusCode}`));
  return parsed.data.token;
}
