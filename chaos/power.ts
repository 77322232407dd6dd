/**
 * A node loses its power: all its pods end at once and nobody tells anyone. Chaos Mesh cannot do that, so two shell commands do, which
 * find the node's name in $NODE: NODE_OFF and NODE_ON.
 *
 *   NODE_OFF='gcloud compute instances stop "$NODE"' NODE_ON='gcloud compute instances start "$NODE"' make chaos-cluster ARGS=node-power-loss
 */
import type { Fault } from './checker/history.ts';
import { command, type Kubectl } from './kubectl.ts';

export const powerLoss = {
  name: 'node-power-loss',
  hypothesis:
    'a node with all its pods is gone at once: what ran on it goes on elsewhere, or where its only copy lies, waits for the power to come back',
} as const;

/** Commands to cut a node and bring it back, where someone has given them. */
export function switches(): { readonly off: string; readonly on: string } | undefined {
  const { NODE_OFF: off, NODE_ON: on } = process.env;
  return off && on ? { off, on } : undefined;
}

const isReady = async (node: string): Promise<boolean> => {
  const text = await command('kubectl', [
    'get',
    'node',
    node,
    '--output',
    'jsonpath={.status.conditions[?(@.type=="Ready")].status}',
  ]);
  return text.trim() === 'True';
};

async function until(
  what: string,
  condition: () => Promise<boolean>,
  withinMs: number,
): Promise<void> {
  for (
    const end = Date.now() + withinMs;
    Date.now() < end;
    await new Promise((resolve) => setTimeout(resolve, 500))
  )
    if (await condition().catch(() => false)) return;
  throw new Error(`${what}: not within ${withinMs / 1_000} s`);
}

/** Cut the node with the most of the system's pods on which no witness lies, hold, and give it back. */
export async function cutPower(
  kubectl: Kubectl,
  { off, on }: { readonly off: string; readonly on: string },
  holdMs: number,
): Promise<Fault> {
  const { items } = await kubectl.json<{
    items: { metadata: { labels?: Record<string, string> }; spec: { nodeName?: string } }[];
  }>('get', 'pods');
  const witnesses = new Set(
    items
      .filter(({ metadata }) => ['chaos-world', 'chaos-load'].includes(metadata.labels?.app ?? ''))
      .map(({ spec }) => spec.nodeName),
  );
  const counts = new Map<string, number>();
  for (const { spec } of items)
    if (spec.nodeName && !witnesses.has(spec.nodeName))
      counts.set(spec.nodeName, (counts.get(spec.nodeName) ?? 0) + 1);
  const [node] = [...counts].sort(([, left], [, right]) => right - left)[0] ?? [];
  if (node === undefined)
    throw new Error(
      'every node has a witness of the run on it (the outside world, the load): a cut would blind us',
    );
  const shell = (line: string) => command('env', [`NODE=${node}`, 'sh', '-c', line], 180_000);
  const at = Date.now();
  try {
    await shell(off);
    await until(`${node} is seen to be gone`, async () => !(await isReady(node)), 120_000);
    await new Promise((resolve) => setTimeout(resolve, holdMs));
  } finally {
    await shell(on);
  }
  await until(`${node} is back`, () => isReady(node), 180_000);
  return { name: `${powerLoss.name} (${node})`, at, healedAt: Date.now(), isObserved: true };
}
