/** A whole Understudy on this machine: real servers, real processes, everything in one folder. */
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join, resolve } from 'node:path';
import { answering, freePort, type Running, startProcess } from './processes.ts';
import { type Server, serverPrograms, startNats, startRedis } from './servers.ts';

export const root = resolve(import.meta.dirname, '../..');

export type ServiceKind = 'runtime' | 'gateway' | 'executor' | 'console';

export interface StackOptions {
  readonly folder: string;
  /** Folders. */
  readonly specs: string | readonly string[];
  readonly files?: string;
  readonly shards?: number;
  readonly environment?: Readonly<Record<string, string>>;
  readonly isDetached?: boolean;
  readonly isStrict?: boolean;
  readonly natsProgram?: string;
  readonly redisProgram?: string;
  readonly say?: (line: string) => void;
}

export interface Service {
  readonly kind: ServiceKind;
  readonly instance: string;
  readonly port: number;
  readonly running: Running;
}

export class Stack {
  readonly options: StackOptions;
  readonly logs: string;
  readonly services: Service[] = [];
  readonly others: Running[] = [];
  nats!: Server;
  redis!: Server;
  #programs!: { nats: string; redis: string };
  readonly #counts = new Map<ServiceKind, number>();

  constructor(options: StackOptions) {
    this.options = options;
    this.logs = join(options.folder, 'logs');
    mkdirSync(this.logs, { recursive: true });
  }

  async startServers(): Promise<void> {
    const { folder, natsProgram, redisProgram, isDetached, isStrict } = this.options;
    const found =
      natsProgram && redisProgram
        ? { nats: natsProgram, redis: redisProgram }
        : serverPrograms(this.options.say);
    this.#programs = { nats: natsProgram ?? found.nats, redis: redisProgram ?? found.redis };
    const common = {
      folder,
      logs: this.logs,
      ...(isDetached ? { isDetached } : {}),
      ...(isStrict ? { isStrict } : {}),
    };
    // Each is known as soon as it runs: should the other fail, it is ended with the rest.
    const [nats, redis] = await Promise.allSettled([
      startNats(this.#programs.nats, common),
      startRedis(this.#programs.redis, common),
    ]);
    if (nats.status === 'fulfilled') this.nats = nats.value;
    if (redis.status === 'fulfilled') this.redis = redis.value;
    for (const one of [nats, redis]) if (one.status === 'rejected') throw one.reason;
  }

  get programs(): { nats: string; redis: string } {
    return this.#programs;
  }

  /** Kill a server without warning and start it again on the same port with the same files. */
  async restartServer(
    which: 'nats' | 'redis',
    signal: NodeJS.Signals = 'SIGKILL',
    downMs = 0,
  ): Promise<void> {
    const server = this[which];
    server.running.signal(signal);
    await server.running.ended;
    if (downMs > 0) await new Promise((wait) => setTimeout(wait, downMs));
    const common = { folder: this.options.folder, logs: this.logs, port: server.port };
    this[which] =
      which === 'nats'
        ? await startNats(this.#programs.nats, common)
        : await startRedis(this.#programs.redis, common);
  }

  get environment(): Record<string, string> {
    const { specs, files, shards, folder, environment } = this.options;
    return {
      UNDERSTUDY_NATS_URL: this.nats.url,
      UNDERSTUDY_REDIS_URL: this.redis.url,
      UNDERSTUDY_SPECS: [specs].flat().join(delimiter),
      UNDERSTUDY_FILES: files ?? root,
      UNDERSTUDY_SCRATCH: join(folder, 'scratch'),
      UNDERSTUDY_CREDENTIAL_KEY: credentialKeyIn(folder),
      // What Node makes of the sources is kept, as in the image: a start is quicker by a third.
      NODE_COMPILE_CACHE: join(root, 'node_modules/.cache/understudy'),
      ...(shards ? { UNDERSTUDY_SHARDS: String(shards) } : {}),
      ...environment,
    };
  }

  /** Start one more service and wait until it is ready. */
  async start(
    kind: ServiceKind,
    environment: Record<string, string> = {},
    instance?: string,
  ): Promise<Service> {
    const number = (this.#counts.get(kind) ?? 0) + 1;
    this.#counts.set(kind, number);
    const name = instance ?? `${kind}-${number}`;
    const port = await freePort();
    const running = startProcess({
      name,
      command: [
        process.execPath,
        '--disable-warning=ExperimentalWarning',
        join(root, 'services', kind, 'main.ts'),
      ],
      environment: {
        ...this.environment,
        UNDERSTUDY_INSTANCE: name,
        UNDERSTUDY_HTTP_PORT: String(port),
        ...environment,
      },
      logs: this.logs,
      isDetached: this.options.isDetached ?? false,
    });
    const service: Service = { kind, instance: name, port, running };
    this.services.push(service);
    await answering(`http://127.0.0.1:${port}/readyz`, running);
    return service;
  }

  /** Start a helper program that listens on PORT and answers GET /health (or anything) when ready. */
  async startProgram(
    name: string,
    file: string,
    environment: Record<string, string>,
    healthPath = '/health',
  ): Promise<{ running: Running; port: number }> {
    const port = Number(environment.PORT ?? (await freePort()));
    const running = startProcess({
      name,
      command: [process.execPath, file],
      environment: { ...environment, PORT: String(port) },
      logs: this.logs,
      isDetached: this.options.isDetached ?? false,
    });
    this.others.push(running);
    const deadline = Date.now() + 15_000;
    for (;;) {
      try {
        await fetch(`http://127.0.0.1:${port}${healthPath}`);
        return { running, port };
      } catch (error) {
        if (Date.now() > deadline || !running.isRunning()) throw error;
        await new Promise((wait) => setTimeout(wait, 30));
      }
    }
  }

  kill(service: Service): void {
    service.running.signal('SIGKILL');
    const at = this.services.indexOf(service);
    if (at >= 0) this.services.splice(at, 1);
  }

  of(kind: ServiceKind): Service[] {
    return this.services.filter((service) => service.kind === kind);
  }

  async metrics(service: Service): Promise<string> {
    return (await fetch(`http://127.0.0.1:${service.port}/metrics`)).text();
  }

  async stop(): Promise<void> {
    await Promise.all(this.services.map((service) => service.running.stop()));
    await Promise.all([
      ...this.others.map((other) => other.stop()),
      this.nats?.running.stop(),
      this.redis?.running.stop(),
    ]);
  }

  /** End everything at once, without asking. */
  abandon(): void {
    for (const running of [
      ...this.services.map((service) => service.running),
      ...this.others,
      this.nats?.running,
      this.redis?.running,
    ])
      running?.signal('SIGKILL');
  }
}

/** What executors keep sign-ins with: as old as the data of the folder's servers. */
function credentialKeyIn(folder: string): string {
  const file = join(folder, 'credential-key');
  if (!existsSync(file)) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(file, randomBytes(32).toString('hex'), { mode: 0o600 });
  }
  return readFileSync(file, 'utf8');
}
