/** MCP servers are asked by performers of this process. */
import { failed } from '../../core/tools/job.ts';
import type { ServerAnswers, ServerQuestions } from '../../ports/listings.ts';

export function memoryServerQuestions(): ServerQuestions {
  const performers = new Map<string, ServerAnswers>();
  const unheard = (pool: string) =>
    failed('transient', 'MCP_UNHEARD', `there is no executor of pool ${pool}`);
  return {
    list: async ({ pool, ...question }) =>
      performers.get(pool)?.list(question, AbortSignal.timeout(question.timeoutMs)) ??
      unheard(pool),
    signIn: async ({ pool, ...question }, callback) =>
      performers.get(pool)?.signIn(question, callback) ?? unheard(pool),
    announce: () => undefined, // there is no other runtime
    onAnnounced: () => undefined,
    answer: (pool, answers) => void performers.set(pool, answers),
  };
}
