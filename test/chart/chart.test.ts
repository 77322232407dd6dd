/** The chart as text: what is generated is what the schema says, it renders, and what cannot work is refused with a sentence. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { hasHelm, helm } from '../support/helm.ts';

const root = join(import.meta.dirname, '../..');
const chart = join(root, 'charts/understudy');

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly spec?: {
    readonly template?: { readonly spec: PodSpec };
    readonly containers?: PodSpec['containers'];
  } & Partial<PodSpec>;
}
interface PodSpec {
  readonly containers: readonly {
    readonly name: string;
    readonly image?: string;
    readonly env?: readonly { readonly name: string; readonly value?: string }[];
    readonly securityContext?: Record<string, unknown>;
    readonly resources?: unknown;
  }[];
  readonly securityContext?: Record<string, unknown>;
  readonly automountServiceAccountToken?: boolean;
  readonly serviceAccountName?: string;
}

const render = (...args: string[]): Manifest[] => {
  const { ok, text } = helm(
    'template',
    'u',
    chart,
    '--namespace',
    'n',
    '--kube-version',
    '1.34.0',
    ...args,
  );
  if (!ok) throw new Error(text);
  return parseAllDocuments(text).flatMap((document) =>
    document.toJS() ? [document.toJS() as Manifest] : [],
  );
};
const podsOf = (manifests: readonly Manifest[]) =>
  manifests.flatMap(({ kind, metadata, spec }) =>
    spec?.template
      ? [{ name: `${kind}/${metadata.name}`, pod: spec.template.spec }]
      : kind === 'Pod'
        ? [{ name: `Pod/${metadata.name}`, pod: spec as PodSpec }]
        : [],
  );

test('values.yaml, values.schema.json and docs/values.md are what the schema says', () => {
  const { status, stderr } = spawnSync(
    process.execPath,
    [join(root, 'charts/generate.ts'), '--check'],
    { encoding: 'utf8' },
  );
  expect(stderr.replace(/\(node:.*\n?/g, '')).not.toContain('npm run values');
  expect(status).toBe(0);
});

// Without helm nothing can be rendered: on PATH, or with the cluster that lies beside this project on some machines.
describe.skipIf(!hasHelm)('helm', () => {
  test('lints', () => {
    expect(helm('lint', '--strict', chart)).toMatchObject({ ok: true });
  });

  test('scales by the queue of each pool, and by what waits with the runtimes where a Prometheus is named', () => {
    const triggersOf = (...args: string[]) =>
      render('--set', 'autoscaling.enabled=true', ...args)
        .filter(({ kind }) => kind === 'ScaledObject')
        .map(
          ({ metadata, spec }) =>
            [
              metadata.name,
              (
                spec as unknown as {
                  triggers: { type: string; metadata: Record<string, string> }[];
                }
              ).triggers,
            ] as const,
        );

    expect(
      triggersOf().map(([name, triggers]) => [name, triggers.map(({ type }) => type)]),
    ).toEqual([
      ['u-executor', ['nats-jetstream']],
      ['u-gateway', ['nats-jetstream']],
    ]);
    const [[, triggers]] = triggersOf('--set', 'autoscaling.prometheus=http://prometheus:9090') as [
      ReturnType<typeof triggersOf>[number],
    ];
    expect(triggers[1]).toEqual({
      type: 'prometheus',
      metadata: {
        serverAddress: 'http://prometheus:9090',
        query: 'sum(understudy_effects_waiting{pool="tools",namespace="n"})',
        threshold: '50',
      },
    });
  });

  test('renders what a system needs, and nothing when it is not enabled', () => {
    const kinds = render().map(({ kind }) => kind);
    for (const kind of [
      'StatefulSet',
      'Deployment',
      'Service',
      'Secret',
      'ConfigMap',
      'NetworkPolicy',
      'PodDisruptionBudget',
      'ServiceAccount',
      'Role',
      'RoleBinding',
    ])
      expect(kinds).toContain(kind);
    expect(
      kinds.filter((kind) => kind.startsWith('Cluster') || kind === 'CustomResourceDefinition'),
    ).toEqual([]);
    expect(render('--set', 'enabled=false')).toEqual([]);
  });

  test('every pod fits the restricted standard, and no secret stands in a manifest of a pod', () => {
    const pods = podsOf(render());
    expect(pods.length).toBeGreaterThan(8);
    for (const { name, pod } of pods) {
      expect(pod.securityContext, name).toMatchObject({
        runAsNonRoot: true,
        seccompProfile: { type: 'RuntimeDefault' },
      });
      for (const container of pod.containers) {
        expect(container.securityContext, name).toMatchObject({
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        });
        expect(container.resources, name).toMatchObject({
          requests: expect.anything(),
          limits: { memory: expect.anything() },
        });
        for (const { name: variable, value } of container.env ?? [])
          if (/PASSWORD|TOKEN|SECRET/.test(variable))
            expect(value, `${name} ${variable}`).toBeUndefined();
      }
    }
  });

  test('only who talks to the API server has a token', () => {
    for (const { name, pod } of podsOf(render()))
      expect(pod.automountServiceAccountToken !== false, name).toBe(
        /runtime|gateway|executor/.test(name),
      );
  });

  test('a changed agent rolls the runtimes and gateways', () => {
    const checksum = (...args: string[]) =>
      JSON.stringify(
        render(...args).filter(
          ({ kind, metadata }) => kind === 'StatefulSet' && metadata.name === 'u-runtime',
        ),
      ).match(/checksum\/specs":"(\w+)/)?.[1];
    expect(checksum()).toBeDefined();
    expect(checksum()).not.toBe(checksum('--set', 'example.enabled=false'));
  });

  test.each([
    ['an unknown value', ['--set', 'runtime.replica=3'], /runtime/],
    ['a value of the wrong type', ['--set', 'shards=many'], /shards/],
    ['an agent that is none', ['--set', 'agents.a.modle=x'], /agents/],
    [
      'its own NATS without users',
      ['--set', 'nats.url=nats://mine:4222'],
      /nats\.existingSecret must name a Secret/,
    ],
    [
      'its own Redis without users',
      ['--set', 'redis.url=redis://mine:6379'],
      /redis\.existingSecret must name a Secret/,
    ],
    ['three copies on a single server', ['--set', 'nats.streamReplicas=3'], /single server/],
    [
      'more warm sandboxes than there may be',
      ['--set', 'sandbox.warm=9'],
      /sandbox\.warm \(9\) is more/,
    ],
    [
      'a header that anybody may write',
      ['--set', 'console.userHeader=X-User'],
      /networkPolicy\.console must name the proxy/,
    ],
    [
      'a header that any pod may write',
      [
        '--set',
        'console.userHeader=X-User,networkPolicy.enabled=false,networkPolicy.console[0].podSelector.matchLabels.app=p',
      ],
      /networkPolicy\.enabled must be true/,
    ],
    [
      'a tool whose pool has no executors',
      [
        '--set',
        'tools.t.description=d,tools.t.run.kind=builtin,tools.t.run.name=n,tools.t.pool=gpu',
      ],
      /tools\.t names the pool gpu, and nobody takes from it: set executor\.pools\.gpu/,
    ],
    [
      'a server whose pool has no executors',
      ['--set', 'mcpServers.s.command={x},mcpServers.s.pool=gpu'],
      /mcpServers\.s names the pool gpu, and nobody takes from it: set executor\.pools\.gpu/,
    ],
    ['a server that is none', ['--set', 'mcpServers.s.comand={x}'], /comand/],
    ['executors for model calls', ['--set', 'executor.pools.models.replicas=1'], /name another/],
    ['a second pool of that name', ['--set', 'executor.pools.tools.replicas=1'], /name another/],
    ['more runtimes than shards', ['--set', 'runtime.replicas=17'], /more than shards/],
  ])('refuses %s', (_what, args, reason) => {
    const { ok, text } = helm('template', 'u', chart, '--kube-version', '1.34.0', ...args);
    expect(ok).toBe(false);
    expect(text).toMatch(reason);
  });

  test('each further pool has executors, a user and an environment of its own, and the edges of all executors', () => {
    const [before, after] = [
      render('--set', 'executor.environmentSecret=ours'),
      render(
        '--set',
        'executor.environmentSecret=ours,executor.pools.gpu.replicas=3,executor.pools.gpu.nodeSelector.gpu=yes',
      ),
    ];
    const names = (manifests: readonly Manifest[]) =>
      new Set(manifests.map(({ kind, metadata }) => `${kind}/${metadata.name}`));
    const old = names(before);
    expect([...names(after)].filter((name) => !old.has(name)).sort()).toEqual([
      'Deployment/u-executor-gpu',
      'NetworkPolicy/u-from-executor-gpu',
      'PodDisruptionBudget/u-executor-gpu',
    ]);
    const [own] = podsOf(after).filter(({ name }) => name === 'Deployment/u-executor-gpu');
    const environment = own?.pod.containers[0]?.env ?? [];
    expect(environment).toContainEqual({ name: 'UNDERSTUDY_POOL', value: 'gpu' });
    expect(environment).toContainEqual({ name: 'UNDERSTUDY_NATS_USER', value: 'executor-gpu' });
    // Secrets of one pool are not another's.
    expect(JSON.stringify(own)).not.toContain('"ours"');
    const policies = JSON.stringify(after.filter(({ kind }) => kind === 'NetworkPolicy'));
    for (const to of ['nats', 'payments', 'sandbox'])
      expect(
        JSON.stringify(after.filter(({ metadata }) => metadata.name === `u-to-${to}`)),
      ).toContain('"executor-gpu"');
    expect(policies).toContain('["executor","executor-gpu"]');
    const users = JSON.stringify(
      after.filter(({ kind, metadata }) => kind === 'Secret' && metadata.name === 'u-credentials'),
    );
    expect(users.match(/understudy\.effect\.gpu\.\*/g)).toHaveLength(1);
    expect(users).toContain('EFFECTS.pool-gpu');
    expect(users).toContain('"nats-executor-gpu":');
    // What an upgrade must not change: selectors of deployments are for ever.
    const selectorOf = (manifests: readonly Manifest[]) =>
      manifests.find(
        ({ kind, metadata }) => kind === 'Deployment' && metadata.name === 'u-executor',
      )?.spec;
    expect(selectorOf(after)).toEqual(selectorOf(before));
  });

  test('servers are documents beside the others, and what is signed in for is kept by executors alone', () => {
    const manifests = render(
      '--set',
      'mcpServers.notes.url=https://n/mcp,executor.pools.gpu.replicas=1',
    );
    const specs = manifests.find(({ metadata }) => metadata.name === 'u-specs');
    expect(JSON.stringify(specs)).toContain('kind: McpServer\\nmetadata: { name: notes }');
    const keyOf = (name: string) => {
      const one = podsOf(manifests).find((pod) => pod.name === name);
      const entry = one?.pod.containers[0]?.env?.find(
        (variable) => variable.name === 'UNDERSTUDY_CREDENTIAL_KEY',
      );
      return JSON.parse(JSON.stringify(entry)).valueFrom.secretKeyRef;
    };
    expect(keyOf('Deployment/u-executor')).toMatchObject({ name: 'u-sign-in', key: 'executor' });
    expect(keyOf('Deployment/u-executor-gpu')).toMatchObject({
      name: 'u-sign-in',
      key: 'executor-gpu',
    });
    for (const { name, pod } of podsOf(manifests).filter((one) => !/u-executor/.test(one.name)))
      expect(JSON.stringify(pod), name).not.toContain('sign-in');
    const own = render('--set', 'executor.credentialKeySecret=ours');
    expect(own.some(({ metadata }) => metadata.name === 'u-sign-in')).toBe(false);
    expect(JSON.stringify(podsOf(own))).toContain('"name":"ours"');
  });

  test('a change of what a NATS user may do restarts the bundled NATS, a new password alone does not', () => {
    const checksum = (...args: string[]) =>
      JSON.stringify(render(...args).filter(({ metadata }) => metadata.name === 'u-nats')).match(
        /checksum\/users":"(\w+)/,
      )?.[1];
    expect(checksum()).toBeDefined();
    expect(checksum()).toBe(checksum());
    expect(checksum('--set', 'tenants.globex.agents={*}')).not.toBe(checksum());
  });

  test('the console asks for a token that was made for it, for one that is given, or believes a proxy', () => {
    const console = (...args: string[]) => {
      const manifests = render(...args);
      const container = podsOf(manifests).find(({ name }) => name === 'Deployment/u-console')?.pod
        .containers[0];
      const token = container?.env?.find(({ name }) => name === 'UNDERSTUDY_CONSOLE_TOKEN') as
        | { valueFrom?: { secretKeyRef: { name: string } } }
        | undefined;
      return {
        secrets: manifests.filter(
          ({ kind, metadata }) => kind === 'Secret' && metadata.name === 'u-console',
        ).length,
        asks: token?.valueFrom?.secretKeyRef.name,
      };
    };
    expect(console()).toEqual({ secrets: 1, asks: 'u-console' });
    expect(console('--set', 'console.existingSecret=mine')).toEqual({ secrets: 0, asks: 'mine' });
    const proxy = [
      '--set',
      'console.userHeader=X-User',
      '--set-json',
      'networkPolicy.console=[{"podSelector":{"matchLabels":{"app":"proxy"}}}]',
    ];
    expect(console(...proxy)).toEqual({ secrets: 0, asks: undefined });
    expect(
      render('--set', 'console.enabled=false', '--set-json', 'networkPolicy.console=[{}]').filter(
        ({ metadata }) => /^u-(to-)?console$/.test(metadata.name),
      ),
    ).toEqual([]);
  });

  test('authorities that are to be trusted are known to whoever speaks to servers or the world, and to nobody without being asked', () => {
    const knowing = (...args: string[]) =>
      podsOf(render(...args)).flatMap(({ name, pod }) => {
        const { env = [], volumeMounts = [] } = pod.containers[0] as {
          env?: { name: string; value?: string }[];
          volumeMounts?: { name: string; mountPath: string }[];
        };
        const file = env.find((one) => one.name === 'NODE_EXTRA_CA_CERTS')?.value;
        const mount = volumeMounts.find(({ mountPath }) => file?.startsWith(`${mountPath}/`));
        const volume = (
          pod as { volumes?: { name: string; secret?: { secretName: string } }[] }
        ).volumes?.find((one) => one.name === mount?.name);
        return file ? [[name.replace(/^.*u-/, ''), file, volume?.secret?.secretName]] : [];
      });
    expect(knowing()).toEqual([]);
    expect(knowing('--set', 'trustedCa.secret=ours,trustedCa.key=all.pem').sort()).toEqual(
      ['cli', 'console', 'executor', 'gateway', 'runtime', 'test'].map((name) => [
        name,
        '/etc/understudy/ca/all.pem',
        'ours',
      ]),
    );
  });

  test('with servers and a model of its own it brings none', () => {
    const names = render(
      '--set',
      'nats.url=nats://mine:4222,nats.existingSecret=a,nats.streamReplicas=3,redis.url=redis://mine:6379,redis.existingSecret=b,example.enabled=false',
    ).map(({ kind, metadata }) => `${kind}/${metadata.name}`);
    expect(
      names.filter(
        (name) =>
          /u-(nats|redis|payments|model)$|credentials/.test(name) &&
          !name.startsWith('NetworkPolicy'),
      ),
    ).toEqual([]);
  });

  test.each([
    ['', [[6_379]]],
    ['rediss://mine:7000/2', [[7_000]]],
    ['redis-sentinel://a:26380\\,b#m', [[26_380, 26_379, 6_379]]],
    ['redis-cluster://a:7000\\,b:7001\\,c:7000', [[7_000, 7_001]]],
  ])('lets runtimes out to the ports of Redis at "%s"', (url, ports) => {
    const policy = render('--set', `redis.url=${url},redis.existingSecret=s`).find(
      ({ kind, metadata }) => kind === 'NetworkPolicy' && metadata.name === 'u-from-runtime',
    );
    const { egress = [] } = (policy?.spec ?? {}) as { egress?: { ports: { port: number }[] }[] };
    expect(egress.slice(1, 2).map(({ ports: found }) => found.map(({ port }) => port))).toEqual(
      ports,
    );
  });

  test.each([
    ['', [4_222]],
    ['nats://a:4300,nats://b:4301,c', [4_300, 4_301, 4_222]],
    ['tls://u:p@mine', [4_222]],
  ])('lets runtimes out to the ports of NATS at "%s"', (url, ports) => {
    const policy = render(
      '--set',
      `nats.url=${url.replaceAll(',', '\\,')},nats.existingSecret=s`,
    ).find(({ kind, metadata }) => kind === 'NetworkPolicy' && metadata.name === 'u-from-runtime');
    const { egress = [] } = (policy?.spec ?? {}) as { egress?: { ports: { port: number }[] }[] };
    expect(egress[0]?.ports.map(({ port }) => port)).toEqual(ports);
  });

  test('sandboxes have a namespace of their own: what is theirs lies there, and executors may touch pods nowhere else', () => {
    const apart = render('--set', 'sandbox.namespace=boxes');
    const there = apart
      .filter(({ metadata }) => metadata.namespace === 'boxes')
      .map(({ kind, metadata }) => `${kind}/${metadata.name}`);
    expect(there.sort()).toEqual([
      'Deployment/u-sandbox',
      'NetworkPolicy/u-deny',
      'NetworkPolicy/u-from-sandbox',
      'NetworkPolicy/u-to-sandbox',
      'Role/u-executor',
      'RoleBinding/u-executor',
      'Service/u-sandbox',
    ]);
    expect(
      apart.filter(({ kind, metadata }) => kind === 'Role' && metadata.name === 'u-executor')
        .length,
    ).toBe(1);
    expect(JSON.stringify(apart)).toContain('{"name":"UNDERSTUDY_NAMESPACE","value":"boxes"}');
    // The other parts read their ConfigMaps where they are.
    expect(JSON.stringify(apart)).toContain('{"name":"UNDERSTUDY_NAMESPACE","value":"n"}');
    const peers =
      JSON.stringify(apart.filter(({ kind }) => kind === 'NetworkPolicy')).match(
        /kubernetes\.io\/metadata\.name":"(n|boxes)"/g,
      ) ?? [];
    expect(peers.sort()).toEqual(
      ['boxes', 'boxes', 'n', 'n'].map((name) => `kubernetes.io/metadata.name":"${name}"`),
    );
    expect(render('--set', 'sandbox.namespace=n').length).toBe(render().length);
  });

  describe('as a part of another chart', () => {
    const parent = mkdtempSync(join(tmpdir(), 'understudy-parent-'));
    afterAll(() => rmSync(parent, { recursive: true, force: true }));
    const renderParent = (...args: string[]) => {
      const { ok, text } = helm(
        'template',
        'shop',
        parent,
        '--namespace',
        'n',
        '--kube-version',
        '1.34.0',
        ...args,
      );
      if (!ok) throw new Error(text);
      return parseAllDocuments(text).flatMap((document) =>
        document.toJS() ? [document.toJS() as Manifest] : [],
      );
    };
    beforeAll(() => {
      mkdirSync(join(parent, 'charts'));
      cpSync(chart, join(parent, 'charts/understudy'), { recursive: true });
      const dependency = [
        'dependencies:',
        '  - name: understudy',
        '    version: "*.*.*"',
        '    condition: understudy.enabled',
      ];
      writeFileSync(
        join(parent, 'Chart.yaml'),
        ['apiVersion: v2', 'name: shop', 'version: 1.0.0', ...dependency, ''].join('\n'),
      );
      writeFileSync(
        join(parent, 'values.yaml'),
        'global: { imageRegistry: registry.example, theirs: 1 }\nunderstudy: { enabled: true, shards: 8 }\n',
      );
    });

    test('it is named after the release, takes the values of the parent, and knows its registry', () => {
      const manifests = renderParent();
      expect(manifests.length).toBeGreaterThan(30);
      expect(
        manifests
          .map(({ metadata }) => metadata.name)
          .filter((name) => !name.startsWith('shop-understudy-')),
      ).toEqual([]);
      expect(JSON.stringify(manifests)).not.toContain('"app.kubernetes.io/instance":"shop"');
      const images = podsOf(manifests).flatMap(({ pod }) =>
        pod.containers.map(({ image }) => image),
      );
      expect(images.length).toBeGreaterThan(5);
      expect(images.filter((image) => !image?.startsWith('registry.example/'))).toEqual([]);
      expect(JSON.stringify(manifests)).toContain('{"name":"UNDERSTUDY_SHARDS","value":"8"}');
    });

    test('switched off, it renders nothing; a wrong value is refused under its name', () => {
      expect(renderParent('--set', 'understudy.enabled=false')).toEqual([]);
      expect(() => renderParent('--set', 'understudy.shards=many')).toThrow(/shards/);
    });
  });
});
