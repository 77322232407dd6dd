/** `/livez`, `/readyz` and `/metrics` of a service. */
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import type { Registry } from 'prom-client';

export interface Probes {
  readonly port: number;
  stop(): Promise<void>;
}

/**
 * @param port     0 takes a free one
 * @param isReady  an empty string when ready, else why not
 */
export async function serveProbes(
  port: number,
  registry: Registry,
  isReady: () => string,
): Promise<Probes> {
  const app = new Hono();
  app.get('/livez', (context) => context.text('ok\n'));
  app.get('/readyz', (context) => {
    const why = isReady();
    return why === '' ? context.text('ok\n') : context.text(`${why}\n`, 503);
  });
  app.get('/metrics', async (context) =>
    context.body(await registry.metrics(), 200, { 'content-type': registry.contentType }),
  );
  return new Promise((resolve) => {
    const server = serve({ fetch: app.fetch, port, hostname: '0.0.0.0' }, (info) =>
      resolve({
        port: info.port,
        stop: () => new Promise((closed) => server.close(() => closed())),
      }),
    );
  });
}
