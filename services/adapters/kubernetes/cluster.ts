/** The API server as a pod sees it: its service account, its namespace. */
import { CoreV1Api, DiscoveryV1Api, KubeConfig, Watch } from '@kubernetes/client-node';
import { Unavailable } from '../../core/errors.ts';

export interface Cluster {
  readonly namespace: string;
  readonly core: CoreV1Api;
  readonly discovery: DiscoveryV1Api;
  readonly config: KubeConfig;
}

/** @param namespace  where labelled ConfigMaps and the sandbox pool are */
export function inCluster(namespace: string): Cluster {
  const config = new KubeConfig();
  config.loadFromDefault(); // a pod's service account, or KUBECONFIG on a desk
  return {
    namespace,
    config,
    core: config.makeApiClient(CoreV1Api),
    discovery: config.makeApiClient(DiscoveryV1Api),
  };
}

interface Listed<Item> {
  readonly items: readonly Item[];
  readonly resourceVersion: string;
}

export interface WatchOptions<Item> {
  readonly path: string;
  readonly labelSelector: string;
  readonly list: () => Promise<Listed<Item>>;
  readonly keyOf: (item: Item) => string;
  /** Everything that is there now: after the first list, and after each change. */
  readonly onState: (items: ReadonlyMap<string, Item>) => void;
  readonly onTrouble?: (cause: string) => void;
}

const roundMs = 1_000; // at the least, from list to list
const watchSeconds = 25; // the client gives up on any request after 30

/**
 * Hold a list and watch it. The list is read anew whenever a watch ends, and a watch ends after 25 s at the latest, by the server's
 * clock or by ours: a watch that has fallen silent misses half a minute, not a night.
 */
export function hold<Item>(cluster: Cluster, options: WatchOptions<Item>): { stop(): void } {
  let isStopped = false;
  let abort: AbortController | undefined;
  const round = async () => {
    const { items, resourceVersion } = await options.list();
    const state = new Map(items.map((item) => [options.keyOf(item), item]));
    options.onState(state);
    await new Promise<void>((resolve, reject) => {
      const query = {
        labelSelector: options.labelSelector,
        resourceVersion,
        timeoutSeconds: watchSeconds,
        allowWatchBookmarks: true,
      };
      const watchdog = setTimeout(
        () => {
          abort?.abort();
          resolve();
        },
        (watchSeconds + 10) * 1_000,
      );
      const ended = (error?: unknown) => {
        clearTimeout(watchdog);
        if (error && (error as Error).name !== 'AbortError') reject(error as Error);
        else resolve();
      };
      new Watch(cluster.config)
        .watch(
          options.path,
          query,
          (phase: string, item: Item) => {
            if (phase === 'ADDED' || phase === 'MODIFIED') state.set(options.keyOf(item), item);
            else if (phase === 'DELETED') state.delete(options.keyOf(item));
            else {
              // What we know is too old for it, or it cannot go on.
              if (phase !== 'ERROR') return;
              ended(new Error((item as { message?: string }).message ?? 'the watch was ended'));
              abort?.abort();
              return;
            }
            options.onState(state);
          },
          ended,
        )
        .then((controller) => {
          abort = controller;
          if (isStopped) controller.abort();
        }, ended);
    });
  };
  void (async () => {
    for (let failures = 0; !isStopped; ) {
      const from = performance.now();
      try {
        await round();
        failures = 0;
        // An API server that ends watches at once is not asked again at once.
        await new Promise((resolve) =>
          setTimeout(resolve, Math.max(0, roundMs - (performance.now() - from))),
        );
      } catch (error) {
        failures += 1;
        options.onTrouble?.(
          error instanceof Error ? error.message.slice(0, 200) : 'the API server did not answer',
        );
        await new Promise((resolve) => setTimeout(resolve, Math.min(5_000, 200 * 2 ** failures)));
      }
    }
  })();
  return {
    stop() {
      isStopped = true;
      abort?.abort();
    },
  };
}

/** Wait for what `ready` resolves, for so long at the most. @throws Unavailable */
export async function within<Value>(
  ready: Promise<Value>,
  ms: number,
  what: string,
): Promise<Value> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      ready,
      new Promise<never>((_, reject) => {
        timer = setTimeout(
          () =>
            reject(
              new Unavailable(
                'KUBERNETES_UNAVAILABLE',
                `${what}: the API server did not answer within ${ms} ms`,
              ),
            ),
          ms,
        );
      }),
    ]);
  } finally {
    clearTimeout(timer);
  }
}
