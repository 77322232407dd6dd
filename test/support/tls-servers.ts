/** A NATS and a Redis that speak TLS only, with a certificate of an authority that nobody else knows. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort, type Running, startProcess } from '../../services/local/processes.ts';
import { serverPrograms } from '../../services/local/servers.ts';

export const hasOpenssl = spawnSync('openssl', ['version']).status === 0;

export interface TlsServers {
  readonly natsUrl: string;
  readonly redisUrl: string;
  /** The authority's certificate: its file, and what is in it. */
  readonly caFile: string;
  readonly ca: string;
  stop(): Promise<void>;
}

/** An authority's certificate (ca.crt), and with it signed one (tls.crt, tls.key) for these names, written to a folder. */
export function makeCertificates(folder: string, names: string): void {
  const openssl = (...args: string[]) =>
    execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  openssl(
    'req',
    '-x509',
    ...key,
    '-keyout',
    'ca.key',
    '-out',
    'ca.crt',
    '-days',
    '2',
    '-subj',
    '/CN=an authority of our own',
  );
  openssl(
    'req',
    ...key,
    '-keyout',
    'tls.key',
    '-out',
    'tls.csr',
    '-subj',
    '/CN=a server of our own',
  );
  writeFileSync(join(folder, 'names'), `subjectAltName=${names}`);
  openssl(
    'x509',
    '-req',
    '-in',
    'tls.csr',
    '-CA',
    'ca.crt',
    '-CAkey',
    'ca.key',
    '-CAcreateserial',
    '-days',
    '2',
    '-extfile',
    'names',
    '-out',
    'tls.crt',
  );
}

export async function startTlsServers(): Promise<TlsServers> {
  const folder = mkdtempSync(join(tmpdir(), 'understudy-tls-'));
  const at = (name: string) => join(folder, name);
  makeCertificates(folder, 'DNS:localhost,IP:127.0.0.1');
  const { nats, redis } = serverPrograms();
  const [natsPort, redisPort] = [await freePort(), await freePort()];
  writeFileSync(
    at('nats.conf'),
    `host: 127.0.0.1\nport: ${natsPort}\njetstream { store_dir: "${at('jetstream')}" }\ntls { cert_file: "${at('tls.crt')}", key_file: "${at('tls.key')}" }\n`,
  );
  const redisArgs = [
    '--bind',
    '127.0.0.1',
    '--port',
    '0',
    '--tls-port',
    String(redisPort),
    '--tls-cert-file',
    at('tls.crt'),
    '--tls-key-file',
    at('tls.key'),
  ];
  const running: Running[] = [
    startProcess({ name: 'nats-tls', command: [nats, '-c', at('nats.conf')], logs: folder }),
    startProcess({
      name: 'redis-tls',
      command: [
        redis,
        ...redisArgs,
        '--tls-ca-cert-file',
        at('ca.crt'),
        '--tls-auth-clients',
        'no',
        '--dir',
        folder,
      ],
      logs: folder,
    }),
  ];
  process.once('exit', () => {
    for (const one of running) one.signal('SIGKILL');
  });
  return {
    natsUrl: `tls://localhost:${natsPort}`,
    redisUrl: `rediss://localhost:${redisPort}`,
    caFile: at('ca.crt'),
    ca: readFileSync(at('ca.crt'), 'utf8'),
    async stop() {
      await Promise.all(running.map((one) => one.stop()));
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** An https server with a certificate that nobody knows. */
export async function selfSigned() {
  const folder = mkdtempSync(join(tmpdir(), 'self-signed-'));
  makeCertificates(folder, 'IP:127.0.0.1');
  const [key, cert] = ['ca.key', 'ca.crt'].map((file) => readFileSync(join(folder, file)));
  rmSync(folder, { recursive: true });
  let count = 0;
  const secure = createSecureServer({ key, cert }, (_request, response) => {
    count += 1;
    response.end('"done"');
  });
  await new Promise<void>((resolve) => secure.listen(0, '127.0.0.1', resolve));
  const { port } = secure.address() as AddressInfo;
  return { url: `https://127.0.0.1:${port}`, asked: () => count, close: () => secure.close() };
}
