/** The console as a process: two ports, one for probes and metrics, one for people. */
import { serve } from '@hono/node-server';
import { actorFrom, settingsFrom } from '../adapters/files/environment.ts';
import { connectNats } from '../adapters/nats/connection.ts';
import { natsControl } from '../adapters/nats/control.ts';
import { natsEvents } from '../adapters/nats/events.ts';
import { systemClock } from '../adapters/observability/clock.ts';
import { runService, startingUp } from '../adapters/observability/lifecycle.ts';
import { serveProbes } from '../adapters/observability/probes.ts';
import { observability } from '../adapters/observability/telemetry.ts';
import { accessOf } from './access.ts';
import { consoleApp } from './app.ts';
import { loadPage } from './page.ts';
import { questionsOf } from './questions.ts';

await runService(async (started) => {
  const { console: settings, ...common } = settingsFrom(process.env);
  const { telemetry, registry } = observability('console', common.instance, common.logLevel);
  const { why, there } = startingUp(telemetry);
  let whyNotReady = why;
  const probes = await serveProbes(common.httpPort, registry, () => whyNotReady());
  started({ name: 'probes', stop: () => probes.stop() });
  const nats = await there(() =>
    connectNats({ ...common.nats, name: common.instance, prefix: common.prefix }),
  );
  started({ name: 'nats', stop: () => nats.close() });
  const app = consoleApp({
    questions: questionsOf(natsControl(nats), systemClock.now),
    events: natsEvents(nats),
    access: accessOf(
      { token: settings.token, userHeader: settings.userHeader, localUser: actorFrom(process.env) },
      systemClock.now,
    ),
    page: loadPage(),
    telemetry,
  });
  const server = await new Promise<{ port: number; close: () => void }>((resolve) => {
    const listening = serve(
      { fetch: app.fetch, port: settings.port, hostname: settings.address },
      ({ port }) =>
        resolve({
          port,
          close: () => {
            listening.close();
            // Who follows a session holds a connection for as long as it looks.
            if ('closeAllConnections' in listening) listening.closeAllConnections();
          },
        }),
    );
  });
  started({ name: 'console', stop: () => server.close() });
  let isCutOff = false;
  nats.onDisconnect(() => {
    isCutOff = true;
  });
  nats.onReconnect(() => {
    isCutOff = false;
  });
  whyNotReady = () => (isCutOff ? 'the broker does not answer' : '');
  telemetry.log('info', 'serving', { port: probes.port, console: server.port });
});
