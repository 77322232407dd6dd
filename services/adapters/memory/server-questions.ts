/** MCP servers are asked by performers of this process. */
import { failed } from '../../core/tools/job.ts';
import type { ServerAnswer, ServerQuestions } from '../../ports/listings.ts';

export function memoryServerQuestions(): ServerQuestions {
  const performers = new Map<string, ServerAnswer>();
  return {
    ask: async ({ pool, ...question }) =>
      performers.get(pool)?.(question, AbortSignal.timeout(question.timeoutMs)) ??
      failed('transient', 'MCP_UNHEARD', `there is no executor of pool ${pool}`),
    answer: (pool, list) => void performers.set(pool, list),
  };
}
