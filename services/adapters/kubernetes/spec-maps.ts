/** Specs from the ConfigMaps of a namespace that carry our label: `kubectl apply` makes an agent live. */
import type { V1ConfigMap } from '@kubernetes/client-node';
import type { SpecTexts } from '../../ports/specs.ts';
import type { Telemetry } from '../../ports/telemetry.ts';
import { type Cluster, hold, within } from './cluster.ts';

export const specLabel = 'understudy.dev/specs';

export function configMapTexts(
  cluster: Cluster,
  instance: string,
  telemetry: Telemetry,
): SpecTexts & { stop(): void } {
  const { namespace, core } = cluster;
  const labelSelector = `${specLabel}=true`;
  const listeners = new Set<() => void>();
  let maps: ReadonlyMap<string, V1ConfigMap> = new Map();
  let known: () => void = () => undefined;
  const isKnown = new Promise<void>((resolve) => {
    known = resolve;
  });
  let before = '';
  const holding = hold<V1ConfigMap>(cluster, {
    path: `/api/v1/namespaces/${namespace}/configmaps`,
    labelSelector,
    list: async () => {
      const list = await core.listNamespacedConfigMap({ namespace, labelSelector });
      return { items: list.items, resourceVersion: list.metadata?.resourceVersion ?? '' };
    },
    keyOf: (map) => map.metadata?.name ?? '',
    onState(state) {
      maps = new Map(state);
      known();
      const now = JSON.stringify([...textsOf(maps)]);
      if (now === before) return;
      before = now;
      for (const listener of listeners) listener();
    },
    onTrouble: (cause) =>
      telemetry.log('warn', 'the ConfigMaps cannot be watched now; what is known stays', {
        namespace,
        cause,
      }),
  });
  return {
    async read() {
      await within(isKnown, 30_000, `ConfigMaps of ${namespace}`);
      return new Map(textsOf(maps));
    },
    follow(onChange) {
      listeners.add(onChange);
      return { stop: () => void listeners.delete(onChange) };
    },
    async refuse(name, problems) {
      const map = maps.get(name.split('/')[0] ?? '');
      if (!map?.metadata?.name) return;
      const message = problems
        .map(({ file, field, message: what }) => `${file}${field ? ` ${field}` : ''}: ${what}`)
        .join('\n');
      const at = new Date();
      await core.createNamespacedEvent({
        namespace,
        body: {
          metadata: { generateName: `${map.metadata.name}-`, namespace },
          involvedObject: {
            apiVersion: 'v1',
            kind: 'ConfigMap',
            name: map.metadata.name,
            namespace,
            ...(map.metadata.uid ? { uid: map.metadata.uid } : {}),
          },
          type: 'Warning',
          reason: 'SpecRefused',
          message: message.slice(0, 1_000),
          source: { component: 'understudy', host: instance },
          firstTimestamp: at,
          lastTimestamp: at,
          count: 1,
        },
      });
    },
    stop: () => holding.stop(),
  };
}

function* textsOf(maps: ReadonlyMap<string, V1ConfigMap>): Generator<[string, string]> {
  for (const [name, map] of [...maps].sort(([left], [right]) => (left < right ? -1 : 1))) {
    for (const [key, text] of Object.entries(map.data ?? {}))
      if (/\.ya?ml$/.test(key)) yield [`${name}/${key}`, text];
  }
}
