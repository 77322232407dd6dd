/** A runtime put together: host, intake and control over whichever ports it is given. */
import { randomUUID } from 'node:crypto';
import type { HostId } from '../core/ids.ts';
import type { Catalog, SpecProblem } from '../core/session/specs.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Control } from '../ports/control.ts';
import type { Effects } from '../ports/effects.ts';
import type { Events } from '../ports/events.ts';
import type { Leases } from '../ports/leases.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { SessionStore } from '../ports/session-store.ts';
import type { Tasks } from '../ports/tasks.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { controlHandlers } from './control-api.ts';
import { Definitions } from './definitions.ts';
import { Host } from './host.ts';
import { takeIn } from './intake.ts';

export interface RuntimePorts {
  readonly mailbox: Mailbox;
  readonly store: SessionStore;
  readonly archive: Archive;
  readonly effects: Effects;
  readonly events: Events;
  readonly leases: Leases;
  readonly tasks: Tasks;
  readonly control: Control;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
}

export interface RuntimeSettings {
  readonly instance: string;
  readonly shards: number;
  readonly leaseMs: number;
  readonly specs: string;
}

export interface Runtime {
  readonly host: Host;
  whyNotReady(): string;
  stop(): Promise<void>;
}

/** Sessions in memory beyond which a runtime leaves tasks in the queue: others may have room. */
const actorsMax = 50_000;
const intakeMax = 256;

export async function startRuntime(settings: RuntimeSettings, ports: RuntimePorts, load: () => Promise<{ catalog: Catalog; problems: readonly SpecProblem[] }>): Promise<Runtime> {
  const { telemetry, archive, tasks, control } = ports;
  const { catalog, problems } = await load();
  for (const problem of problems) telemetry.log('error', 'a spec is refused', { file: problem.file, field: problem.field, problem: problem.message });
  for (const { bundle, revision } of catalog.agents.values()) {
    await archive.putBundle(revision, bundle);
    const tools = Object.keys(bundle.tools).length;
    if (tools > 12) telemetry.log('warn', 'an agent with so many tools chooses badly', { agent: bundle.name, tools });
  }
  const definitions = new Definitions(archive, settings.specs);
  const host = new Host(
    { host: settings.instance as HostId, boot: randomUUID().slice(0, 8), leaseMs: settings.leaseMs },
    { ...ports, definitions, shards: settings.shards },
    ports.leases,
    control,
  );
  await host.start();
  const serving = await control.serve(
    controlHandlers({
      ...ports,
      definitions,
      shards: settings.shards,
      problems: () => problems,
      agents: () => [...catalog.agents].map(([name, { bundle, revision }]) => ({ name, revision, tools: Object.keys(bundle.tools).length })),
    }),
  );
  const intake = await tasks.take(
    () => (host.load.actors > actorsMax ? 0 : intakeMax),
    (task) => takeIn(task, { ...ports, catalog: () => catalog, shards: settings.shards }),
  );
  telemetry.log('info', 'runtime started', { instance: settings.instance, shards: settings.shards, agents: catalog.agents.size });
  return {
    host,
    whyNotReady: () => host.whyNotReady,
    async stop() {
      await intake.drain();
      await serving.stop();
      await host.drain();
    },
  };
}
