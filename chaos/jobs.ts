/** The pods of a chaos run that are not part of the system: load and checker. */
import type { Counters } from './checker/counters.ts';
import type { Fault } from './checker/history.ts';

const image = 'understudy:0.1.0';
const secret = (name: string, key: string) => ({
  name,
  valueFrom: { secretKeyRef: { name: 'understudy-credentials', key } },
});
const pod = (containers: object[]) => ({
  restartPolicy: 'Never',
  automountServiceAccountToken: false,
  terminationGracePeriodSeconds: 30,
  securityContext: {
    runAsNonRoot: true,
    runAsUser: 10_001,
    seccompProfile: { type: 'RuntimeDefault' },
  },
  containers: containers.map((container) => ({
    image,
    securityContext: {
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    },
    ...container,
  })),
});
const client = { 'understudy.dev/client': 'true' };

export const loadPod = (run: string, perSecond: number) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'chaos-load', labels: { app: 'chaos-load', ...client } },
  spec: {
    // Beside the outside world: a scenario may take any other node away.
    affinity: {
      podAffinity: {
        requiredDuringSchedulingIgnoredDuringExecution: [
          {
            labelSelector: { matchLabels: { app: 'chaos-world' } },
            topologyKey: 'kubernetes.io/hostname',
          },
        ],
      },
    },
    ...pod([
      {
        name: 'load',
        command: ['node', 'chaos/load.ts'],
        env: [
          { name: 'NATS_URL', value: 'nats://understudy-nats:4222' },
          { name: 'WORLD_URL', value: 'http://chaos-world:8080' },
          { name: 'RUN', value: run },
          { name: 'PER_SECOND', value: String(perSecond) },
          secret('PASSWORD_ACME', 'nats-tenant-acme'),
          secret('PASSWORD_GLOBEX', 'nats-tenant-globex'),
        ],
      },
    ]),
  },
});

export const checkerJob = (
  run: string,
  faults: readonly Fault[],
  options: {
    readonly before: Counters;
    readonly zombies: boolean;
    readonly counters: boolean;
    readonly boundMs: number;
  },
) => ({
  apiVersion: 'batch/v1',
  kind: 'Job',
  metadata: { name: 'chaos-checker' },
  spec: {
    backoffLimit: 0,
    template: {
      metadata: { labels: { app: 'chaos-checker', ...client } },
      spec: pod([
        {
          name: 'checker',
          command: ['node', 'chaos/checker/main.ts'],
          env: [
            { name: 'UNDERSTUDY_NATS_URL', value: 'nats://understudy-nats:4222' },
            { name: 'UNDERSTUDY_NATS_USER', value: 'operator' },
            secret('UNDERSTUDY_NATS_PASSWORD', 'nats-operator'),
            { name: 'UNDERSTUDY_REDIS_URL', value: 'redis://understudy-redis:6379' },
            { name: 'UNDERSTUDY_REDIS_USER', value: 'operator' },
            secret('UNDERSTUDY_REDIS_PASSWORD', 'redis-operator'),
            { name: 'WORLD_URL', value: 'http://chaos-world:8080' },
            { name: 'RUNTIMES', value: 'understudy-runtime' },
            { name: 'RUN', value: run },
            { name: 'FAULTS', value: JSON.stringify(faults) },
            { name: 'ZOMBIES', value: String(options.zombies) },
            { name: 'BEFORE', value: JSON.stringify(options.before) },
            { name: 'COUNTERS', value: String(options.counters) },
            { name: 'BOUND_MS', value: String(options.boundMs) },
          ],
        },
      ]),
    },
  },
});
