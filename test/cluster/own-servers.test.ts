/**
 * The chart as people run it in production, on a real cluster: as a part of another chart, on three NATS servers with strict sync and TLS, on a
 * Redis master with replicas and sentinels, with passwords and an authority from Secrets of theirs, and with sandboxes in a namespace of their own.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseAllDocuments, stringify } from 'yaml';
import { command, kubectlFor } from '../../chaos/kubectl.ts';
import { hasCluster } from '../support/helm.ts';
import { hasOpenssl, makeCertificates } from '../support/tls-servers.ts';
import { type Use, useOf } from './in-cluster.ts';

const servers = 'understudy-own-servers';
const namespace = 'understudy-own';
const boxes = 'understudy-own-boxes';
const name = 'shop-understudy';
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const watcherRights =
  'allchannels -@all +ping +info +role +multi +exec +slaveof +config|rewrite +subscribe +publish +client|setname +client|kill +script|kill';

/** The users that the chart would give bundled servers, and those of replicas and sentinels. */
async function users(): Promise<Record<string, string>> {
  const text = await command('helm', [
    'template',
    'shop',
    'charts/understudy',
    '--kube-version',
    '1.34.0',
    '--show-only',
    'templates/credentials.yaml',
  ]);
  const { stringData } = parseAllDocuments(text)[0]!.toJS() as {
    stringData: Record<string, string>;
  };
  const [replica, watcher] = [crypto.randomUUID(), crypto.randomUUID()];
  return {
    ...stringData,
    'redis-replica': replica,
    'redis-watcher': watcher,
    'redis-sentinel': crypto.randomUUID(),
    'redis-users.acl': `${stringData['redis-users.acl']!.trimEnd()}\nuser replica on >${replica} resetchannels -@all +psync +replconf +ping\nuser watcher on >${watcher} ${watcherRights}\n`,
  };
}

/** A chart of somebody's shop, with ours in it. */
function writeParent(folder: string): void {
  mkdirSync(join(folder, 'charts'));
  cpSync('charts/understudy', join(folder, 'charts/understudy'), { recursive: true });
  writeFileSync(
    join(folder, 'Chart.yaml'),
    stringify({
      apiVersion: 'v2',
      name: 'shop',
      version: '1.0.0',
      dependencies: [{ name: 'understudy', version: '*.*.*', condition: 'understudy.enabled' }],
    }),
  );
  const hosts = (of: string, port: number, scheme = '') =>
    [0, 1, 2].map((index) => `${scheme}${of}-${index}.${of}.${servers}.svc:${port}`).join(',');
  writeFileSync(
    join(folder, 'values.yaml'),
    stringify({
      understudy: {
        enabled: true,
        trustedCa: { secret: 'our-ca' },
        nats: { url: hosts('nats', 4222, 'tls://'), existingSecret: 'servers', streamReplicas: 3 },
        redis: { url: `redis-sentinel://${hosts('redis', 26379)}#desk`, existingSecret: 'servers' },
        example: { isCalm: true },
        sandbox: { namespace: boxes, warm: 1, idleMs: 1_000 },
      },
    }),
  );
}

