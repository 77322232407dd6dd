/** Which part of an installation reaches which other, and which of its network policies lets it. */
import type { Installation } from './in-cluster.ts';

/** What each part needs, and nothing more. */
export const edges: Readonly<Record<string, readonly string[]>> = {
  runtime: ['api', 'nats', 'redis'],
  gateway: ['api', 'model', 'nats', 'redis'],
  executor: ['api', 'nats', 'payments', 'sandbox'],
  'executor-heavy': ['api', 'nats', 'payments', 'sandbox'],
  console: ['nats'],
  cli: ['nats'],
};
const targets = [
  'nats',
  'redis',
  'model',
  'payments',
  'sandbox',
  'gateway',
  'console',
  'api',
  'internet',
] as const;
const ports: Readonly<Record<string, number>> = {
  nats: 4_222,
  redis: 6_379,
  console: 8_081,
  api: 443,
  internet: 443,
};

/** The targets that a part can open a connection to, sorted. */
export async function reachedBy(
  system: Installation,
  part: string,
  among: readonly string[] = targets,
): Promise<string[]> {
  const addressOf = (target: string) =>
    target === 'internet'
      ? '1.1.1.1'
      : target === 'api'
        ? system.run(
            'get',
            'service',
            'kubernetes',
            '--namespace',
            'default',
            '-o',
            'jsonpath={.spec.clusterIP}',
          )
        : system.addressOf(target);
  const wanted = await Promise.all(
    among
      .filter((target) => target !== part)
      .map(async (target) => [target, await addressOf(target), ports[target] ?? 8_080] as const),
  );
  const text = await system.script(
    part === 'cli' ? 'deployment/u-cli' : await system.podOf(part),
    `const net = await import('node:net');
     const connects = (host, port) => new Promise((resolve) => { const socket = net.connect({ host, port }); const end = (is) => { socket.destroy(); resolve(is); }; socket.setTimeout(1500, () => end(false)); socket.once('connect', () => end(true)); socket.once('error', () => end(false)); });
     console.log(JSON.stringify((await Promise.all(${JSON.stringify(wanted)}.map(async ([name, host, port]) => [name, await connects(host, port)]))).filter(([, is]) => is).map(([name]) => name)));`,
  );
  return (JSON.parse(text.trim().split('\n').at(-1) ?? '[]') as string[]).sort();
}

interface Policy {
  readonly metadata: { readonly name: string; readonly labels?: Record<string, string> };
  readonly spec: {
    readonly policyTypes: readonly string[];
    readonly egress?: readonly unknown[];
    readonly ingress?: readonly unknown[];
  };
}

/** Every rule of a policy, taken out one at a time; the policy is as it was when this ends. */
export async function withoutEachRule(
  system: Installation,
  name: string,
  look: (rule: number) => Promise<void>,
): Promise<void> {
  const { metadata, spec } = await system.json<Policy>('get', 'networkpolicy', name);
  const whole = {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { name, labels: metadata.labels },
    spec,
  };
  const [side, rules] = spec.egress
    ? (['egress', spec.egress] as const)
    : (['ingress', spec.ingress ?? []] as const);
  try {
    for (let rule = 0; rule < rules.length; rule += 1) {
      await system.apply({
        ...whole,
        spec: { ...spec, [side]: rules.filter((_, index) => index !== rule) },
      });
      await look(rule);
    }
  } finally {
    await system.apply(whole);
  }
}
