/**
 * The broker dies twice within four seconds, without a goodbye: the heir of the first may begin
 * while the first still writes. Chaos Mesh kills once for each experiment; this kills by kubectl.
 */
import type { Fault } from './checker/history.ts';
import type { Kubectl } from './kubectl.ts';

export const killedTwice = {
  name: 'receive-kill-nats-twice',
  hypothesis:
    'the broker dies twice within four seconds: it never runs twice on one volume, and what was acknowledged is there',
} as const;

const betweenMs = 3_500; // where two servers were seen to overlap
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

export async function killTwice(kubectl: Kubectl, holdMs: number): Promise<Fault> {
  const label = 'app.kubernetes.io/component=nats';
  const kill = () =>
    kubectl.run(
      'delete',
      'pod',
      '--selector',
      label,
      '--grace-period=0',
      '--force',
      '--wait=false',
    );
  const at = Date.now();
  const first = await kill();
  await sleep(betweenMs);
  const second = await kill();
  await sleep(holdMs);
  return {
    name: killedTwice.name,
    at,
    healedAt: Date.now(),
    isObserved: [first, second].every((told) => told.includes('deleted')),
  };
}
