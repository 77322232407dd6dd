/** Any OpenAI-compatible provider through the openai package: Chat Completions, or the Responses API. Its own retries are off: ours are classified. */

import type OpenAI from 'openai';
import { APIConnectionError, APIConnectionTimeoutError, APIError, APIUserAbortError } from 'openai';
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatCompletionCreateParamsNonStreaming,
  ChatCompletionMessageParam,
} from 'openai/resources/chat/completions';
import { z } from 'zod';
import { assertNever } from '../../core/errors.ts';
import type { Entry } from '../../core/session/conversation.ts';
import type { ToolCall } from '../../core/session/messages.ts';
import { failed, type Outcome } from '../../core/tools/job.ts';
import { wasNeverMade } from '../../core/tools/never-made.ts';
import {
  expandEnvironment,
  isHeaderValue,
  originOf,
  variablesOf,
} from '../../core/tools/placeholders.ts';
import type { Clock } from '../../ports/clock.ts';
import type { Model, ModelAnswer, Prompt } from '../../ports/performers.ts';
import { DirectClient } from './client.ts';

type Answer = ModelAnswer;

export function openaiModel(
  environment: Readonly<Record<string, string | undefined>>,
  clock: Pick<Clock, 'timeLimit'>,
): Model {
  const clients = new Map<string, OpenAI>();
  const clientFor = (baseUrl: string, apiKey: string): OpenAI => {
    const key = `${baseUrl}\n${apiKey}`;
    let client = clients.get(key);
    if (!client) {
      client = new DirectClient(baseUrl, apiKey);
      clients.set(key, client);
    }
    return client;
  };
  return {
    async complete(spec, prompt, { signal, onText }) {
      const address = addressOf(spec, environment);
      if (!address.ok) return address;
      const apiKey = environment[spec.apiKeyEnv];
      if (!apiKey)
        return unpaid(
          failed(
            'permanent',
            'MODEL_KEY_MISSING',
            `model ${spec.name} needs a key in ${spec.apiKeyEnv}`,
          ),
        );
      if (!isHeaderValue(apiKey))
        return unpaid(
          failed(
            'permanent',
            'MODEL_SETTINGS_INVALID',
            `model ${spec.name}: ${spec.apiKeyEnv} has characters that no header can carry`,
          ),
        );
      const client = clientFor(address.url, apiKey);
      const from = performance.now();
      const limit = clock.timeLimit(spec.timeoutMs, signal);
      try {
        const options = {
          signal: limit.signal,
          ...(prompt.traceparent ? { headers: { traceparent: prompt.traceparent } } : {}),
        };
        const answer =
          spec.api === 'responses'
            ? await askResponses(client, spec, prompt, options, onText)
            : await askChat(client, spec, prompt, options, onText);
        return { ok: true, value: { ...answer, latencyMs: Math.round(performance.now() - from) } };
      } catch (error) {
        if (signal.aborted) return failed('permanent', 'CANCELLED', 'the call was cancelled');
        return classify(error, limit.isOver, spec.name);
      } finally {
        limit.stop();
      }
    },
  };
}

const defaultBaseUrl = 'https://api.openai.com/v1';

/**
 * Address of the provider. The default is only for a Model without `baseUrl`: a prompt and a key
 * never go to another provider because a variable is not set.
 *
 * @returns the failure, if there is no address: nothing was sent, and no url is quoted
 */
function addressOf(
  { name, baseUrl }: { readonly name: string; readonly baseUrl?: string | undefined },
  environment: Readonly<Record<string, string | undefined>>,
): { readonly ok: true; readonly url: string } | ReturnType<typeof failed> {
  const refused = (message: string) =>
    unpaid(failed('permanent', 'MODEL_SETTINGS_INVALID', `model ${name}: ${message}`));
  const own = environment.OPENAI_BASE_URL || defaultBaseUrl;
  const expanded =
    baseUrl === undefined
      ? ({ ok: true, text: own } as const)
      : expandEnvironment(baseUrl, environment);
  if (!expanded.ok) return refused(`${expanded.missing.join(', ')} is not set for this gateway`);
  const { text } = expanded;
  const origin = originOf(text);
  if (origin.ok && URL.canParse(text)) return { ok: true, url: text };
  const names = baseUrl === undefined ? ['OPENAI_BASE_URL'] : variablesOf(baseUrl);
  const from = names.length > 0 ? `with ${names.join(', ')} of this gateway, ` : '';
  return refused(`${from}its baseUrl ${origin.ok ? 'is not an address' : origin.problem}`);
}

/** Nothing was paid: no request was sent, or it was refused as a whole before any output. */
const unpaid = (outcome: ReturnType<typeof failed>): ReturnType<typeof failed> => ({
  ok: false,
  failure: { ...outcome.failure, hasBegun: false },
});

