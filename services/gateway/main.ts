/** The gateway as a process: provider keys live here and nowhere else. */

import { totalmem } from 'node:os';
import { settingsFrom } from '../adapters/files/environment.ts';
import { foldersTexts, specsOf } from '../adapters/files/spec-files.ts';
import { natsArchive } from '../adapters/nats/archive.ts';
import { brokerClock } from '../adapters/nats/broker-clock.ts';
import { connectNats } from '../adapters/nats/connection.ts';
import { natsEffects } from '../adapters/nats/effects.ts';
import { natsMailbox } from '../adapters/nats/mailbox.ts';
import { natsTokens } from '../adapters/nats/tokens.ts';
import { natsToolChecks } from '../adapters/nats/tool-checks.ts';
import { systemClock } from '../adapters/observability/clock.ts';
import { runService, startingUp } from '../adapters/observability/lifecycle.ts';
import { serveProbes } from '../adapters/observability/probes.ts';
import { observability } from '../adapters/observability/telemetry.ts';
import { openaiModel } from '../adapters/openai/model.ts';
import { redisDoors } from '../adapters/redis/doors.ts';
import { redisRateLimits } from '../adapters/redis/rate-limits.ts';
import { connectedRedis } from '../adapters/redis/scripts.ts';
import { redisModelCalls } from '../adapters/redis/session-store.ts';
import { threadedChecks } from '../adapters/threads/schema-checks.ts';
import { limits } from '../core/limits.ts';
import { modelPool } from '../core/pools.ts';
import { documentEnvironment } from '../core/tools/placeholders.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { promptBytesOf } from './room.ts';
import { modelTroubles } from './troubles.ts';
import { startGateway } from './worker.ts';

await runService(async (started) => {
  const settings = settingsFrom(process.env);
  const { telemetry, registry } = observability('gateway', settings.instance, settings.logLevel);
  const { why, there } = startingUp(telemetry);
  let whyNotReady = why;
  const probes = await serveProbes(settings.httpPort, registry, () => whyNotReady());
  started({ name: 'probes', stop: () => probes.stop() });
  const configMaps = settings.namespace
    ? await watchedConfigMaps(settings.namespace, settings.instance, telemetry)
    : undefined;
  if (configMaps) started({ name: 'ConfigMaps', stop: () => configMaps.stop() });
  const specs = specsOf(
    [
      ...foldersTexts(settings.specs),
      ...(configMaps ? [{ read: configMaps.read, follow: configMaps.follow }] : []),
    ],
    settings.specs,
  );
  let { catalog } = await there(() => specs.load());
  const following = specs.follow(
    async (loaded) => {
      catalog = loaded.catalog;
    },
    (cause) =>
      telemetry.log('error', 'changed specs cannot be taken up now; what is known stays', {
        cause,
      }),
  );
  started({ name: 'specs', stop: () => following.stop() });
  const store = await there(() => connectedRedis(settings.redisUrl, settings.redisCredentials));
  started({ name: 'redis', stop: () => store.disconnect() });
  const nats = await there(() =>
    connectNats({ ...settings.nats, name: settings.instance, prefix: settings.prefix }),
  );
  started({ name: 'nats', stop: () => nats.close() });
  const mailbox = natsMailbox(nats);
  const clock = await brokerClock(nats, systemClock, settings.instance, (cause) =>
    telemetry.log('warn', "the broker's time cannot be asked", { cause }),
  );
  started({ name: 'clock', stop: () => clock.stop() });
  const checks = threadedChecks();
  started({ name: 'checks', stop: () => checks.stop() });
  const model = openaiModel(documentEnvironment(process.env), clock);
  const doors = redisDoors(store, settings.prefix, () => clock.now());
  const taking = await startGateway(
    settings.instance,
    {
      effects: natsEffects(nats),
      calls: redisModelCalls(store, settings.prefix),
      mailbox,
      archive: natsArchive(nats),
      model,
      rates: redisRateLimits(store, settings.prefix),
      doors,
      tenants: () => catalog.tenants,
      telemetry,
      clock,
      shards: settings.shards,
      tokens: natsTokens(nats),
      checks,
    },
    settings.concurrency ?? limits.modelCallsMax,
    promptBytesOf(Math.min(process.constrainedMemory() || totalmem(), totalmem())),
  );
  natsToolChecks(nats).answer(modelPool, (questions) => {
    const asked = new Set(questions.map(({ tool }) => tool));
    const models = [...catalog.agents.values()].flatMap(({ bundle }) => bundle.models);
    const byName = new Map(models.map((one) => [one.name, one]));
    return modelTroubles(
      [...byName.values()].filter(({ name }) => asked.has(name)),
      { model, doors, clock },
    );
  });
  const gauge = systemClock.every(1_000, () => {
    telemetry.gauge('inFlight', taking.inFlight());
    telemetry.gauge('clockAhead', clock.aheadMs() / 1_000);
  });
  started({
    name: 'gateway',
    stop: async () => {
      gauge.stop();
      whyNotReady = () => 'stopping';
      await taking.drain();
      await taking.stop();
    },
  });
  whyNotReady = () =>
    clock.trouble() ||
    (store.status === 'ready' ? mailbox.trouble() : 'the session store does not answer');
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
