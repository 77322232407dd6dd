/** A shard's position as Redis keeps it: one text, so that a script can compare it. */
import { messageOf, Refused } from '../../core/errors.ts';
import type { ShardPosition, ShardState } from '../../ports/session-store.ts';

export const positionText = ({ position, commits, log, queue }: ShardPosition): string =>
  `${position.incarnation}:${position.sequence}:${position.index}:${commits}:${log}:${queue}`;

/** @throws Refused (POSITION_POISONED) for what no runtime wrote */
export function parsePosition(text: string): ShardPosition {
  const parts = text.split(':').map(Number);
  if (!/^\d+(:\d+){5}$/.test(text) || parts.some((part) => !Number.isSafeInteger(part)))
    throw new Refused('POSITION_POISONED', `a shard position does not parse: ${text.slice(0, 40)}`);
  return { position: { incarnation: parts[0]!, sequence: parts[1]!, index: parts[2]! }, commits: parts[3]!, log: parts[4]!, queue: parts[5]! };
}

/** As the state of a shard tells it. */
export function readPosition(text: string | null): Pick<ShardState, 'at' | 'problem'> {
  try {
    return { at: text === null ? undefined : parsePosition(text) };
  } catch (error) {
    return { at: undefined, problem: messageOf(error) };
  }
}