/** Once, at the edge: what may the caller do about it, and may it have cost something? */
export function classify(error: unknown, isTimeout: boolean, model: string): Outcome<never> {
  if (isTimeout || error instanceof APIConnectionTimeoutError)
    return failed('transient', 'MODEL_TIMEOUT', `model ${model} did not answer in time`);
  if (error instanceof APIUserAbortError || error instanceof APIConnectionError) {
    const outcome = failed('transient', 'MODEL_UNREACHABLE', `model ${model} could not be reached`);
    return wasNeverMade(error) ? unpaid(outcome) : outcome;
  }
  if (error instanceof z.ZodError)
    return failed(
      'transient',
      'MODEL_ANSWER_INVALID',
      `model ${model} answered something that is not a completion`,
    );
  if (error instanceof APIError) {
    const outcome = refusalOf(error, model);
    const { status } = error as { status?: number };
    const isWhole = status !== undefined && ((status >= 400 && status < 500) || status === 503);
    return isWhole ? unpaid(outcome) : outcome;
  }
  // A stream that ends in the middle, a socket that is reset: the same call may work the next time.
  return failed('transient', 'MODEL_STREAM_BROKEN', `the answer of model ${model} broke off`);
}

function refusalOf(error: APIError, model: string): ReturnType<typeof failed> {
  const status = (error.status as number | undefined) ?? 0;
  const text = `model ${model} answered ${status || 'an error'}${error.code ? ` (${error.code})` : ''}`;
  if (error.code === 'context_length_exceeded')
    return failed('permanent', 'MODEL_CONTEXT_TOO_LONG', text);
  if (error.code === 'insufficient_quota') return failed('permanent', 'MODEL_QUOTA', text);
  if (status === 408 || status === 409 || status === 429 || status >= 500)
    return failed(
      'transient',
      status === 429 ? 'MODEL_RATE_LIMITED' : 'MODEL_OVERLOADED',
      text,
      retryAfterOf(error),
    );
  if (status === 0) return failed('transient', 'MODEL_STREAM_BROKEN', text);
  return failed('permanent', 'MODEL_REFUSED', text);
}

function retryAfterOf(error: APIError): number | undefined {
  const header = (error.headers as Headers | undefined)?.get?.('retry-after');
  const seconds = header ? Number(header) : Number.NaN;
  return Number.isFinite(seconds) ? Math.min(120_000, seconds * 1_000) : undefined;
}

// ---- Chat Completions -------------------------------------------------------------------------

function chatMessages(prompt: Prompt): ChatCompletionMessageParam[] {
  const messages: ChatCompletionMessageParam[] = prompt.instructions
    ? [{ role: 'system', content: prompt.instructions }]
    : [];
  for (const entry of prompt.entries) messages.push(chatMessage(entry));
  return messages;
}

function chatMessage(entry: Entry): ChatCompletionMessageParam {
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
            tool_calls: entry.calls.map((call) => ({
              id: call.id,
              type: 'function',
              function: { name: call.name, arguments: call.arguments },
            })),
          }
        : { role: 'assistant', content: entry.content };
  }
}

type RequestOptions = { signal: AbortSignal; headers?: Record<string, string> };

async function askChat(
  client: OpenAI,
  spec: { model: string; stream: boolean },
  prompt: Prompt,
  options: RequestOptions,
  onText?: (text: string) => void,
): Promise<Omit<Answer, 'latencyMs'>> {
  const body: ChatCompletionCreateParamsNonStreaming = {
    model: spec.model,
    messages: chatMessages(prompt),
    temperature: prompt.temperature,
    max_completion_tokens: prompt.outputTokensMax,
    ...(prompt.tools.length > 0
      ? {
          tools: prompt.tools.map((tool) => ({
            type: 'function' as const,
            function: { name: tool.name, description: tool.description, parameters: tool.input },
          })),
        }
      : {}),
  };
  if (!spec.stream)
    return chatAnswer(
      completionSchema.parse(await client.chat.completions.create(body, options)) as ChatCompletion,
    );
  const stream = await client.chat.completions.create(
    { ...body, stream: true, stream_options: { include_usage: true } },
    options,
  );
  return gather(stream, onText);
}

/** What a provider says of tokens: a whole number from 0 on, or nothing that can be believed. */
const tokensOf = (value: unknown): number | undefined => {
  if (typeof value !== 'number' || !(value >= 0)) return undefined;
  const whole = Math.ceil(value);
  return Number.isSafeInteger(whole) ? whole : undefined;
};

/** What an answer holds, as far as its usage must fit it. */
type Output = Pick<Answer, 'content' | 'calls'>;

/**
 * Odd usage never throws a good answer away: it counts as none, and the gateway takes the bound.
 * Every prompt has tokens, and so has every text or call: a zero means that nobody counted.
 */
