/** The conversation as data: entries are appended, never rewritten, and addressed by their index. */
import { z } from 'zod';
import { thoughtSchema, toolCallSchema } from './messages.ts';

export const entrySchema = z.discriminatedUnion('role', [
  z.object({ role: z.literal('user'), content: z.string() }),
  z.object({
    role: z.literal('assistant'),
    content: z.string(),
    calls: z.array(toolCallSchema).optional(),
    thought: thoughtSchema.optional(),
  }),
  /** What a tool said is data from outside: it is never put into the instructions. */
  z.object({ role: z.literal('tool'), call: z.string(), tool: z.string(), content: z.string() }),
  z.object({ role: z.literal('summary'), content: z.string() }),
]);
export type Entry = z.infer<typeof entrySchema>;

/** UTF-8 bytes that the entry may add to a prompt. */
export function bytesOf(entry: Entry): number {
  const calls = entry.role === 'assistant' ? (entry.calls ?? []) : [];
  const thought = entry.role === 'assistant' ? (entry.thought?.text ?? '') : '';
  return (
    Buffer.byteLength(thought) +
    Buffer.byteLength(entry.content) +
    calls.reduce(
      (sum, call) => sum + Buffer.byteLength(call.name) + Buffer.byteLength(call.arguments) + 24,
      0,
    )
  );
}
