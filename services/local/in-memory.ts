/** The whole system in one process over the in-memory adapters: for first looks, short tasks and tests. Nothing survives it. */

import { esbuildMachines } from '../adapters/esbuild/machines.ts';
import { httpRunner } from '../adapters/http/tool.ts';
import { mcpRunner } from '../adapters/mcp/tool.ts';
import { memoryArchive, memoryEvents } from '../adapters/memory/archive.ts';
import { memoryCredentials } from '../adapters/memory/credentials.ts';
import { memoryDoors } from '../adapters/memory/doors.ts';
import { memoryMailbox } from '../adapters/memory/mailbox.ts';
import {
  memoryControl,
  memoryEffects,
  memoryStarts,
  memoryTasks,
} from '../adapters/memory/queues.ts';
import { memoryRateLimits } from '../adapters/memory/rate-limits.ts';
import { memoryServerQuestions } from '../adapters/memory/server-questions.ts';
import { memoryStore } from '../adapters/memory/session-store.ts';
import { countingTelemetry } from '../adapters/memory/telemetry.ts';
import { memoryToolChecks } from '../adapters/memory/tool-checks.ts';
import { memoryWorkspaces } from '../adapters/memory/workspaces.ts';
import { systemClock } from '../adapters/observability/clock.ts';
import { openaiModel } from '../adapters/openai/model.ts';
import { processSandboxes } from '../adapters/process/sandboxes.ts';
import { processRunner } from '../adapters/process/tool.ts';
import { claimSandbox } from '../adapters/sandbox/client.ts';
import { sandboxRunner } from '../adapters/sandbox/tool.ts';
import { threadedChecks } from '../adapters/threads/schema-checks.ts';
import { troublesOf } from '../core/tools/environment-check.ts';
import { builtinRunner, builtinTools } from '../executor/builtin.ts';
import { startExecutor } from '../executor/worker.ts';
import { startGateway } from '../gateway/worker.ts';
import type { Clock } from '../ports/clock.ts';
import type { Listings } from '../ports/listings.ts';
import type { Model, ToolRunner } from '../ports/performers.ts';
import type { Specs } from '../ports/specs.ts';
import { ServerListings } from '../runtime/listings.ts';
import { startRuntime } from '../runtime/service.ts';
import { poolsOf } from './own-specs.ts';

export interface InMemoryOptions {
  readonly specs: readonly string[];
  readonly files?: string;
  readonly environment?: Readonly<Record<string, string | undefined>>;
  readonly shards?: number;
  readonly clock?: Clock;
  readonly model?: Model;
  readonly runners?: readonly ToolRunner[];
  /** What MCP servers can do is asked of the runners here. */
  readonly documents: Specs | ((listings: Listings) => Specs);
}

export async function startInMemory(options: InMemoryOptions) {
  const {
    specs,
    files = process.cwd(),
    environment = process.env,
    shards = 4,
    clock = systemClock,
  } = options;
  const store = memoryStore(clock);
  const mailbox = memoryMailbox(clock);
  const archive = memoryArchive();
  const effects = memoryEffects(clock);
  const events = memoryEvents(clock);
  const starts = memoryStarts(clock);
  const tasks = memoryTasks();
  const control = memoryControl();
  const telemetry = countingTelemetry();
  const servers = memoryServerQuestions();
  const listings = new ServerListings({ archive, servers, clock, telemetry });
  const documents =
    typeof options.documents === 'function' ? options.documents(listings) : options.documents;
  const { catalog } = await documents.load();
  const runtimePorts = {
    mailbox,
    store,
    archive,
    effects,
    events,
    starts,
    leases: store.leases,
    tasks,
    control,
    checks: memoryToolChecks(),
    machines: esbuildMachines(),
    listings,
    telemetry,
    clock,
  };
  const settings = { instance: 'in-memory', shards, leaseMs: 60_000, specs };
  const runtime = await startRuntime(settings, runtimePorts, documents);
  const mcp = mcpRunner(environment, { credentials: memoryCredentials() });
  const runners = options.runners ?? [
    builtinRunner(builtinTools(files)),
    httpRunner(environment),
    mcp,
    await processRunner(),
    sandboxRunner(
      { sandboxes: processSandboxes(claimSandbox), workspaces: memoryWorkspaces(), telemetry },
      5_000,
    ),
  ];
  const gateway = await startGateway('gateway', {
    effects,
    calls: store.calls,
    mailbox,
    archive,
    model: options.model ?? openaiModel(environment, clock),
    rates: memoryRateLimits(clock),
    doors: memoryDoors(clock),
    checks: threadedChecks(),
    tenants: () => catalog.tenants,
    telemetry,
    clock,
    shards,
  });
  const pools = poolsOf(catalog);
  for (const pool of pools) {
    runtimePorts.checks.answer(pool, (questions) => troublesOf(questions, environment));
    servers.answer(pool, {
      list: ({ run }, signal) => mcp.list(run, signal),
      signIn: ({ run }, callback) => mcp.signIn(run, callback),
    });
  }
  const executors = await Promise.all(
    pools.map((pool) =>
      startExecutor(`executor-${pool}`, pool, {
        effects,
        starts,
        mailbox,
        archive,
        runners,
        telemetry,
        clock,
        shards,
      }),
    ),
  );
  return {
    store,
    mailbox,
    archive,
    effects,
    events,
    starts,
    tasks,
    control,
    telemetry,
    runtime,
    async stop() {
      listings.stop();
      await runtime.stop();
      await Promise.all([gateway, ...executors].map((taking) => taking.stop()));
      await Promise.all([mcp, ...runners].map((runner) => runner.close?.()));
    },
  };
}
