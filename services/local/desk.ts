/** The refund desk on a local stack: its outside world, its model, and as many services as are wanted. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { Refused } from '../core/errors.ts';
import type { OwnSpecs } from './own-specs.ts';
import { freePort, type Running } from './processes.ts';
import { root, Stack } from './stack.ts';
import { alive, localFolder, readStackFile, writeStackFile } from './stack-file.ts';

export interface DeskOptions {
  readonly folder?: string;
  readonly isWiped?: boolean;
  readonly isDetached?: boolean;
  readonly isCalm?: boolean;
  readonly hasConsole?: boolean;
  readonly replicas?: {
    readonly runtime: number;
    readonly gateway: number;
    readonly executor: number;
  };
  readonly logLevel?: string;
  readonly latencyMs?: number;
  /** The reader's own agents, beside those of the example. */
  readonly own?: OwnSpecs | undefined;
  readonly say?: (line: string) => void;
}

export interface Desk {
  readonly stack: Stack;
  readonly ledger: string;
  payments: Running;
  /** Address of the console, where there is one. */
  readonly console: string | undefined;
  /** A real model answers, not the script. */
  readonly isRealModel: boolean;
  save(): void;
  stop(): Promise<void>;
}

/** @throws Refused when another stack runs in this folder */
export async function startDesk(options: DeskOptions = {}): Promise<Desk> {
  const {
    folder = localFolder(root),
    isWiped = false,
    isDetached = false,
    logLevel = 'info',
    say,
  } = options;
  const before = readStackFile(folder);
  const running = before ? alive(before) : [];
  if (running.length > 0)
    throw new Refused(
      'STACK_RUNNING',
      `a stack runs in ${folder} already (${running.map(({ name }) => name).join(', ')}): make stop first`,
    );
  if (isWiped) rmSync(folder, { recursive: true, force: true });
  const example = join(root, 'examples', 'refund-desk');
  const { own } = options;
  const environment: Record<string, string> = {
    UNDERSTUDY_LOG_LEVEL: logLevel,
    ...own?.environment,
  };
  const stack = new Stack({
    folder,
    // Machines of the reader first; all folders are followed while it runs.
    specs: [...(own ? [own.folder] : []), join(example, 'agents')],
    files: join(example, 'data'),
    environment,
    isDetached,
    ...(say ? { say } : {}),
  });
  try {
    return await fill(stack, environment, options);
  } catch (error) {
    // Whoever starts again must not find servers that nobody knows of.
    await stack.stop().catch(() => undefined);
    stack.abandon();
    throw error;
  }
}

/** Servers, the outside world, services. */
async function fill(
  stack: Stack,
  environment: Record<string, string>,
  options: DeskOptions,
): Promise<Desk> {
  const {
    folder = localFolder(root),
    isDetached = false,
    isCalm = false,
    hasConsole = false,
    replicas = { runtime: 1, gateway: 1, executor: 1 },
    latencyMs = 150,
  } = options;
  const example = join(root, 'examples', 'refund-desk');
  await stack.startServers();
  const ledger = join(folder, 'ledger.jsonl');
  const calm: Record<string, string> = isCalm ? { CALM: '1' } : {};
  const paymentsFile = join(example, 'payments-server.ts');
  const { running: payments, port: paymentsPort } = await stack.startProgram(
    'payments',
    paymentsFile,
    { LEDGER: ledger, ...calm },
  );
  environment.PAYMENTS_URL = `http://127.0.0.1:${paymentsPort}`;
  const { OPENAI_BASE_URL, OPENAI_API_KEY } = process.env;
  const isRealModel = Boolean(OPENAI_BASE_URL && OPENAI_API_KEY);
  if (isRealModel) {
    environment.OPENAI_BASE_URL = OPENAI_BASE_URL!;
    environment.OPENAI_API_KEY = OPENAI_API_KEY!;
  } else {
    const model = await stack.startProgram('model', join(example, 'model-server.ts'), {
      LATENCY_MS: String(latencyMs),
      ...calm,
    });
    environment.OPENAI_BASE_URL = `http://127.0.0.1:${model.port}/v1`;
    environment.OPENAI_API_KEY = 'scripted';
  }
  const consolePort = hasConsole ? await freePort() : 0;
  let isStopping = false;
  const desk: Desk = {
    stack,
    ledger,
    payments,
    console: hasConsole ? `http://127.0.0.1:${consolePort}` : undefined,
    isRealModel,
    save() {
      const services = stack.services.map(({ instance, port, running }) => ({
        name: instance,
        pid: running.pid,
        port,
      }));
      const others = stack.others
        .filter((other) => other.isRunning())
        .map(({ name, pid }) => ({ name, pid }));
      const servers = [stack.nats, stack.redis].map(({ running, port }) => ({
        name: running.name,
        pid: running.pid,
        port,
      }));
      writeStackFile(folder, {
        natsUrl: stack.nats.url,
        redisUrl: stack.redis.url,
        prefix: 'understudy',
        ...(desk.console ? { console: desk.console } : {}),
        pids: [...services, ...others, ...servers],
      });
    },
    async stop() {
      isStopping = true;
      await stack.stop();
    },
  };
  // The payments service dies now and then, after it has paid; whoever runs it starts it again.
  const watch = (running: Running) => {
    void running.ended.then(async () => {
      if (isStopping) return;
      const again = await stack.startProgram('payments', paymentsFile, {
        LEDGER: ledger,
        PORT: String(paymentsPort),
        ...calm,
      });
      desk.payments = again.running;
      watch(again.running);
    });
  };
  desk.save(); // should what follows fail, make stop finds what runs
  await stack.start('runtime');
  await Promise.all([
    ...Array.from({ length: replicas.runtime - 1 }, () => stack.start('runtime')),
    ...Array.from({ length: replicas.gateway }, () => stack.start('gateway')),
    ...Array.from({ length: replicas.executor }, () => stack.start('executor')),
    // One more for each other pool that the reader's own tools name.
    ...(options.own?.pools.slice(1) ?? []).map((pool) =>
      stack.start('executor', { UNDERSTUDY_POOL: pool }, `executor-${pool}`),
    ),
    ...(hasConsole
      ? [stack.start('console', { UNDERSTUDY_CONSOLE_PORT: String(consolePort) })]
      : []),
  ]);
  if (!isDetached) watch(payments);
  desk.save();
  return desk;
}