describe.skipIf(!hasCluster || !hasOpenssl)(
  'with servers of its own, as a part of another chart',
  { timeout: 240_000 },
  () => {
    const folder = mkdtempSync(join(tmpdir(), 'understudy-parent-'));
    const certificates = mkdtempSync(join(tmpdir(), 'understudy-certificates-'));
    const own = kubectlFor(servers);
    let system: Use;
    const namespaces = [namespace, boxes, servers];

    beforeAll(async () => {
      await command(
        'kubectl',
        ['delete', 'namespace', ...namespaces, '--ignore-not-found', '--wait', '--timeout=3m'],
        200_000,
      );
      for (const one of namespaces) {
        await command('kubectl', ['create', 'namespace', one]);
        await command('kubectl', [
          'label',
          'namespace',
          one,
          'pod-security.kubernetes.io/enforce=restricted',
        ]);
      }
      const stringData = await users();
      for (const [space, secret] of [
        [servers, 'users'],
        [namespace, 'servers'],
      ] as const)
        await kubectlFor(space).apply({
          apiVersion: 'v1',
          kind: 'Secret',
          metadata: { name: secret },
          stringData,
        });
      makeCertificates(certificates, `DNS:*.nats.${servers}.svc`);
      const pem = (file: string) => readFileSync(join(certificates, file), 'utf8');
      await own.apply({
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'nats-tls' },
        stringData: { 'tls.crt': pem('tls.crt'), 'tls.key': pem('tls.key') },
      });
      await kubectlFor(namespace).apply({
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'our-ca' },
        stringData: { 'ca.crt': pem('ca.crt') },
      });
      await own.apply(readFileSync('test/cluster/own-servers.yaml', 'utf8'));
      for (const one of ['nats', 'redis'])
        await own.run('rollout', 'status', `statefulset/${one}`, '--timeout=110s');
      writeParent(folder);
      await command(
        'helm',
        ['install', 'shop', folder, '--namespace', namespace, '--wait', '--timeout', '4m'],
        300_000,
      );
      system = useOf(namespace, name);
    }, 600_000);
    afterAll(async () => {
      await command('helm', ['uninstall', 'shop', '--namespace', namespace, '--wait']).catch(
        () => undefined,
      );
      await command('kubectl', ['delete', 'namespace', ...namespaces, '--wait=false']).catch(
        () => undefined,
      );
      for (const one of [folder, certificates]) rmSync(one, { recursive: true, force: true });
    }, 120_000);

    const understudy = (...args: string[]) =>
      system.run('exec', `deployment/${name}-cli`, '--', 'understudy', ...args);
    /** As a sentinel says that is never frozen: only containers of Redis are. */
    const masterOf = async () =>
      (
        await own.run(
          'exec',
          'redis-1',
          '--container',
          'sentinel',
          '--',
          'sh',
          '-c',
          'redis-cli -p 26379 --no-auth-warning -a "$SENTINEL" sentinel get-master-addr-by-name desk',
        )
      )
        .split('\n')[0]!
        .split('.')[0]!;

    test('a task ends, and its code ran in a sandbox of the other namespace', async () => {
      const told = await understudy(
        'run',
        'refund-desk',
        '{"case":"C-0001","letter":"letters/C-0001.txt"}',
      );
      expect(told).toContain('run_code ok');
      expect(
        (
          await kubectlFor(boxes).run(
            'get',
            'pods',
            '-l',
            'app.kubernetes.io/component=sandbox',
            '-o',
            'name',
          )
        ).trim(),
      ).not.toBe('');
      expect(
        (
          await system.run('get', 'pods', '-l', 'app.kubernetes.io/component=sandbox', '-o', 'name')
        ).trim(),
      ).toBe('');
      expect(await understudy('doctor')).not.toMatch(/^BAD/m);
    });

    test('each stream has three copies', async () => {
      const password = await system.secret('nats-operator', 'servers');
      const told = await system.script(
        await system.podOf('cli'),
        `const { connect } = await import('nats');
       const connection = await connect({ servers: process.env.UNDERSTUDY_NATS_URL.split(','), user: 'operator', pass: '${password}', inboxPrefix: '_INBOX_operator' });
       const copies = {};
       for (const name of ['TASKS', 'MAIL', 'EFFECTS', 'STARTS', 'EVENTS', 'DEAD', 'ARCHIVE', 'BUNDLES', 'WORKSPACES'])
         copies[name] = (await connection.request('$JS.API.STREAM.INFO.' + name)).json().config.num_replicas;
       console.log(JSON.stringify(copies));
       await connection.close();`,
      );
      expect(new Set(Object.values(JSON.parse(told.trim().split('\n').at(-1)!) as object))).toEqual(
        new Set([3]),
      );
    });

    test.each([
      ['delete', 'pods', namespace, 'no'],
      ['patch', 'pods', namespace, 'no'],
      ['delete', 'pods', servers, 'no'],
      ['delete', 'pods', boxes, 'yes'],
      ['create', 'pods', boxes, 'no'],
      ['get', 'secrets', boxes, 'no'],
    ])('may an executor %s %s in %s? %s', async (verb, what, space, answer) => {
      const said = await command('kubectl', [
        'auth',
        'can-i',
        verb,
        what,
        '--namespace',
        space,
        '--as',
        `system:serviceaccount:${namespace}:${name}-executor`,
      ]).catch(() => 'no');
      expect(said.trim().split('\n').at(-1)).toBe(answer);
    });

    test('nobody but an executor reaches a sandbox there', async () => {
      const address = await kubectlFor(boxes).run(
        'get',
        'pods',
        '-l',
        'understudy.dev/pool=free',
        '--field-selector=status.phase=Running',
        '-o',
        'jsonpath={.items[0].status.podIP}',
      );
      const code = `console.log(await fetch('http://${address}:8080/state', { signal: AbortSignal.timeout(2000) }).then(() => 'reached', () => 'refused'));`;
      const labels = {
        'app.kubernetes.io/name': 'understudy',
        'app.kubernetes.io/instance': name,
        'app.kubernetes.io/component': 'executor',
      };
      // The labels of an executor alone are not enough: it must be in the namespace of the installation.
      const stranger = useOf(servers, name);
      await stranger.startPod('stranger', code, { labels });
      expect(await stranger.outputOf('stranger')).toContain('refused');
      expect(await system.script(await system.podOf('executor'), code)).toContain('reached');
    });

    test('a NATS server killed and the Redis master frozen under load: every task ends', async () => {
      const password = {
        valueFrom: { secretKeyRef: { name: 'servers', key: 'nats-tenant-acme' } },
      };
      const code = `import { connect, headers } from 'nats';
      const connection = await connect({ servers: process.env.URL.split(','), user: 'tenant-acme', pass: process.env.PASSWORD, inboxPrefix: '_INBOX_tenant-acme', maxReconnectAttempts: -1, tls: { ca: process.env.CA } });
      for (let count = 0; count < 40; count += 1) {
        const header = headers();
        header.set('Understudy-Task', 'own-' + count);
        for (;;) try { await connection.jetstream().publish('understudy.task.acme.fraud-check', '{"input":"Is order O-40007 suspicious?"}', { headers: header }); break; } catch { await new Promise((wait) => setTimeout(wait, 200)); }
        await new Promise((wait) => setTimeout(wait, 250));
      }
      process.exit(0);`;
      const url = (
        await system.run('exec', `deployment/${name}-cli`, '--', 'printenv', 'UNDERSTUDY_NATS_URL')
      ).trim();
      await system.startPod('publisher', code, {
        env: [
          { name: 'PASSWORD', ...password },
          { name: 'CA', valueFrom: { secretKeyRef: { name: 'our-ca', key: 'ca.crt' } } },
          { name: 'URL', value: url },
        ],
      });
      await sleep(4_000);
      const before = await masterOf();
      const signal = (to: string) =>
        `for one in /proc/[0-9]*; do grep -qx redis-server $one/comm 2>/dev/null && grep -qa ':6379' $one/cmdline && kill -${to} \${one#/proc/}; done; true`;
      await Promise.all([
        own.run('exec', before, '--container', 'sentinel', '--', 'sh', '-c', signal('STOP')),
        own.run('delete', 'pod', 'nats-1', '--force', '--grace-period=0', '--wait=false'),
      ]);
      let master = before;
      for (const end = Date.now() + 60_000; master === before && Date.now() < end; await sleep(500))
        master = await masterOf();
      expect(master).not.toBe(before);
      await own.run('exec', before, '--container', 'sentinel', '--', 'sh', '-c', signal('CONT'));
      await system.outputOf('publisher');
      const tasks = async () =>
        (
          JSON.parse(await understudy('-o', 'json', 'ps', '--all', '-n', '1000')) as {
            task: string;
            status: string;
          }[]
        ).filter(({ task }) => task.startsWith('own-'));
      let found = await tasks();
      for (
        const end = Date.now() + 90_000;
        found.filter(({ status }) => status === 'completed').length < 40 && Date.now() < end;
        found = await tasks()
      )
        await sleep(1_000);
      expect(found.filter(({ status }) => status !== 'completed')).toEqual([]);
      expect(found.length).toBe(40);
    });
  },
);
