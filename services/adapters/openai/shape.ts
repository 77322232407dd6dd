/** What a Model document changes of a request, in the words of each API. */
import type { ModelSpec } from '../../core/session/model-spec.ts';
import type { Prompt } from '../../ports/performers.ts';

export interface Shape {
  readonly name: string;
  readonly model: string;
  readonly stream: boolean;
  readonly fields: Readonly<Record<string, unknown>>;
}

type Body = Readonly<Record<string, unknown>>;

/** Fields of both APIs that mean the same. */
const words = {
  chat: {
    tokens: 'max_completion_tokens',
    effort: (effort: string): Body => ({ reasoning_effort: effort }),
    format: (format: unknown): Body => ({ response_format: format }),
    choice: (name: string): unknown => ({ type: 'function', function: { name } }),
  },
  responses: {
    tokens: 'max_output_tokens',
    effort: (effort: string): Body => ({ reasoning: { effort } }),
    format: (format: unknown): Body => ({ text: { format } }),
    choice: (name: string): unknown => ({ type: 'function', name }),
  },
} as const;

/** Without what the conversation says: that is the API's own form. */
export function fieldsOf(spec: ModelSpec, prompt: Prompt, model: string, own: Body): Body {
  const { tokens, effort, format, choice } = words[spec.api];
  const hasTools = prompt.tools.length > 0;
  const { temperature } = prompt;
  const fields: Body = {
    model,
    ...(temperature === null ? {} : { temperature }),
    [spec.maxTokensField ?? tokens]: prompt.outputTokensMax,
    ...(hasTools ? choiceOf(spec, prompt, choice) : {}),
    ...(hasTools && spec.parallelToolCalls !== undefined
      ? { parallel_tool_calls: spec.parallelToolCalls }
      : {}),
    ...(spec.reasoningEffort === undefined ? {} : effort(spec.reasoningEffort)),
    ...(spec.responseFormat === undefined || prompt.isSummary ? {} : format(spec.responseFormat)),
  };
  return merged(fields, own);
}

/** A summary calls nothing, whatever turns must do. */
function choiceOf(
  { toolChoice }: ModelSpec,
  { isSummary }: Prompt,
  named: (name: string) => unknown,
): Body {
  if (toolChoice === undefined) return {};
  if (isSummary) return { tool_choice: 'none' };
  return { tool_choice: typeof toolChoice === 'string' ? toolChoice : named(toolChoice.name) };
}

const isFields = (value: unknown): value is Body =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Objects within objects are merged as well: a document adds to what is there. */
export const merged = (left: Body, right: Body): Body => {
  const result: Record<string, unknown> = { ...left };
  for (const [name, value] of Object.entries(right)) {
    const before = Object.hasOwn(result, name) ? result[name] : undefined;
    result[name] = isFields(before) && isFields(value) ? merged(before, value) : value;
  }
  return result;
};
