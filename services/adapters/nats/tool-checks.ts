/**
 * Questions to all executors at once, and what they answer within half a second.
 *
 * Answers have a subject of their own. A reply address would show executors, which run foreign
 * code, the inbox where we receive answers of the broker.
 */
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import { jsonOf } from '../../core/json.ts';
import type { ToolChecks } from '../../ports/tool-checks.ts';
import type { Nats } from './connection.ts';
import { hear } from './subscription.ts';

const waitMs = 500;

const questionsSchema = z.object({
  id: z.uuid(),
  questions: z.array(
    z.object({
      tool: z.string(),
      texts: z.array(z.object({ field: z.string(), text: z.string() })),
    }),
  ),
});
const troublesSchema = z
  .array(
    z.object({
      kind: z.literal('model').optional(),
      tool: z.string().max(64),
      field: z.string().max(64),
      message: z.string().max(200),
      isNote: z.boolean().optional(),
    }),
  )
  .max(1_000);

export function natsToolChecks({ connection, subjects }: Nats): ToolChecks {
  return {
    async ask(questions) {
      const found = new Map<string, z.infer<typeof troublesSchema>[number]>();
      const id = randomUUID();
      const hearing = hear(connection, subjects.checked(id), (message) => {
        const { success, data } = troublesSchema.safeParse(jsonOf(message.string()));
        for (const one of success ? data : []) found.set(JSON.stringify(one), one);
      });
      for (const [pool, asked] of Map.groupBy(questions, (question) => question.pool))
        connection.publish(subjects.check(pool), JSON.stringify({ id, questions: asked }));
      await new Promise((resolve) => setTimeout(resolve, waitMs));
      hearing.unsubscribe();
      return [...found.values()];
    },
    answer(pool, check) {
      hear(connection, subjects.check(pool), (message) => {
        const { success, data } = questionsSchema.safeParse(jsonOf(message.string()));
        if (!success) return;
        void Promise.resolve(check(data.questions)).then((troubles) => {
          if (!connection.isClosed())
            connection.publish(subjects.checked(data.id), JSON.stringify(troubles));
        });
      });
    },
  };
}
