/** How a list is held over an API server that ends watches: over HTTP, with the official client. */
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { KubeConfig } from '@kubernetes/client-node';
import { expect, test } from 'vitest';
import { type Cluster, hold } from '../../services/adapters/kubernetes/cluster.ts';

test.each<[string, (response: ServerResponse) => void, boolean]>([
  ['ends each watch at once', (response) => response.end(), false],
  [
    'says that a watch is too old',
    (response) =>
      response.end(
        `${JSON.stringify({ type: 'ERROR', object: { kind: 'Status', code: 410, message: 'too old resource version' } })}\n`,
      ),
    true,
  ],
])('an API server that %s is not asked again at once', async (_what, watched, isTrouble) => {
  let watches = 0;
  const server = createServer((_request, response) => {
    watches += 1;
    watched(response.writeHead(200, { 'content-type': 'application/json' }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const config = new KubeConfig();
  config.loadFromClusterAndUser(
    {
      name: 'fake',
      server: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
      skipTLSVerify: true,
    },
    { name: 'user' },
  );
  let lists = 0;
  const troubles: string[] = [];
  const holding = hold<{ name: string }>({ config } as unknown as Cluster, {
    path: '/api/v1/namespaces/x/configmaps',
    labelSelector: 'a=b',
    list: async () => {
      lists += 1;
      return { items: [], resourceVersion: '1' };
    },
    keyOf: ({ name }) => name,
    onState: () => undefined,
    onTrouble: (cause) => troubles.push(cause),
  });
  await new Promise((resolve) => setTimeout(resolve, 3_000));
  holding.stop();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  expect(lists).toBeGreaterThan(1);
  expect(lists).toBeLessThan(12);
  expect(watches).toBeLessThan(12);
  expect(troubles.length > 0).toBe(isTrouble);
  if (isTrouble) expect(troubles[0]).toContain('too old');
});
