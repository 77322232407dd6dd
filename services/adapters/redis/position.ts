/** A shard's position as Redis keeps it: one text, so that a script can compare it. */
import { messageOf, Refused } from '../../core/errors.ts';
import type { ShardPosition, ShardState } from '../../ports/session-store.ts';

export const positionText = ({ position, commits, log, queue, at }: ShardPosition): string =>
  `${position.incarnation}:${position.sequence}:${position.index}:${commits}:${log}:${queue}${at === undefined ? '' : `:${at}`}`;

/** @throws Refused (POSITION_POISONED) for what no runtime wrote */
export function parsePosition(text: string): ShardPosition {
  const parts = text.split(':').map(Number);
  if (!/^\d+(:\d+){5,6}$/.test(text) || parts.some((part) => !Number.isSafeInteger(part)))
    throw new Refused('POSITION_POISONED', `a shard position does not parse: ${text.slice(0, 40)}`);
  const [incarnation = 0, sequence = 0, index = 0, commits = 0, log = 0, queue = 0, at] = parts;
  return {
    position: { incarnation, sequence, index },
    commits,
    log,
    queue,
    ...(at === undefined ? {} : { at }),
  };
}

/** As the state of a shard tells it. */
export function readPosition(text: string | null): Pick<ShardState, 'at' | 'problem'> {
  try {
    return { at: text === null ? undefined : parsePosition(text) };
  } catch (error) {
    return { at: undefined, problem: messageOf(error) };
  }
}
