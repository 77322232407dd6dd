/**
 * Sandboxes as pods of a warm pool.
 *
 * Free ones are the endpoints of a Service. Claiming asks the sandbox itself, over HTTP: no write to the API server stands between a
 * tool call and its sandbox. Afterwards, off that path, the claimed pod loses its label `pool: free`, so its ReplicaSet lets go of it and
 * makes another; when its session is done with it, it is deleted.
 *
 * Owns     nothing that must survive: every executor sees the same pods, and any of them cleans up after one that died.
 */
import {
  AppsV1Api,
  PatchStrategy,
  setHeaderOptions,
  type V1EndpointSlice,
  type V1Pod,
} from '@kubernetes/client-node';
import { Unavailable } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import type { Sandbox, Sandboxes } from '../../ports/sandboxes.ts';
import type { Telemetry } from '../../ports/telemetry.ts';
import { type Cluster, hold } from './cluster.ts';

export interface PoolSettings {
  /** Of the Service and of the Deployment. */
  readonly service: string;
  readonly warm: number;
  readonly max: number;
  readonly waitMs: number;
}

type Claim = (
  name: string,
  url: string,
  holder: { readonly tenant: string; readonly session: string },
) => Promise<string | undefined>;

const poolLabel = 'understudy.dev/pool';
const serviceLabel = 'understudy.dev/sandbox-of';
const port = 8080;
const sweepMs = 5_000;
const strikesMax = Math.ceil(limits.sandboxOrphanMs / sweepMs); // one that we cannot reach may well be reached by its holder

