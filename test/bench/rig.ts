/** What the benches share: a stack with one agent that calls a tool ten times, and a model that answers at once. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { answering, freePort, type Running, startProcess } from '../../services/local/processes.ts';
import { Stack } from '../../services/local/stack.ts';

export const say = (line = ''): void => void process.stdout.write(`${line}\n`);
export const sleep = (ms: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, ms));
/** @param part  0.5 for the median */
export const percentile = (sorted: readonly number[], part: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;

const specsOf = (toolClass: string) => `apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: bench }
spec: { instructions: Call the tool., model: stub, tools: [echo], limits: { stepsMax: 1000, toolCallsMax: 1000, tokensMax: 100000000, costMicrosMax: 100000000 } }
---
apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: echo }
spec: { description: gives back what it gets, class: ${toolClass}, input: { type: object, properties: { n: { type: integer } } }, run: { kind: builtin, name: echo } }
---
apiVersion: understudy.dev/v1
kind: Model
metadata: { name: stub }
spec: { model: stub, stream: false, price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 } }
---
apiVersion: understudy.dev/v1
kind: Tenant
metadata: { name: bench }
spec: {}
`;

export interface Rig {
  readonly stack: Stack;
  /** What services are started with; may be added to before they are. */
  readonly environment: Record<string, string>;
  /** Processes besides the stack's, ended with it. */
  readonly others: Running[];
}

/** A stack whose servers run; everything ends with this process, whatever happens. */
export async function openRig({
  toolClass = 'pure',
  shards = 16,
  isStrict = false,
}: {
  toolClass?: string;
  shards?: number;
  isStrict?: boolean;
} = {}): Promise<Rig> {
  const folder = mkdtempSync(join(tmpdir(), 'understudy-bench-'));
  const specs = join(folder, 'specs');
  mkdirSync(specs);
  writeFileSync(join(specs, 'bench.yaml'), specsOf(toolClass));
  const environment: Record<string, string> = {
    OPENAI_API_KEY: 'stub',
    UNDERSTUDY_LOG_LEVEL: 'warn',
  };
  const stack = new Stack({ folder, specs, environment, shards, isStrict });
  const others: Running[] = [];
  process.on('exit', () => {
    stack.abandon();
    for (const other of others) other.signal('SIGKILL');
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  });
  process.on('SIGINT', () => process.exit(130));
  process.on('SIGTERM', () => process.exit(143));
  await stack.startServers();
  return { stack, environment, others };
}

export async function startStub({ stack, others }: Rig, latencyMs: number): Promise<string> {
  const port = await freePort();
  const running = startProcess({
    name: `stub-${latencyMs}`,
    command: [process.execPath, join(import.meta.dirname, 'stub-model.ts')],
    environment: { PORT: String(port), LATENCY_MS: String(latencyMs) },
    logs: stack.logs,
  });
  others.push(running);
  const url = `http://127.0.0.1:${port}`;
  await answering(`${url}/gaps`, running);
  return url;
}