function usageFrom(
  { content, calls }: Output,
  prompt: unknown,
  completion: unknown,
  cached: unknown,
): Answer['usage'] {
  const [promptTokens, completionTokens] = [tokensOf(prompt), tokensOf(completion)];
  if (promptTokens === undefined || completionTokens === undefined) return undefined;
  const completionTokensMin = content !== '' || calls.length > 0 ? 1 : 0;
  if (promptTokens < 1 || completionTokens < completionTokensMin) return undefined;
  return {
    promptTokens,
    completionTokens,
    cachedTokens: Math.min(tokensOf(cached) ?? 0, promptTokens),
  };
}

const usageSchema = z
  .object({
    prompt_tokens: z.unknown(),
    completion_tokens: z.unknown(),
    prompt_tokens_details: z.object({ cached_tokens: z.unknown() }).partial().nullish().catch(null),
  })
  .partial()
  .nullish()
  .catch(null);
const completionSchema = z.object({
  model: z.string().default(''),
  choices: z
    .array(
      z.object({
        finish_reason: z.string().nullish(),
        message: z.object({
          content: z.string().nullish(),
          tool_calls: z
            .array(
              z.object({
                id: z.string(),
                function: z.object({ name: z.string(), arguments: z.string() }),
              }),
            )
            .nullish(),
        }),
      }),
    )
    .min(1),
  usage: usageSchema,
});

const usageOf = (output: Output, usage: z.infer<typeof usageSchema>): Answer['usage'] =>
  usage
    ? usageFrom(
        output,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.prompt_tokens_details?.cached_tokens,
      )
    : undefined;

function chatAnswer(completion: ChatCompletion): Omit<Answer, 'latencyMs'> {
  const choice = completion.choices[0]!;
  const output = {
    content: choice.message.content ?? '',
    calls: (choice.message.tool_calls ?? []).flatMap((call) =>
      'function' in call
        ? [{ id: call.id, name: call.function.name, arguments: call.function.arguments }]
        : [],
    ),
  };
  return {
    ...output,
    finish: choice.finish_reason ?? 'stop',
    usage: usageOf(output, completion.usage as z.infer<typeof usageSchema>),
    model: completion.model,
  };
}

async function gather(
  stream: AsyncIterable<ChatCompletionChunk>,
  onText?: (text: string) => void,
): Promise<Omit<Answer, 'latencyMs'>> {
  let content = '';
  let finish: string | undefined;
  let model = '';
  let usage: z.infer<typeof usageSchema>;
  const calls: ToolCall[] = [];
  for await (const chunk of stream) {
    model = chunk.model || model;
    if (chunk.usage) usage = usageSchema.parse(chunk.usage);
    const choice = chunk.choices[0];
    if (!choice) continue;
    if (choice.delta.content) {
      content += choice.delta.content;
      onText?.(choice.delta.content);
    }
    for (const part of choice.delta.tool_calls ?? []) {
      const call = calls[part.index] ?? { id: '', name: '', arguments: '' };
      calls[part.index] = {
        id: part.id ?? call.id,
        name: call.name + (part.function?.name ?? ''),
        arguments: call.arguments + (part.function?.arguments ?? ''),
      };
    }
    finish = choice.finish_reason ?? finish;
  }
  // A stream that just stops has not answered: without a finish reason nobody knows what is missing.
  if (finish === undefined) throw new Error('the stream ended without a finish reason');
  const output = { content, calls: calls.filter((call) => call !== undefined) };
  return {
    ...output,
    finish,
    usage: usageOf(output, usage),
    model,
  };
}

// ---- Responses --------------------------------------------------------------------------------

const responseSchema = z.object({
  model: z.string().default(''),
  status: z.string().default('completed'),
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

async function askResponses(
  client: OpenAI,
  spec: { model: string },
  prompt: Prompt,
  options: RequestOptions,
  onText?: (text: string) => void,
): Promise<Omit<Answer, 'latencyMs'>> {
  const input = prompt.entries.flatMap((entry): OpenAI.Responses.ResponseInputItem[] => {
    switch (entry.role) {
      case 'user':
        return [{ role: 'user', content: entry.content }];
      case 'summary':
        return [{ role: 'user', content: `Summary of the conversation so far:\n${entry.content}` }];
      case 'tool':
        return [{ type: 'function_call_output', call_id: entry.call, output: entry.content }];
      case 'assistant':
        return [
          ...(entry.content ? [{ role: 'assistant' as const, content: entry.content }] : []),
          ...(entry.calls ?? []).map((call) => ({
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
      temperature: prompt.temperature,
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
  let content = '';
  const calls: ToolCall[] = [];
  for (const item of answer.output) {
    if (item.type === 'message')
      for (const part of item.content) if (part.type === 'output_text') content += part.text;
    if (item.type === 'function_call')
      calls.push({ id: item.call_id, name: item.name, arguments: item.arguments });
  }
  if (content) onText?.(content);
  const { usage } = parsed;
  return {
    content,
    calls,
    finish: parsed.status === 'incomplete' ? 'length' : calls.length > 0 ? 'tool_calls' : 'stop',
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
