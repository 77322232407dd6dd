/** The executor as a process: NATS only, no Redis, no provider key. */

import { settingsFrom } from '../adapters/files/environment.ts';
import { httpRunner } from '../adapters/http/tool.ts';
import type { PoolSettings } from '../adapters/kubernetes/sandboxes.ts';
import { mcpRunner } from '../adapters/mcp/tool.ts';
import { natsArchive } from '../adapters/nats/archive.ts';
import { brokerClock } from '../adapters/nats/broker-clock.ts';
import { connectNats } from '../adapters/nats/connection.ts';
import { natsCredentials } from '../adapters/nats/credentials.ts';
import { natsEffects } from '../adapters/nats/effects.ts';
import { natsMailbox } from '../adapters/nats/mailbox.ts';
import { natsServerQuestions } from '../adapters/nats/server-questions.ts';
import { natsStarts } from '../adapters/nats/starts.ts';
import { natsToolChecks } from '../adapters/nats/tool-checks.ts';
import { natsWorkspaces } from '../adapters/nats/workspaces.ts';
import { systemClock } from '../adapters/observability/clock.ts';
import { runService, startingUp } from '../adapters/observability/lifecycle.ts';
import { serveProbes } from '../adapters/observability/probes.ts';
import { observability } from '../adapters/observability/telemetry.ts';
import { processSandboxes } from '../adapters/process/sandboxes.ts';
import { processRunner } from '../adapters/process/tool.ts';
import { startWatchdog } from '../adapters/process/watchdog.ts';
import { claimSandbox } from '../adapters/sandbox/client.ts';
import { serveEgress } from '../adapters/sandbox/egress.ts';
import { sandboxRunner } from '../adapters/sandbox/tool.ts';
import { threadedChecks } from '../adapters/threads/schema-checks.ts';
import { troublesOf } from '../core/tools/environment-check.ts';
import { documentEnvironment } from '../core/tools/placeholders.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { builtinRunner, builtinTools } from './builtin.ts';
import { sealed } from './sealed.ts';
import { startExecutor } from './worker.ts';

await runService(async (started) => {
  const settings = settingsFrom(process.env);
  const { telemetry, registry } = observability('executor', settings.instance, settings.logLevel);
  const { why, there } = startingUp(telemetry);
  let whyNotReady = why;
  const probes = await serveProbes(settings.httpPort, registry, () => whyNotReady());
  started({ name: 'probes', stop: () => probes.stop() });
  const nats = await there(() =>
    connectNats({ ...settings.nats, name: settings.instance, prefix: settings.prefix }),
  );
  started({ name: 'nats', stop: () => nats.close() });
  const { service, idleMs } = settings.sandboxes;
  const sandboxes =
    service && settings.namespace
      ? await podPool(settings.namespace, { ...settings.sandboxes, service }, telemetry)
      : processSandboxes(claimSandbox);
  // Sandboxes in pods cannot come to our loopback: without an address of our own there is no way out.
  const egress =
    service && settings.egress.address === '127.0.0.1'
      ? undefined
      : await serveEgress({ ...settings.egress, telemetry });
  started({ name: 'egress', stop: async () => egress?.stop() });
  const watchdog = startWatchdog();
  const environment = documentEnvironment(process.env);
  const mcp = mcpRunner(environment, {
    mark: watchdog.mark,
    credentials: sealed(
      natsCredentials(nats, settings.pool),
      settings.pool,
      settings.credentialKey,
    ),
    onLog: (level, logger) =>
      telemetry.log('debug', 'an MCP server logs something', { level, logger }),
  });
  const runners = [
    builtinRunner(builtinTools(settings.files)),
    httpRunner(environment),
    mcp,
    await processRunner({ scratch: settings.scratch, instance: settings.instance, watchdog }),
    sandboxRunner({ sandboxes, workspaces: natsWorkspaces(nats), telemetry, egress }, idleMs),
  ];
  started({
    name: 'tools',
    stop: async () => void (await Promise.all(runners.map((runner) => runner.close?.()))),
  });
  // A start record names its process, so a second life of the same name does not answer for the first.
  const performer = `${settings.instance}-${process.pid}-${Date.now().toString(36)}`;
  const mailbox = natsMailbox(nats);
  const clock = await brokerClock(nats, systemClock, settings.instance, (cause) =>
    telemetry.log('warn', "the broker's time cannot be asked", { cause }),
  );
  started({ name: 'clock', stop: () => clock.stop() });
  const checks = threadedChecks();
  started({ name: 'checks', stop: () => checks.stop() });
  const taking = await startExecutor(
    performer,
    settings.pool,
    {
      effects: natsEffects(nats),
      starts: natsStarts(nats),
      mailbox,
      archive: natsArchive(nats),
      runners,
      telemetry,
      clock,
      checks,
      shards: settings.shards,
    },
    settings.concurrency,
  );
  natsServerQuestions(nats).answer(settings.pool, {
    list: ({ run }, signal) => mcp.list(run, signal),
    signIn: ({ run }, callback) => mcp.signIn(run, callback),
  });
  natsToolChecks(nats).answer(settings.pool, (questions) => troublesOf(questions, environment));
  const gauge = systemClock.every(1_000, () => {
    telemetry.gauge('inFlight', taking.inFlight());
    telemetry.gauge('clockAhead', clock.aheadMs() / 1_000);
  });
  started({
    name: 'executor',
    stop: async () => {
      gauge.stop();
      whyNotReady = () => 'stopping';
      await taking.drain();
      await taking.stop();
    },
  });
  whyNotReady = () => clock.trouble() || mailbox.trouble();
  telemetry.log('info', 'serving', { port: probes.port });
});

/** Loaded only where it is needed: the Kubernetes client costs a second of every start. */
async function podPool(namespace: string, settings: PoolSettings, telemetry: Telemetry) {
  const [{ inCluster }, { podSandboxes }] = await Promise.all([
    import('../adapters/kubernetes/cluster.ts'),
    import('../adapters/kubernetes/sandboxes.ts'),
  ]);
  return podSandboxes(inCluster(namespace), settings, claimSandbox, telemetry);
}
