/** An installation on the cluster of the current context, and ways to look into it. */
import { command, type Kubectl, kubectlFor } from '../../chaos/kubectl.ts';
import { environment } from '../support/helm.ts';

Object.assign(process.env, { PATH: environment.PATH, KUBECONFIG: environment.KUBECONFIG });

/** Ways to look into what is installed in a namespace. */
export interface Use extends Kubectl {
  /** Run JavaScript in a pod of ours, as an ES module that may import the project's own files. @returns what it printed */
  script(pod: string, code: string): Promise<string>;
  /** Start a pod of the image with that code, as an ES module, and these labels and environment. */
  startPod(
    name: string,
    code: string,
    options?: { readonly labels?: Record<string, string>; readonly env?: readonly object[] },
  ): Promise<void>;
  /** Wait until a pod has ended, and remove it. @returns what it printed */
  outputOf(name: string, withinMs?: number): Promise<string>;
  podOf(component: string, index?: number): Promise<string>;
  addressOf(component: string): Promise<string>;
  secret(key: string, name?: string): Promise<string>;
}

export interface Installation extends Use {
  upgrade(...args: string[]): Promise<void>;
}

export async function installIn(namespace: string, ...args: string[]): Promise<Installation> {
  // What an earlier run left, or is still leaving, must not be what is looked at.
  await command(
    'kubectl',
    ['delete', 'namespace', namespace, '--ignore-not-found', '--wait', '--timeout=3m'],
    200_000,
  );
  await command('kubectl', ['create', 'namespace', namespace]);
  await command('kubectl', [
    'label',
    '--overwrite',
    'namespace',
    namespace,
    'pod-security.kubernetes.io/enforce=restricted',
  ]);
  const upgrade = async (...more: string[]) =>
    void (await command(
      'helm',
      [
        'upgrade',
        '--install',
        'u',
        'charts/understudy',
        '--namespace',
        namespace,
        '--reset-values',
        '--wait',
        '--timeout',
        '4m',
        ...args,
        ...more,
      ],
      300_000,
    ));
  await upgrade();
  return { ...useOf(namespace, 'u'), upgrade };
}

/** @param name  what the installation is called: in the labels of its pods, and before its credentials */
export function useOf(namespace: string, name: string): Use {
  const kubectl = kubectlFor(namespace);
  const running = (component: string) => [
    'get',
    'pods',
    '-l',
    `app.kubernetes.io/instance=${name},app.kubernetes.io/component=${component}`,
    '--field-selector=status.phase=Running',
  ];
  return {
    ...kubectl,
    podOf: (component, index = 0) =>
      kubectl.run(...running(component), '-o', `jsonpath={.items[${index}].metadata.name}`),
    startPod: (pod, code, { labels = {}, env = [] } = {}) =>
      kubectl.apply({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: pod, labels },
        spec: {
          restartPolicy: 'Never',
          automountServiceAccountToken: false,
          securityContext: {
            runAsNonRoot: true,
            runAsUser: 10_001,
            seccompProfile: { type: 'RuntimeDefault' },
          },
          containers: [
            {
              name: 'script',
              image: 'understudy:0.1.0',
              command: ['node', '--input-type=module', '-e', code],
              env,
              securityContext: {
                allowPrivilegeEscalation: false,
                readOnlyRootFilesystem: true,
                capabilities: { drop: ['ALL'] },
              },
            },
          ],
        },
      }),
    async outputOf(name, withinMs = 120_000) {
      for (
        const end = Date.now() + withinMs;
        Date.now() < end;
        await new Promise((resolve) => setTimeout(resolve, 500))
      ) {
        if (
          /Succeeded|Failed/.test(
            await kubectl.run('get', 'pod', name, '-o', 'jsonpath={.status.phase}'),
          )
        )
          break;
      }
      const text = await kubectl.run('logs', name);
      await kubectl.remove('pod', name);
      return text;
    },
    script: (pod, code) =>
      kubectl.run('exec', pod, '--', 'node', '--input-type=module', '-e', code),
    addressOf: (component) =>
      kubectl.run(...running(component), '-o', 'jsonpath={.items[0].status.podIP}'),
    secret: async (key, of = `${name}-credentials`) =>
      Buffer.from(
        await kubectl.run('get', 'secret', of, '-o', `jsonpath={.data.${key}}`),
        'base64',
      ).toString(),
  };
}
