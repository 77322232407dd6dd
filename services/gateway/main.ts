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
  const probes = await serveProbes(settings.httpPort, registry, () => (isReady ? '' : 'starting'));
  started({ name: 'probes', stop: () => probes.stop() });
  const { catalog } = await loadSpecs(settings.specs);
  const redis = await connectedRedis(settings.redisUrl);
  started({ name: 'redis', stop: () => redis.disconnect() });
  const nats = await connectNats({ url: settings.natsUrl, name: settings.instance, prefix: settings.prefix, user: settings.natsUser, password: settings.natsPassword });
  started({ name: 'nats', stop: () => nats.close() });
  const taking = await startGateway(
    settings.instance,
    {
      effects: natsEffects(nats),
      calls: redisModelCalls(redis, settings.prefix),
      mailbox: natsMailbox(nats),
      archive: natsArchive(nats),
      model: openaiModel(process.env),
      rates: redisRateLimits(redis, settings.prefix),
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
