import type { ToolQuestion, ToolTrouble } from '../core/tools/environment-check.ts';

export type ToolCheck = (
  questions: readonly Pick<ToolQuestion, 'tool' | 'texts'>[],
) => readonly ToolTrouble[] | Promise<readonly ToolTrouble[]>;

/**
 * Whoever performs tools is asked whether it has what they name.
 *
 * Guarantee: none; who does not answer within half a second is not heard.
 */
export interface ToolChecks {
  /** What any of them lacks, each once. */
  ask(questions: readonly ToolQuestion[]): Promise<readonly ToolTrouble[]>;
  /** @param pool  whose tools it performs: of others it is not asked */
  answer(pool: string, check: ToolCheck): void;
}
