/** A whole system of real processes for a test file: servers, services, the hostile outside world, and eyes on the events. */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OutsideWorld, type Script } from '../../chaos/outside-world.ts';
import { connectNats, type Nats } from '../../services/adapters/nats/connection.ts';
import { natsControl } from '../../services/adapters/nats/control.ts';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { declareStreams } from '../../services/adapters/nats/streams.ts';
import { natsTasks } from '../../services/adapters/nats/tasks.ts';
import type { UnderstudyEvent } from '../../services/core/wire/cloud-event.ts';
import { isEndEvent } from '../../services/core/wire/event-end.ts';
import { answering, freePort, startProcess } from '../../services/local/processes.ts';
import { type Service, type ServiceKind, Stack } from '../../services/local/stack.ts';
import { eventually } from './eventually.ts';
import { SmallDisk } from './small-disk.ts';

const tool = (name: string, toolClass: string, extra = '') => `---
apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: ${name} }
spec:
  description: a ${toolClass} tool
  class: ${toolClass}
  timeoutMs: 15000
  input: { type: object }
  run: { kind: http, url: "\${env:WORLD_URL}/do/${name}"${extra} }
`;

const specs = (stream: boolean) => `apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: desk }
spec:
  instructions: Follow the script.
  model: scripted
  tools: [pure, keyed, queryable, opaque, code, guarded]
  agents: [helper]
  approvals: [{ tool: guarded }]
  limits: { stepsMax: 200, toolCallsMax: 200, tokensMax: 100000000, costMicrosMax: 100000000 }
  loop: { sameCallMax: 50 }
---
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: helper }
spec: { instructions: Help., model: scripted, tools: [pure], limits: { stepsMax: 10, tokensMax: 1000000 } }
---
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: bounded }
spec: { instructions: Follow the script., model: scripted, tools: [pure], limits: { stepsMax: 2 } }
---
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: pipeline }
spec: { model: scripted, tools: [reserve, ship, cancel], machine: pipeline.machine.ts }
---
apiVersion: understudy.dev/v1
kind: Model
metadata: { name: scripted }
spec: { model: stub, stream: ${stream}, attempts: 6, backoffMs: 100, timeoutMs: 20000, price: { inputMicrosPerMillion: 100, outputMicrosPerMillion: 100 } }
---
apiVersion: understudy.dev/v1
kind: Tenant
metadata: { name: acme }
spec: {}
---
apiVersion: understudy.dev/v1
kind: Tenant
metadata: { name: globex }
spec: {}
${tool('pure', 'pure')}${tool('keyed', 'keyed')}${tool('queryable', 'queryable', ', query: { url: "${env:WORLD_URL}/did/{idempotencyKey}" }')}${tool('opaque', 'opaque')}${tool('guarded', 'keyed')}${tool('reserve', 'keyed')}${tool('ship', 'keyed')}${tool('cancel', 'keyed')}---
apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: code }
spec: { description: code, class: pure, input: { type: object }, run: { kind: process, command: ["\${sandbox}"] } }
`;

export interface SystemOptions {
  readonly runtimes?: number;
  readonly gateways?: number;
  readonly executors?: number;
  readonly shards?: number;
  readonly stream?: boolean;
  /** Servers of the test's own; those of the stack run beside them, unused. */
  readonly natsUrl?: string | undefined;
  readonly redisUrl?: string | undefined;
  readonly replicas?: number;
  /** YAML documents beside those of every system. */
  readonly specs?: string;
  /** Files beside them, by name. */
  readonly files?: Readonly<Record<string, string>>;
  /** For every service. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Give this server a small disk (`disk`) that can be filled. */
  readonly smallDisk?: 'nats' | 'redis';
}

/** A test file that ends early must leave nothing behind. */
const open = new Set<System>();
process.once('exit', () => {
  for (const { stack, disk } of open) {
    stack?.abandon();
    disk?.unmount();
  }
});

