/** The gateway as a process: provider keys live here and nowhere else. */
import { settingsFrom } from '../adapters/files/environment.ts';
import { loadSpecs } from '../adapters/files/spec-files.ts';
import { natsArchive } from '../adapters/nats/archive.ts';
import { connectNats } from '../adapters/nats/connection.ts';
import { natsEffects } from '../adapters/nats/effects.ts';
import { natsMailbox } from '../adapters/nats/mailbox.ts';
import { natsTokens } from '../adapters/nats/tokens.ts';
import { systemClock } from '../adapters/observability/clock.ts';
import { runService } from '../adapters/observability/lifecycle.ts';
import { serveProbes } from '../adapters/observability/probes.ts';
import { observability } from '../adapters/observability/telemetry.ts';
import { openaiModel } from '../adapters/openai/model.ts';
import { redisRateLimits } from '../adapters/redis/rate-limits.ts';
import { connectedRedis } from '../adapters/redis/scripts.ts';
import { redisModelCalls } from '../adapters/redis/session-store.ts';
import { startGateway } from './worker.ts';

await runService(async (started) => {
  const settings = settingsFrom(process.env);
  const { telemetry, registry } = observability('gateway', settings.instance, settings.logLevel);
  let isReady = false;
  let redis: Awaited<ReturnType<typeof connectedRedis>> | undefined;
  const probes = await serveProbes(settings.httpPort, registry, () => (!isReady ? 'starting' : redis?.status === 'ready' ? '' : 'the session store does not answer'));
  started({ name: 'probes', stop: () => probes.stop() });
  const { catalog } = await loadSpecs(settings.specs);
  const store = await connectedRedis(settings.redisUrl);
  redis = store;
  started({ name: 'redis', stop: () => store.disconnect() });
  const nats = await connectNats({ url: settings.natsUrl, name: settings.instance, prefix: settings.prefix, user: settings.natsUser, password: settings.natsPassword });
  started({ name: 'nats', stop: () => nats.close() });
  const taking = await startGateway(
    settings.instance,
    {
      effects: natsEffects(nats),
      calls: redisModelCalls(store, settings.prefix),
      mailbox: natsMailbox(nats),
      archive: natsArchive(nats),
      model: openaiModel(process.env),
      rates: redisRateLimits(store, settings.prefix),
      tenants: () => catalog.tenants,
      telemetry,
      clock: systemClock,
      shards: settings.shards,
      onText: natsTokens(nats),
    },
    settings.concurrency,
  );
  const gauge = systemClock.every(1_000, () => telemetry.gauge('inFlight', taking.inFlight()));
  started({
    name: 'gateway',
    stop: async () => {
      gauge.stop();
      isReady = false;
      await taking.drain();
      await taking.stop();
    },
  });
  isReady = true;
  telemetry.log('info', 'serving', { port: probes.port });
});
