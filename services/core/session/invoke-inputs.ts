/** What the sources of a user's own machine take. */
import { z } from 'zod';

export const modelInput = z.union([
  z.string(),
  z.object({ prompt: z.string(), outputTokensMax: z.number().int().positive().optional() }),
]);
export const toolInput = z.object({
  tool: z.string(),
  arguments: z.record(z.string(), z.unknown()).default({}),
});
export const agentInput = z.object({ agent: z.string(), input: z.string() });
export const humanInput = z
  .object({ question: z.string(), expiresMs: z.number().positive().optional() })
  .or(z.string());

/** By source. */
export const invokeInputs = {
  model: modelInput,
  tool: toolInput,
  agent: agentInput,
  human: humanInput,
} as const;
