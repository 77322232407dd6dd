/** Chat Completions, whole or streamed. */
import type OpenAI from 'openai';
import type {
  ChatCompletionChunk,
  ChatCompletionCreateParamsNonStreaming,
  ChatCompletionMessageParam,
} from 'openai/resources/chat/completions';
import { z } from 'zod';
import type { Entry } from '../../core/session/conversation.ts';
import type { ModelAnswer, Prompt } from '../../ports/performers.ts';
import { Assembly } from './assembly.ts';
import { isSent, type RequestOptions, sendable } from './request.ts';
import type { Shape } from './shape.ts';
import { type Output, usageFrom } from './usage.ts';

type Answer = ModelAnswer;

/** @param by  the Model: its own reasoning goes back to it */
function chatMessages(prompt: Prompt, by: string): ChatCompletionMessageParam[] {
  const messages: ChatCompletionMessageParam[] = prompt.instructions
    ? [{ role: 'system', content: prompt.instructions }]
    : [];
  for (const entry of prompt.entries.filter(isSent)) messages.push(chatMessage(entry, by));
  return messages;
}

function chatMessage(entry: Entry, by: string): ChatCompletionMessageParam {
  switch (entry.role) {
    case 'user':
      return { role: 'user', content: entry.content };
    case 'summary':
      return { role: 'user', content: `Summary of the conversation so far:\n${entry.content}` };
    case 'tool':
      return { role: 'tool', tool_call_id: entry.call, content: entry.content };
    case 'assistant':
      return entry.calls
        ? {
            role: 'assistant',
            content: entry.content || null,
            ...(entry.thought?.by === by ? { reasoning_content: entry.thought.text } : {}),
            tool_calls: entry.calls.map(sendable).map(({ id, name, arguments: text }) => ({
              id,
              type: 'function',
              function: { name, arguments: text },
            })),
          }
        : { role: 'assistant', content: entry.content };
  }
}

export async function askChat(
  client: OpenAI,
  spec: Shape,
  prompt: Prompt,
  options: RequestOptions,
  onText?: (text: string) => void,
): Promise<Omit<Answer, 'latencyMs'>> {
  const body = {
    ...spec.fields,
    messages: chatMessages(prompt, spec.name),
    ...(prompt.tools.length > 0
      ? {
          tools: prompt.tools.map((tool) => ({
            type: 'function' as const,
            function: { name: tool.name, description: tool.description, parameters: tool.input },
          })),
        }
      : {}),
  } as unknown as ChatCompletionCreateParamsNonStreaming;
  if (!spec.stream) {
    const assembly = new Assembly();
    const answer: unknown = await client.chat.completions.create(body, options);
    if (!isCompletion(answer)) wholeSchema.parse(answer);
    assembly.add(answer);
    return answerOf(assembly, spec.name);
  }
  const usage = { include_usage: true };
  const stream = await client.chat.completions.create(
    { stream_options: usage, ...body, stream: true },
    options,
  );
  return gather(stream, spec.name, onText);
}

const usageSchema = z
  .object({
    prompt_tokens: z.unknown(),
    completion_tokens: z.unknown(),
    prompt_tokens_details: z
      .object({ cached_tokens: z.unknown(), cache_creation_tokens: z.unknown() })
      .partial()
      .nullish()
      .catch(null),
    cache_creation_input_tokens: z.unknown(), // LiteLLM and others before Claude
  })
  .partial()
  .nullish()
  .catch(null);
/** What is no completion at all, whatever its parts; asked only where that is so. */
const wholeSchema = z.object({ choices: z.array(z.unknown()).min(1) });

const isCompletion = (answer: unknown): boolean => {
  const { choices } = (answer ?? {}) as { choices?: unknown };
  return Array.isArray(choices) && choices.length > 0;
};

const usageOf = (output: Output, usage: z.infer<typeof usageSchema>): Answer['usage'] =>
  usage
    ? usageFrom(
        output,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens_details?.cached_tokens,
        usage.cache_creation_input_tokens ?? usage.prompt_tokens_details?.cache_creation_tokens,
      )
    : undefined;

/** @throws Error where no end was told, and the answer did not come whole */
function answerOf(assembly: Assembly, by: string, isWhole = true): Omit<Answer, 'latencyMs'> {
  const answer = assembly.end(isWhole);
  // A stream that just stops has not answered: without a finish reason nobody knows what misses.
  if (!answer) throw new Error('the stream ended without a finish reason');
  const { usage, reasoning, ...output } = answer;
  const thought = reasoning && output.calls.length > 0 ? { thought: { text: reasoning, by } } : {};
  return { ...output, ...thought, usage: usageOf(output, usageSchema.parse(usage)) };
}

async function gather(
  stream: AsyncIterable<ChatCompletionChunk>,
  by: string,
  onText?: (text: string) => void,
): Promise<Omit<Answer, 'latencyMs'>> {
  const assembly = new Assembly();
  for await (const chunk of stream) {
    const text = assembly.add(chunk);
    if (text) onText?.(text);
  }
  return answerOf(assembly, by, false);
}
