/** Tools are checked against an environment of this process. */
import type { ToolChecks } from '../../ports/tool-checks.ts';

export function memoryToolChecks(): ToolChecks {
  let answerer: Parameters<ToolChecks['answer']>[0] = () => [];
  return {
    ask: async (questions) => answerer(questions),
    answer(check) {
      answerer = check;
    },
  };
}
