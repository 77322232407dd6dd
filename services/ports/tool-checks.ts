import type { ToolQuestion, ToolTrouble } from '../core/tools/environment-check.ts';

/**
 * Whoever performs tools is asked whether it has what they name.
 *
 * Guarantee: none; who does not answer within half a second is not heard.
 */
export interface ToolChecks {
  /** What any of them lacks, each once. */
  ask(questions: readonly ToolQuestion[]): Promise<readonly ToolTrouble[]>;
  answer(check: (questions: readonly ToolQuestion[]) => readonly ToolTrouble[]): void;
}
