/** The Responses API. */
import type OpenAI from 'openai';
import { z } from 'zod';
import { assertNever } from '../../core/errors.ts';
import type { ToolCall } from '../../core/session/messages.ts';
import type { ModelAnswer, Prompt } from '../../ports/performers.ts';
import { named } from './assembly.ts';
import { finishOf } from './dialect.ts';
import { isSent, type RequestOptions, sendable } from './request.ts';
import { wholeOf } from './responses-stream.ts';
import type { Shape } from './shape.ts';
import { usageFrom } from './usage.ts';

type Answer = ModelAnswer;

const textSchema = z.string().nullish().catch(null);
const partSchema = z
  .object({ type: textSchema, text: textSchema, refusal: textSchema })
  .partial()
  .catch({});
const itemSchema = z
  .object({
    type: textSchema,
    id: textSchema,
    call_id: z.union([z.string(), z.number()]).nullish().catch(null),
    name: textSchema,
    arguments: z
      .union([z.string(), z.record(z.string(), z.unknown())])
      .nullish()
      .catch(null),
    content: z
      .union([z.string(), z.array(partSchema)])
      .nullish()
      .catch(null),
  })
  .partial()
  .catch({});
const responseSchema = z.object({
  model: textSchema,
  status: textSchema,
  incomplete_details: z.object({ reason: textSchema }).partial().nullish().catch(null),
  output: z.array(itemSchema),
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
  spec: Shape,
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
  const body = {
    store: false,
    ...spec.fields,
    instructions: prompt.instructions,
    input,
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
  } as unknown as OpenAI.Responses.ResponseCreateParamsNonStreaming;
  if (!spec.stream) {
    const answer = answerOf(responseSchema.parse(await client.responses.create(body, options)));
    if (answer.content) onText?.(answer.content);
    return answer;
  }
  const events = await client.responses.create({ ...body, stream: true }, options);
  return answerOf(responseSchema.parse(await wholeOf(events, onText)));
}

/** @throws Error where the response is no answer: the same request may work the next time */
function answerOf({
  output,
  status,
  incomplete_details: details,
  usage,
  model,
}: z.infer<typeof responseSchema>): Omit<Answer, 'latencyMs'> {
  const isCut = status === 'incomplete';
  if (!isCut && (status ?? 'completed') !== 'completed')
    throw new Error('the response did not complete');
  let content = '';
  let refusal = '';
  const given: ToolCall[] = [];
  for (const item of output) {
    if (item.type === 'message') {
      if (typeof item.content === 'string') content += item.content;
      else
        for (const part of item.content ?? []) {
          if (part.type === 'output_text') content += part.text ?? '';
          else if (part.type === 'refusal') refusal += part.refusal ?? '';
        }
    }
    if (item.type === 'function_call')
      given.push({
        id: String(item.call_id ?? item.id ?? ''),
        name: item.name ?? '',
        arguments:
          typeof item.arguments === 'string'
            ? item.arguments
            : JSON.stringify(item.arguments ?? {}),
      });
  }
  const calls = named(given);
  const isRefused = refusal !== '' && calls.length === 0;
  const cut = finishOf(details?.reason ?? '') === 'content_filter' ? 'content_filter' : 'length';
  const whole = calls.length > 0 ? 'tool_calls' : 'stop';
  return {
    content: isRefused ? refusal : content,
    calls,
    finish: isRefused ? 'refusal' : isCut ? cut : whole,
    usage: usage
      ? usageFrom(
          { content, calls },
          usage.input_tokens,
          usage.output_tokens,
          usage.input_tokens_details?.cached_tokens,
        )
      : undefined,
    model: model ?? '',
  };
}
