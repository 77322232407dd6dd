/** A runtime put together: host, intake and control over whichever ports it is given. */
import { randomUUID } from 'node:crypto';
import type { HostId } from '../core/ids.ts';
import { patiently } from '../core/patience.ts';
import { modelPool } from '../core/pools.ts';
import type { Catalog } from '../core/session/specs.ts';
import { questionOf, type ToolQuestion } from '../core/tools/environment-check.ts';
import type { Archive } from '../ports/archive.ts';
import type { Clock } from '../ports/clock.ts';
import type { Control } from '../ports/control.ts';
import type { Effects } from '../ports/effects.ts';
import type { Events } from '../ports/events.ts';
import type { Leases } from '../ports/leases.ts';
import type { Machines } from '../ports/machines.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { SessionStore } from '../ports/session-store.ts';
import type { LoadedSpecs, Specs } from '../ports/specs.ts';
import { cancelledBy, type Starts } from '../ports/starts.ts';
import type { Tasks } from '../ports/tasks.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import type { ToolChecks } from '../ports/tool-checks.ts';
import { askTask, inTurns } from './ask.ts';
import { CommitRounds } from './commit-rounds.ts';
import { controlHandlers } from './control-api.ts';
import { Definitions } from './definitions.ts';
import { Host } from './host.ts';
import { takeIn } from './intake.ts';
import { IntakeOwner } from './intake-owner.ts';
import { isUnsure, withLastGood } from './last-good.ts';
import type { ServerListings } from './listings.ts';
import { isWanted } from './wanted.ts';
import { Windows } from './windows.ts';

export interface RuntimePorts {
  readonly mailbox: Mailbox;
  readonly store: SessionStore;
  readonly archive: Archive;
  readonly effects: Effects;
  readonly events: Events;
  readonly starts: Starts;
  readonly leases: Leases;
  readonly tasks: Tasks;
  readonly checks: ToolChecks;
  readonly machines: Machines;
  readonly listings: ServerListings;
  readonly control: Control;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
}

export interface RuntimeSettings {
  readonly instance: string;
  readonly shards: number;
  readonly leaseMs: number;
  /** Folders that hold users' own machines. */
  readonly specs: readonly string[];
}

export interface Runtime {
  readonly host: Host;
  whyNotReady(): string;
  stop(): Promise<void>;
}

/** Sessions in memory beyond which a runtime leaves tasks in the queue: others may have room. */
const actorsMax = 50_000;
const intakeMax = 256;

