/** The Responses API. */
import type OpenAI from 'openai';
import { z } from 'zod';
import { assertNever } from '../../core/errors.ts';
import type { ToolCall } from '../../core/session/messages.ts';
import type { ModelAnswer, Prompt } from '../../ports/performers.ts';
import { isSent, type RequestOptions, sendable } from './request.ts';
import { usageFrom } from './usage.ts';

type Answer = ModelAnswer;

const responseSchema = z.object({
  model: z.string().default(''),
  status: z.string().default('completed'),
  incomplete_details: z.object({ reason: z.string() }).partial().nullish().catch(null),
  output: z.array(z.object({ type: z.string() }).loose()),
  usage: z
    .object({
      input_tokens: z.unknown(),
      output_tokens: z.unknown(),
      input_tokens_details: z
        .object({ cached_tokens: z.unknown() })
        .partial()
        .nullish()
        .catch(null),
    })
    .partial()
    .nullish()
    .catch(null),
});

export async function askResponses(
  client: OpenAI,
  spec: { model: string },
  prompt: Prompt,
  options: RequestOptions,
  onText?: (text: string) => void,
): Promise<Omit<Answer, 'latencyMs'>> {
  const input = prompt.entries
    .filter(isSent)
    .flatMap((entry): OpenAI.Responses.ResponseInputItem[] => {
      switch (entry.role) {
        case 'user':
          return [{ role: 'user', content: entry.content }];
        case 'summary':
          return [
            { role: 'user', content: `Summary of the conversation so far:\n${entry.content}` },
          ];
        case 'tool':
          return [{ type: 'function_call_output', call_id: entry.call, output: entry.content }];
        case 'assistant':
          return [
            ...(entry.content ? [{ role: 'assistant' as const, content: entry.content }] : []),
            ...(entry.calls ?? []).map(sendable).map((call) => ({
              type: 'function_call' as const,
              call_id: call.id,
              name: call.name,
              arguments: call.arguments,
            })),
          ];
        default:
          return assertNever(entry);
      }
    });
  const answer = await client.responses.create(
    {
      model: spec.model,
      instructions: prompt.instructions,
      input,
      ...(prompt.temperature === null ? {} : { temperature: prompt.temperature }),
      max_output_tokens: prompt.outputTokensMax,
      store: false,
      ...(prompt.tools.length > 0
        ? {
            tools: prompt.tools.map((tool) => ({
              type: 'function' as const,
              name: tool.name,
              description: tool.description,
              parameters: tool.input,
              strict: false,
            })),
          }
        : {}),
    },
    options,
  );
  const parsed = responseSchema.parse(answer);
  // Nothing of it can be used: the same request may work the next time.
  if (parsed.status === 'failed' || parsed.status === 'cancelled')
    throw new Error(`the response ${parsed.status}`);
  let content = '';
  let refusal = '';
  const calls: ToolCall[] = [];
  for (const item of answer.output) {
    if (item.type === 'message')
      for (const part of item.content) {
        if (part.type === 'output_text') content += part.text;
        else if (part.type === 'refusal') refusal += part.refusal;
      }
    if (item.type === 'function_call')
      calls.push({ id: item.call_id, name: item.name, arguments: item.arguments });
  }
  if (content) onText?.(content);
  const { usage } = parsed;
  const isRefused = refusal !== '' && calls.length === 0;
  return {
    content: isRefused ? refusal : content,
    calls,
    finish: isRefused ? 'refusal' : finishOf(parsed, calls.length > 0),
    usage: usage
      ? usageFrom(
          { content, calls },
          usage.input_tokens,
          usage.output_tokens,
          usage.input_tokens_details?.cached_tokens,
        )
      : undefined,
    model: parsed.model,
  };
}

const finishOf = (
  { status, incomplete_details: details }: z.infer<typeof responseSchema>,
  hasCalls: boolean,
): string => {
  if (status !== 'incomplete') return hasCalls ? 'tool_calls' : 'stop';
  return details?.reason === 'content_filter' ? 'content_filter' : 'length';
};
