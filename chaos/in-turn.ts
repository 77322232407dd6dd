/** What Chaos Mesh itself lets happen one after the other: the Schedule, for a while, and the Workflow, to its end. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Fault } from './checker/history.ts';
import type { Kubectl } from './kubectl.ts';

export interface InTurn {
  readonly name: string;
  readonly kind: 'Schedule' | 'Workflow';
  readonly file: string;
  readonly hypothesis: string;
  /** How many faults it must bring. */
  readonly planned: number;
  /** A Workflow ends by itself; this is when it is given up, ms. */
  readonly holdMs: number;
}

export const inTurn: readonly InTurn[] = [
  {
    name: 'something-dies',
    kind: 'Schedule',
    file: 'schedule.yaml',
    hypothesis: 'a pod of any kind dies every 30 seconds, and work goes on in between',
    planned: 3,
    holdMs: 150_000,
  },
  {
    name: 'everything-dies-in-turn',
    kind: 'Workflow',
    file: 'workflow.yaml',
    hypothesis:
      'everything that can be done to it here, one thing after the other, with a rest after each',
    planned: 16,
    holdMs: 1_200_000,
  },
];

const experiments = 'podchaos,networkchaos,stresschaos';

interface Experiment {
  readonly metadata: { readonly name: string };
  readonly status?: {
    readonly experiment?: {
      readonly containerRecords?: readonly { readonly injectedCount?: number }[];
    };
  };
}
interface Progress {
  readonly status?: {
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
}

/**
 * Take it away with all that came of it. A kill has nothing to heal, yet the controller was seen to leave one in deletion for good, and a
 * Workflow's node with it, which the next Workflow of that name took for its own.
 */
async function clear(kubectl: Kubectl, kind: InTurn['kind'], name: string): Promise<void> {
  await kubectl.run('delete', kind.toLowerCase(), name, '--ignore-not-found', '--wait=false');
  for (
    const end = Date.now() + 20_000;
    Date.now() < end;
    await new Promise((resolve) => setTimeout(resolve, 500))
  )
    if (
      (await kubectl.run('get', `workflownodes,${experiments}`, '--output', 'name')).trim() === ''
    )
      return;
  for (const stuck of (await kubectl.run('get', experiments, '--output', 'name'))
    .trim()
    .split('\n')
    .filter(Boolean))
    await kubectl.run(
      'patch',
      stuck,
      '--type=merge',
      '--patch',
      '{"metadata":{"finalizers":null}}',
    );
  await kubectl.run(
    'delete',
    `workflownodes,${experiments}`,
    '--all',
    '--wait=true',
    '--timeout=30s',
  );
}

/** Apply it, see which faults come of it, and take it away. What was planned and not seen is told as not observed. */
export async function runInTurn(
  kubectl: Kubectl,
  { name, kind, file, planned, holdMs }: InTurn,
): Promise<Fault[]> {
  await clear(kubectl, kind, name);
  const seen = new Map<string, number>();
  const at = Date.now();
  await kubectl.apply(readFileSync(join(import.meta.dirname, file), 'utf8'));
  try {
    for (
      let isOver = false;
      !isOver && Date.now() - at < holdMs;
      await new Promise((resolve) => setTimeout(resolve, 500))
    ) {
      for (const { metadata, status } of (
        await kubectl.json<{ items: Experiment[] }>('get', experiments)
      ).items) {
        const records = status?.experiment?.containerRecords ?? [];
        // Of several pods one may be gone by itself before its turn: a sandbox that nobody needs any more.
        const isInjected = records.some(({ injectedCount = 0 }) => injectedCount > 0);
        if (isInjected && !seen.has(metadata.name)) seen.set(metadata.name, Date.now());
      }
      if (kind !== 'Workflow') continue;
      const { status } = await kubectl.json<Progress>('get', 'workflow', name);
      isOver =
        status?.conditions?.some(
          ({ type, status: is }) => type === 'Accomplished' && is === 'True',
        ) ?? false;
    }
  } finally {
    await clear(kubectl, kind, name);
  }
  const healedAt = Date.now();
  const faults: Fault[] = [...seen].map(([fault, seenAt]) => ({
    name: fault,
    at: seenAt,
    healedAt,
    isObserved: true,
  }));
  for (let missing = planned - faults.length; missing > 0; missing -= 1)
    faults.push({ name: `${name}: one that did not come`, at, healedAt, isObserved: false });
  return faults;
}
