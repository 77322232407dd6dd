/** The runtime as a process. */

import { esbuildMachines } from '../adapters/esbuild/machines.ts';
import { settingsFrom } from '../adapters/files/environment.ts';
import { foldersTexts, specsOf } from '../adapters/files/spec-files.ts';
import { natsArchive } from '../adapters/nats/archive.ts';
import { brokerClock } from '../adapters/nats/broker-clock.ts';
import { connectNats } from '../adapters/nats/connection.ts';
import { natsControl } from '../adapters/nats/control.ts';
import { natsEffects } from '../adapters/nats/effects.ts';
import { natsEvents } from '../adapters/nats/events.ts';
import { natsMailbox } from '../adapters/nats/mailbox.ts';
import { natsServerQuestions } from '../adapters/nats/server-questions.ts';
import { natsStarts } from '../adapters/nats/starts.ts';
import { declareStreams, optionalStreams, updateStreams } from '../adapters/nats/streams.ts';
import { natsTasks } from '../adapters/nats/tasks.ts';
import { natsToolChecks } from '../adapters/nats/tool-checks.ts';
import { systemClock } from '../adapters/observability/clock.ts';
import { runService, startingUp } from '../adapters/observability/lifecycle.ts';
import { serveProbes } from '../adapters/observability/probes.ts';
import { observability } from '../adapters/observability/telemetry.ts';
import { redisLeases } from '../adapters/redis/leases.ts';
import { connectedRedis } from '../adapters/redis/scripts.ts';
import { redisSessionStore } from '../adapters/redis/session-store.ts';
import { checkStore } from '../adapters/redis/store-check.ts';
import { messageOf } from '../core/errors.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { ServerListings } from './listings.ts';
import { type Runtime, startRuntime } from './service.ts';

await runService(async (started) => {
  const settings = settingsFrom(process.env);
  const { telemetry, registry } = observability('runtime', settings.instance, settings.logLevel);
  let runtime: Runtime | undefined;
  let clockTrouble = () => '';
  const { why, there } = startingUp(telemetry);
  const probes = await serveProbes(
    settings.httpPort,
    registry,
    () => clockTrouble() || (runtime?.whyNotReady() ?? why()),
  );
  started({ name: 'probes', stop: () => probes.stop() });
  // All at once: a runtime that comes back reclaims its shards, and they are silent until then.
  const [redis, nats, configMaps] = await Promise.all([
    there(() => connectedRedis(settings.redisUrl, settings.redisCredentials)),
    there(() =>
      connectNats({ ...settings.nats, name: settings.instance, prefix: settings.prefix }),
    ),
    settings.namespace
      ? watchedConfigMaps(settings.namespace, settings.instance, telemetry)
      : undefined,
  ]);
  started({ name: 'redis', stop: () => redis.disconnect() });
  started({ name: 'nats', stop: () => nats.close() });
  if (configMaps) started({ name: 'ConfigMaps', stop: () => configMaps.stop() });
  await there(() => checkStore(redis, settings.prefix));
  await there(() => declareStreams(nats));
  await declareStreams(nats, optionalStreams).catch((error: unknown) =>
    telemetry.log(
      'warn',
      'nobody can sign in to MCP servers: does this user lack the right to make a stream?',
      {
        cause: messageOf(error),
      },
    ),
  );
  // Without the right to update, the streams of an earlier version do as they did.
  await updateStreams(nats).then(
    (names) =>
      names.length > 0 && telemetry.log('info', 'streams updated', { names: names.join(', ') }),
    (error: unknown) =>
      telemetry.log(
        'error',
        'streams cannot be brought up to date: does this user lack the right?',
        {
          cause: messageOf(error),
        },
      ),
  );
  const clock = await brokerClock(nats, systemClock, settings.instance, (cause) =>
    telemetry.log('warn', "the broker's time cannot be asked", { cause }),
  );
  clockTrouble = clock.trouble;
  const ahead = systemClock.every(1_000, () =>
    telemetry.gauge('clockAhead', clock.aheadMs() / 1_000),
  );
  started({
    name: 'clock',
    stop: () => {
      ahead.stop();
      clock.stop();
    },
  });
  const machines = esbuildMachines();
  const archive = natsArchive(nats);
  const servers = natsServerQuestions(nats);
  const listings = new ServerListings({ archive, servers, clock, telemetry });
  started({ name: 'listings', stop: () => listings.stop() });
  runtime = await startRuntime(
    settings,
    {
      mailbox: natsMailbox(nats),
      store: redisSessionStore(redis, settings.prefix),
      archive,
      effects: natsEffects(nats),
      events: natsEvents(nats),
      starts: natsStarts(nats),
      leases: redisLeases(redis, settings.prefix),
      tasks: natsTasks(nats),
      checks: natsToolChecks(nats),
      machines,
      listings,
      control: natsControl(nats),
      telemetry,
      clock,
    },
    specsOf(
      [...foldersTexts(settings.specs), ...(configMaps ? [configMaps] : [])],
      settings.specs,
      machines,
      listings,
    ),
    (host) => started({ name: 'host', stop: () => host.drain() }),
  );
  const { stop } = runtime;
  started({ name: 'runtime', stop });
  telemetry.log('info', 'serving', { port: probes.port });
});

/** Loaded only where it is needed: the Kubernetes client costs a second of every start. */
async function watchedConfigMaps(namespace: string, instance: string, telemetry: Telemetry) {
  const [{ inCluster }, { configMapTexts }] = await Promise.all([
    import('../adapters/kubernetes/cluster.ts'),
    import('../adapters/kubernetes/spec-maps.ts'),
  ]);
  return configMapTexts(inCluster(namespace), instance, telemetry);
}
