/** Tools are checked against an environment of this process. */
import type { ToolCheck, ToolChecks } from '../../ports/tool-checks.ts';

export function memoryToolChecks(): ToolChecks {
  const checks = new Map<string, ToolCheck>();
  return {
    ask: async (questions) =>
      (
        await Promise.all(
          [...checks].map(([pool, check]) => check(questions.filter((one) => one.pool === pool))),
        )
      ).flat(),
    answer: (pool, check) => void checks.set(pool, check),
  };
}