export function podSandboxes(
  cluster: Cluster,
  { service, warm, max, waitMs }: PoolSettings,
  claim: Claim,
  telemetry: Telemetry,
): Sandboxes {
  const { namespace, core, discovery, config } = cluster;
  const apps = config.makeApiClient(AppsV1Api);
  let free = new Map<string, string>(); // pod → address
  let claimed: ReadonlyMap<string, V1Pod> = new Map();
  /** Claimed by us or found claimed, while the API server still calls them free. */
  const spent = new Set<string>();
  const mine = new Set<string>();
  const strikes = new Map<string, number>();
  /** Sweeps for which more were asked for than we want, and nobody took any. */
  let quietSweeps = 0;
  const waiting = new Set<() => void>();
  const wakeOne = () => {
    const [first] = waiting;
    first?.();
  };
  /** Wait until something has changed, or for so long. */
  const news = (ms: number) =>
    new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer);
        waiting.delete(end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      waiting.add(end);
    });
  /** Claims that are being asked of a sandbox just now. */
  let asking = 0;
  const inUse = () => asking + claimed.size + [...mine].filter((name) => !claimed.has(name)).length;
  const measure = () => {
    telemetry.gauge('sandboxesFree', [...free.keys()].filter((name) => !spent.has(name)).length);
    telemetry.gauge('sandboxesClaimed', inUse());
  };
  const trouble = (what: string) => (cause: string) =>
    telemetry.log('warn', 'sandboxes cannot be watched now', { what, cause });

  const sliceSelector = `kubernetes.io/service-name=${service}`;
  const slices = hold<V1EndpointSlice>(cluster, {
    path: `/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices`,
    labelSelector: sliceSelector,
    list: async () => {
      const list = await discovery.listNamespacedEndpointSlice({
        namespace,
        labelSelector: sliceSelector,
      });
      return { items: list.items, resourceVersion: list.metadata?.resourceVersion ?? '' };
    },
    keyOf: (slice) => slice.metadata?.name ?? '',
    onState(state) {
      const now = new Map<string, string>();
      for (const slice of state.values()) {
        for (const { addresses, conditions, targetRef } of slice.endpoints ?? [])
          if (conditions?.ready && targetRef?.name && addresses[0])
            now.set(targetRef.name, addresses[0]);
      }
      free = now;
      for (const name of spent) if (!now.has(name) && !mine.has(name)) spent.delete(name);
      measure();
      for (let count = 0; count < now.size; count += 1) wakeOne();
    },
    onTrouble: trouble('endpoints'),
  });
  const podSelector = `${poolLabel}=claimed,${serviceLabel}=${service}`;
  const pods = hold<V1Pod>(cluster, {
    path: `/api/v1/namespaces/${namespace}/pods`,
    labelSelector: podSelector,
    list: async () => {
      const list = await core.listNamespacedPod({ namespace, labelSelector: podSelector });
      return { items: list.items, resourceVersion: list.metadata?.resourceVersion ?? '' };
    },
    keyOf: (pod) => pod.metadata?.name ?? '',
    onState(state) {
      if ([...state.keys()].some((name) => !claimed.has(name))) quietSweeps = 0; // somebody takes what is started
      claimed = new Map(state);
      measure();
      wakeOne();
    },
    onTrouble: trouble('pods'),
  });

  /** Its identity does not change while we run; how many it is to have, other executors say as well. */
  let deployment: { readonly uid: string | undefined; readonly replicas: number } | undefined;
  const look = async () => {
    const { metadata, spec } = await apps.readNamespacedDeploymentScale({
      namespace,
      name: service,
    });
    deployment = { uid: metadata?.uid, replicas: spec?.replicas ?? 0 };
    return deployment;
  };
  /** Take it out of the pool: its ReplicaSet makes another. It belongs to the Deployment from now on, and goes when that goes. */
  const detach = async (name: string): Promise<void> => {
    const { uid } = deployment ?? (await look());
    const ownerReferences = uid
      ? [{ apiVersion: 'apps/v1', kind: 'Deployment', name: service, uid }]
      : undefined;
    const body = {
      metadata: {
        labels: { [poolLabel]: 'claimed', [serviceLabel]: service },
        ...(ownerReferences ? { ownerReferences } : {}),
      },
    };
    await core.patchNamespacedPod(
      { namespace, name, body },
      setHeaderOptions('Content-Type', PatchStrategy.MergePatch),
    );
  };
  const remove = async (name: string): Promise<void> => {
    try {
      await core.deleteNamespacedPod({ namespace, name, gracePeriodSeconds: 0 });
    } catch (error) {
      if ((error as { code?: number }).code !== 404) throw error; // it is gone already
    }
  };
  const underWay = new Set<Promise<void>>();
  const later = (what: string, name: string, work: () => Promise<void>) => {
    const one = work().catch((error: unknown) => {
      // The next sweep does it, here or at another executor.
      const cause = error instanceof Error ? error.message.slice(0, 200) : '';
      telemetry.log(
        'warn',
        'the API server did not do what was asked; the next sweep tries again',
        { what, pod: name, cause },
      );
    });
    underWay.add(one);
    void one.finally(() => underWay.delete(one));
  };

  const open = () => [...free].filter(([name]) => !spent.has(name));
  /** Claims that wait for a sandbox: as many more are started, as far as `max` goes. */
  let seeking = 0;
  const wanted = () => Math.max(0, Math.min(max - inUse(), warm + seeking));
  const scale = async (replicas: number): Promise<void> => {
    await apps.patchNamespacedDeploymentScale(
      { namespace, name: service, body: { spec: { replicas } } },
      setHeaderOptions('Content-Type', PatchStrategy.MergePatch),
    );
  };
  let isGrowing = false;
  /** One at a time, and from what is really there: what another executor has asked for must not be taken back. */
  const grow = () => {
    if (isGrowing || wanted() <= (deployment?.replicas ?? 0)) return;
    isGrowing = true;
    later('scale', service, async () => {
      try {
        for (let replicas = (await look()).replicas; wanted() > replicas; ) {
          replicas = wanted();
          await scale(replicas);
        }
      } finally {
        isGrowing = false;
      }
    });
  };
  /** One that was asked for has come and is taken: its ReplicaSet need not make another in its place. */
  const giveBack = async (): Promise<void> => {
    const { replicas } = await look();
    if (replicas > wanted()) await scale(Math.max(wanted(), replicas - 1));
  };
  let idleSweeps = 0;
  let isSweeping = false;
  const sweepOnce = async () => {
    measure();
    // First out of the pool with what is claimed, so that a smaller pool is not made smaller by one that works.
    for (const [name, address] of free) {
      if (!spent.has(name) && (await stateOf(address))?.claimed) spent.add(name);
      if (spent.has(name)) later('detach', name, () => detach(name));
    }
    await Promise.all(underWay);
    // It grows at once (grow). It shrinks when some have been idle for two sweeps, since others may wait for what is being started; and
    // when nobody has taken any for a minute, since what is being started may never be ready.
    const { replicas } = await look();
    idleSweeps = open().length > wanted() ? idleSweeps + 1 : 0;
    quietSweeps = replicas > wanted() ? quietSweeps + 1 : 0;
    if (wanted() > replicas) grow();
    else if (wanted() < replicas && (idleSweeps >= 2 || quietSweeps >= 12))
      later('scale', service, () => scale(wanted()));
    for (const [name, pod] of claimed) {
      if (mine.has(name) && pod.status?.phase === 'Running') continue;
      const isOver = pod.status?.phase === 'Failed' || pod.status?.phase === 'Succeeded';
      const state = isOver || !pod.status?.podIP ? undefined : await stateOf(pod.status.podIP);
      // A container that was started again is nobody's: what it had is gone.
      const isOrphan =
        state && (!state.claimed || (state.running === 0 && state.idleMs > limits.sandboxOrphanMs));
      const strike =
        state && !isOrphan ? 0 : (strikes.get(name) ?? 0) + (isOver || isOrphan ? strikesMax : 1);
      strikes.set(name, strike);
      if (strike < strikesMax) continue;
      telemetry.log('info', 'orphaned sandbox removed', { pod: name, phase: pod.status?.phase });
      strikes.delete(name);
      later('delete', name, () => remove(name));
    }
    for (const name of strikes.keys()) if (!claimed.has(name)) strikes.delete(name);
  };
  const sweep = async () => {
    if (isSweeping) return;
    isSweeping = true;
    try {
      await sweepOnce();
    } catch (error) {
      telemetry.log(
        'warn',
        'the pool of sandboxes could not be looked after; the next sweep tries again',
        { cause: error instanceof Error ? error.message.slice(0, 200) : '' },
      );
    } finally {
      isSweeping = false;
    }
  };
  /** One that is free now, if there is any. */
  const take = async (
    holder: { readonly tenant: string; readonly session: string },
    wasAskedFor: boolean,
  ): Promise<Sandbox | undefined> => {
    for (;;) {
      const ready = open();
      if (ready.length === 0 || inUse() >= max) return undefined;
      const [name, address] = ready[Math.floor(Math.random() * ready.length)]!;
      spent.add(name);
      asking += 1;
      const url = `http://${address}:${port}`;
      let token: string | undefined;
      try {
        token = await claim(name, url, holder);
        if (token !== undefined) mine.add(name);
      } catch {
        free.delete(name); // it does not answer: the endpoints will tell when it is back
        spent.delete(name);
      } finally {
        asking -= 1;
      }
      if (token === undefined) continue;
      measure();
      later('detach', name, async () => {
        await detach(name);
        if (wasAskedFor) await giveBack();
      });
      return { name, url, token };
    }
  };

  const janitor = setInterval(() => void sweep(), sweepMs);
  void sweep();

  return {
    async claim(holder, signal) {
      const deadline = Date.now() + waitMs;
      const first = signal.aborted ? undefined : await take(holder, false);
      if (first) return first;
      seeking += 1;
      try {
        for (;;) {
          grow();
          if (signal.aborted)
            throw new Unavailable('SANDBOX_NONE_FREE', 'nobody waits for it any more');
          const next = await take(holder, true);
          if (next) return next;
          const leftMs = deadline - Date.now();
          if (leftMs <= 0)
            throw new Unavailable(
              'SANDBOX_NONE_FREE',
              `no sandbox came free within ${waitMs} ms: ${inUse()} of at most ${max} are in use, ${open().length} are ready`,
            );
          await news(Math.min(leftMs, 250));
        }
      } finally {
        seeking -= 1;
      }
    },
    discard({ name }) {
      mine.delete(name);
      later('delete', name, () => remove(name));
    },
    async stop() {
      clearInterval(janitor);
      // What is being deleted would be an orphan for a minute.
      await Promise.race([
        Promise.all(underWay),
        new Promise((resolve) => setTimeout(resolve, 3_000)),
      ]);
      slices.stop();
      pods.stop();
    },
  };

  async function stateOf(
    address: string,
  ): Promise<{ claimed: boolean; idleMs: number; running: number } | undefined> {
    try {
      const answer = await fetch(`http://${address}:${port}/state`, {
        signal: AbortSignal.timeout(1_000),
      });
      const {
        claimed: isClaimed,
        idleMs,
        running,
      } = (await answer.json()) as Record<string, unknown>;
      return { claimed: isClaimed === true, idleMs: Number(idleMs), running: Number(running) };
    } catch {
      return undefined;
    }
  }
}
