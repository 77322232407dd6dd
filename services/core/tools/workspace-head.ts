/** What is known of a session's workspace: its last checkpoint, the effect that saved it, what was there before that effect, and who saved lately. */
import { z } from 'zod';
import { Refused, Unavailable } from '../errors.ts';

export const checkpointSchema = z.object({
  /** Tells this checkpoint from any other of the session. */
  digest: z.string().regex(/^[0-9a-f]{32}$/),
  bytes: z.number().int().nonnegative(),
});
export type Checkpoint = Readonly<z.infer<typeof checkpointSchema>>;

export const workspaceHeadSchema = checkpointSchema.extend({
  effect: z.string(),
  before: checkpointSchema.optional(),
  /** Effects whose changes are in it, the last one last. */
  saved: z.array(z.string()).default([]),
});
export type WorkspaceHead = Readonly<z.infer<typeof workspaceHeadSchema>>;

const savedMax = 100; // a copy of an effect that comes after so many others of its session would be hours late

/**
 * Where an effect begins: after the last call before it.
 *
 * @throws Refused (WORKSPACE_OVERTAKEN) when it was saved and others after it: run again, it would do what it did a second time, on top of them
 */
export function beginningOf(
  head: WorkspaceHead | undefined,
  effect: string,
): Checkpoint | undefined {
  if (!head) return undefined;
  if (head.effect === effect) return head.before;
  if (head.saved.includes(effect))
    throw new Refused(
      'WORKSPACE_OVERTAKEN',
      `effect ${effect} ran before, and its changes are in the workspace; later calls have built on them`,
    );
  return { digest: head.digest, bytes: head.bytes };
}

export interface Saved {
  readonly session: string;
  readonly effect: string;
  /** Where it began. */
  readonly before: Checkpoint | undefined;
  /** What it left. */
  readonly checkpoint: Checkpoint;
}

/**
 * The head after `effect`, which began at `before`, has left `checkpoint`.
 *
 * @throws Unavailable (WORKSPACE_CHANGED) when it began elsewhere: it was overtaken
 */
export function headAfter(
  head: WorkspaceHead | undefined,
  { session, effect, before, checkpoint }: Saved,
): WorkspaceHead {
  if (beginningOf(head, effect)?.digest !== before?.digest) throw workspaceChanged(session);
  const saved = [...(head?.saved ?? []).filter((one) => one !== effect), effect].slice(-savedMax);
  return { ...checkpoint, effect, ...(before ? { before } : {}), saved };
}

export const workspaceChanged = (session: string): Unavailable =>
  new Unavailable(
    'WORKSPACE_CHANGED',
    `the workspace of ${session} has been saved anew in the meantime`,
  );