export class System {
  readonly world = new OutsideWorld();
  readonly events: UnderstudyEvent[] = [];
  readonly folder = mkdtempSync(join(tmpdir(), 'understudy-system-'));
  stack!: Stack;
  nats!: Nats;
  disk: SmallDisk | undefined;
  #isClosing = false;
  #natsUrl: string | undefined;
  readonly #seen = new Set<string>();

  static async start(options: SystemOptions = {}): Promise<System> {
    const system = new System();
    open.add(system);
    try {
      return await system.#open(options);
    } catch (error) {
      await system.stop();
      throw error;
    }
  }

  async #open({
    runtimes = 1,
    gateways = 1,
    executors = 1,
    shards = 4,
    stream = false,
    natsUrl,
    redisUrl,
    replicas = 1,
    smallDisk,
    specs: moreSpecs,
    files = {},
    environment: more = {},
  }: SystemOptions): Promise<System> {
    if (smallDisk) this.disk = new SmallDisk(join(this.folder, smallDisk), 24);
    await this.world.start();
    const specFolder = join(this.folder, 'specs');
    mkdirSync(specFolder);
    writeFileSync(join(specFolder, 'all.yaml'), specs(stream));
    if (moreSpecs) writeFileSync(join(specFolder, 'more.yaml'), moreSpecs);
    // The folder has no node_modules: XState is that of the runtime.
    const machine = readFileSync(
      join(import.meta.dirname, '../../examples/order-pipeline/order.machine.ts'),
      'utf8',
    );
    writeFileSync(join(specFolder, 'pipeline.machine.ts'), machine);
    for (const [name, text] of Object.entries(files)) writeFileSync(join(specFolder, name), text);
    this.#natsUrl = natsUrl;
    const own = {
      ...(natsUrl ? { UNDERSTUDY_NATS_URL: natsUrl } : {}),
      ...(redisUrl ? { UNDERSTUDY_REDIS_URL: redisUrl } : {}),
      UNDERSTUDY_REPLICAS: String(replicas),
    };
    const environment = {
      ...own,
      ...more,
      WORLD_URL: this.world.url,
      OPENAI_BASE_URL: `${this.world.url}/v1`,
      OPENAI_API_KEY: 'test',
      UNDERSTUDY_LOG_LEVEL: 'info',
    };
    this.stack = new Stack({ folder: this.folder, specs: specFolder, shards, environment });
    await this.stack.startServers();
    for (let count = 0; count < runtimes; count += 1) await this.stack.start('runtime');
    await Promise.all([
      ...Array.from({ length: gateways }, () => this.stack.start('gateway')),
      ...Array.from({ length: executors }, () => this.stack.start('executor')),
    ]);
    await this.watch();
    return this;
  }

  /** Connect and follow events from the beginning; again after the broker has been away. */
  async watch(): Promise<void> {
    // One follower: another would hear each end once more.
    await this.nats?.close().catch(() => undefined);
    this.nats = await connectNats({ url: this.#natsUrl ?? this.stack.nats.url, name: 'test' });
    await declareStreams(this.nats);
    await natsEvents(this.nats).follow({}, true, (event) => {
      // Steps may be told twice; an end is stored once, and told as often as it is stored.
      if (!isEndEvent(event) && this.#seen.has(event.id)) return;
      this.#seen.add(event.id);
      this.events.push(event);
    });
  }

  /** Start a runtime that kills itself with -9 at the nth time it comes to a beat. */
  async startCrashing(beat: string, nth: number, instance = `crash-${beat}`): Promise<Service> {
    const file = join(import.meta.dirname, 'crashing-runtime.ts');
    const crash = { CRASH_BEAT: beat, CRASH_NTH: String(nth) };
    const service = await this.startRuntime(file, instance, crash);
    await answering(`http://127.0.0.1:${service.port}/readyz`, service.running);
    return service;
  }

  /** Start a runtime from this file; it need not get ready. */
  async startRuntime(
    file: string,
    instance: string,
    more: Readonly<Record<string, string>> = {},
  ): Promise<Service> {
    const port = await freePort();
    const running = startProcess({
      name: instance,
      command: [process.execPath, '--disable-warning=ExperimentalWarning', file],
      environment: {
        ...this.stack.environment,
        UNDERSTUDY_INSTANCE: instance,
        UNDERSTUDY_HTTP_PORT: String(port),
        ...more,
      },
      logs: this.stack.logs,
    });
    const service: Service = { kind: 'runtime', instance, port, running };
    this.stack.services.push(service);
    return service;
  }

  async publish(
    id: string,
    script: Script | object,
    options: { tenant?: string; agent?: string; headers?: Record<string, string> } = {},
  ): Promise<void> {
    await natsTasks(this.nats).publish(
      options.tenant ?? 'acme',
      options.agent ?? 'desk',
      JSON.stringify({ input: script }),
      { 'Understudy-Task': id, ...options.headers },
    );
  }

  async ask<Value = Record<string, unknown>>(
    verb: string,
    body: object = {},
    waitMs = 5_000,
  ): Promise<Value> {
    const answer = await eventually(async () => {
      // Longer than a runtime waits for a session to take note (3 s): a deed that is asked for again would be refused the second time.
      const got = await natsControl(this.nats).ask(verb, body, waitMs);
      return got.ok || got.code !== 'STORE_UNAVAILABLE' ? got : undefined;
    }, `an answer to ${verb}`);
    if (!answer.ok) throw Object.assign(new Error(answer.message), { code: answer.code });
    return answer.value as Value;
  }

  /** What a person does who looks first: the hash comes from what is shown. */
  async decide(
    verb: 'approve' | 'reject',
    session: string,
    more: object = {},
  ): Promise<Record<string, unknown>> {
    const { approvals } = await this.ask<{ approvals: { hash: string }[] }>('inspect', { session });
    const hash = approvals[0] && { hash: approvals[0].hash };
    return this.ask(verb, { session, actor: 'ann', ...hash, ...more });
  }

  ends(agent = 'desk'): UnderstudyEvent[] {
    return this.events.filter((event) => isEndEvent(event) && event.data.agent === agent);
  }
  endOf(task: string): Promise<UnderstudyEvent> {
    return eventually(
      () => this.events.find((event) => isEndEvent(event) && event.data.task === task),
      `the end of task ${task}`,
      60_000,
    );
  }
  stepsOf(session: string): UnderstudyEvent[] {
    return this.events.filter((event) => event.data.session === session && !isEndEvent(event));
  }
  async sessionOf(task: string): Promise<string> {
    return (
      await eventually(
        () => this.events.find((event) => event.data.task === task),
        `an event of task ${task}`,
      )
    ).data.session;
  }

  /** A metric of one service, its labelled series added up. */
  async metric(service: Service, name: string): Promise<number> {
    const text = await this.stack.metrics(service);
    return [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? ([0-9.e+-]+)$`, 'gm'))].reduce(
      (sum, match) => sum + Number(match[1]),
      0,
    );
  }

  /** Every session of these tasks folds to the state that is stored. */
  async verifyAll(tasks: readonly string[]): Promise<void> {
    for (const task of tasks) {
      const session = await this.sessionOf(task);
      const verdict = await eventually(async () => {
        const found = await this.ask<{ isEqual: boolean }>('verify', { session }, 2_500); // the broker may ask a runtime that is frozen: often enough, then
        return found.isEqual ? found : undefined;
      }, `session ${session} to fold to its stored state`);
      if (!verdict.isEqual) throw new Error(`${session} does not verify`);
    }
  }

  of(kind: ServiceKind): Service[] {
    return this.stack.of(kind);
  }

  async stop(): Promise<void> {
    if (this.#isClosing) return;
    this.#isClosing = true;
    open.delete(this);
    this.world.releaseStreams();
    await this.nats?.close();
    this.stack?.abandon();
    await this.world.stop();
    this.disk?.unmount();
    if (!process.env.KEEP_LOGS)
      rmSync(this.folder, { recursive: true, force: true, maxRetries: 10 });
  }
}

export const script = (...tools: string[]): Script => ({
  calls: tools.map((name, index) => ({ tool: name, arguments: { n: index } })),
});
