/** Own servers that speak TLS only, with certificates of an authority of one's own. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connectNats } from '../../services/adapters/nats/connection.ts';
import { freePort, startProcess } from '../../services/local/processes.ts';
import { eventually } from '../support/eventually.ts';
import { System, script } from '../support/system.ts';
import { hasOpenssl, startTlsServers, type TlsServers } from '../support/tls-servers.ts';

describe.skipIf(!hasOpenssl)('TLS (needs openssl to make certificates)', () => {
  const known = getCACertificates('default');
  let servers: TlsServers;
  let system: System;
  beforeAll(async () => {
    servers = await startTlsServers();
    setDefaultCACertificates([...known, servers.ca]);
    const { natsUrl, redisUrl, caFile } = servers;
    system = await System.start({
      natsUrl,
      redisUrl,
      environment: { NODE_EXTRA_CA_CERTS: caFile },
    });
  }, 60_000);
  afterAll(async () => {
    setDefaultCACertificates(known);
    await system?.stop();
    await servers?.stop();
  });

  test('a session runs to its end, and its authority is the only thing that had to be told', async () => {
    await system.publish('tls-1', script('pure', 'keyed'));
    expect((await system.endOf('tls-1')).data.to).toBe('completed');
  });

  test('a service that does not know the authority does not serve, and says why', async () => {
    const { stack } = system;
    const port = await freePort();
    const { NODE_EXTRA_CA_CERTS: _, ...environment } = stack.environment;
    const stranger = startProcess({
      name: 'stranger',
      command: [process.execPath, join(import.meta.dirname, '../../services/runtime/main.ts')],
      environment: {
        ...environment,
        UNDERSTUDY_INSTANCE: 'stranger',
        UNDERSTUDY_HTTP_PORT: String(port),
      },
      logs: stack.logs,
    });
    await eventually(async () => {
      const response = await fetch(`http://127.0.0.1:${port}/readyz`);
      return response.status === 503 && (await response.text()).includes('certificate');
    });
    expect(readFileSync(stranger.logFile, 'utf8')).toMatch(/certificate/);
    await stranger.stop();
  });

  test('who asks for TLS sends nothing to a server that has none', async () => {
    const { stack } = system;
    await expect(
      connectNats({
        url: stack.nats.url.replace('nats://', 'tls://'),
        name: 'careful',
        user: 'ann',
        password: 'secret',
        withinMs: 500,
      }),
    ).rejects.toThrow(/no NATS server answers/);
  });
});