/** @param onHost  hears of the host before it takes its first shard: whoever ends the process meanwhile must drain it */
export async function startRuntime(
  settings: RuntimeSettings,
  ports: RuntimePorts,
  specs: Specs,
  onHost: (host: Host) => void = () => undefined,
): Promise<Runtime> {
  const { telemetry, control, clock } = ports;
  const there = <Value>(attempt: () => Promise<Value>) =>
    patiently(attempt, (cause) => telemetry.log('warn', 'waiting', { cause }), clock.sleep);
  const definitions = new Definitions(ports.archive, settings.specs, ports.machines);
  const identity = {
    host: settings.instance as HostId,
    boot: randomUUID().slice(0, 8),
    leaseMs: settings.leaseMs,
  };
  const host = new Host(
    identity,
    {
      ...ports,
      definitions,
      shards: settings.shards,
      windows: new Windows(ports),
      rounds: new CommitRounds(),
    },
    ports.leases,
    control,
  );
  onHost(host);
  // An executor of the last version asks the performer of a cancelled call, and stands back.
  ports.starts.answerHolds(cancelledBy, () => 'holding');
  ports.starts.answerWanted((call) => isWanted(call, host, ports));
  let current: LoadedSpecs;
  try {
    // Sessions that exist bring their own definitions: they need not wait for what new ones would get.
    [current] = await Promise.all([
      there(async () => withLastGood(await specs.load(), ports.archive)),
      there(() => host.start()),
    ]);
    await there(() => announce(current, ports));
  } catch (error) {
    await host.drain();
    throw error;
  }
  const serving = await control.serve(
    controlHandlers({
      ...ports,
      definitions,
      shards: settings.shards,
      problems: () => current.problems,
      questions: () => questionsOf(current.catalog),
      agents: () =>
        [...current.catalog.agents].map(([name, { bundle, revision }]) => ({
          name,
          revision,
          tools: Object.keys(bundle.tools).length,
          isLastGood: current.lastGood?.has(name) ?? false,
        })),
    }),
  );
  const asking = await control.serveAsk(
    inTurns((tenant, body) => askTask(tenant, body, { ...ports, shards: settings.shards })),
  );
  const intake = new IntakeOwner(ports, {
    ...identity,
    capacity: () => (host.load.actors > actorsMax ? 0 : intakeMax),
    isCutOff: () => host.isCutOff,
    accept: (task) =>
      takeIn(task, {
        ...ports,
        catalog: () => current.catalog,
        isUnsure: (name) => isUnsure(current, name),
        shards: settings.shards,
      }),
  });
  await intake.start();
  const following = specs.follow(
    async (loaded) => {
      const changed = await withLastGood(loaded, ports.archive);
      await announce(changed, ports, current);
      current = changed;
    },
    (cause) =>
      telemetry.log('error', 'changed specs cannot be taken up now; what is known stays', {
        cause,
      }),
  );
  telemetry.log('info', 'runtime started', {
    shards: settings.shards,
    agents: current.catalog.agents.size,
  });
  return {
    host,
    whyNotReady: () => host.whyNotReady,
    async stop() {
      following.stop();
      await intake.drain();
      await asking.stop();
      await serving.stop();
      await host.drain();
    },
  };
}

/** Each tool and each Model once, whichever agent has it; of a server's tools one for all. */
function questionsOf({ agents, servers }: Catalog): ToolQuestion[] {
  const all = new Map<string, ToolQuestion>();
  const named = new Map(
    [...servers].flatMap(([server, { tools }]) =>
      typeof tools === 'string' ? [] : tools.map(({ spec }) => [spec, `${server}/*`] as const),
    ),
  );
  for (const { bundle } of agents.values())
    for (const [tool, spec] of Object.entries(bundle.tools)) {
      const name = named.get(spec) ?? tool;
      all.set(name, questionOf(name, spec));
    }
  for (const { bundle } of agents.values())
    for (const { name } of bundle.models)
      all.set(`model ${name}`, { tool: name, pool: modelPool, texts: [] });
  return [...all.values()];
}

/** Store the bundle of every new revision before a task can be stamped with it, and say what changed. */
async function announce(
  { catalog, problems }: LoadedSpecs,
  { archive, telemetry }: RuntimePorts,
  before?: LoadedSpecs,
): Promise<void> {
  const known = new Set(before?.problems.map((problem) => JSON.stringify(problem)));
  for (const problem of problems) {
    if (known.has(JSON.stringify(problem))) continue;
    if (problem.isNote)
      telemetry.log('warn', 'a spec is worth a look', {
        file: problem.file,
        problem: problem.message,
      });
    else
      telemetry.log('error', 'a spec is refused', {
        file: problem.file,
        field: problem.field,
        problem: problem.message,
      });
  }
  for (const [name, { bundle, revision, module }] of catalog.agents) {
    if (before?.catalog.agents.get(name)?.revision === revision) continue;
    const { machineModule: hash } = bundle;
    if (hash !== undefined && module !== undefined)
      await archive.putMachine({ hash, text: module });
    await archive.putBundle(revision, bundle);
    const tools = Object.keys(bundle.tools).length;
    if (tools > 12)
      telemetry.log('warn', 'an agent with so many tools chooses badly', {
        agent: bundle.name,
        tools,
      });
    if (before)
      telemetry.log('info', 'agent live', {
        agent: name,
        revision,
        before: before.catalog.agents.get(name)?.revision,
      });
  }
  for (const name of before?.catalog.agents.keys() ?? [])
    if (!catalog.agents.has(name))
      telemetry.log('warn', 'agent gone: new tasks for it are refused', { agent: name });
}
