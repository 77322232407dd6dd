/**
 * What providers call the same thing, as data. A row is added with the server whose word it is.
 * Words are looked for in the code, the type and the message of a refusal.
 */

/** The prompt is longer than the model's window. */
export const tooLongWords: readonly (readonly [words: RegExp, server: string])[] = [
  [/context_length_exceeded/, 'OpenAI, Azure'],
  [/ContextWindowExceeded/, 'LiteLLM'],
  [/exceed_context_size/, 'llama.cpp'],
  [/maximum context length/i, 'vLLM, OpenRouter, older OpenAI models'],
  [/prompt is too long/i, 'Anthropic'],
  [/input is too long/i, 'Bedrock'],
  [/exceeds the maximum number of tokens/i, 'Gemini'],
  [/reduce the length of the (messages|prompt)/i, 'Groq'],
  [/exceeds? the (available )?context (size|window)/i, 'llama.cpp, LM Studio'],
];

/** Statuses that mean "later", beside all from 500 on. */
export const laterStatuses: ReadonlySet<number> = new Set([408, 409, 425, 429]);

/** A temperature that the model does not take: the same request goes out once more without it. */
export const temperatureWords: readonly (readonly [words: RegExp, server: string])[] = [
  [/unsupported (value|parameter)[^.]*temperature/i, 'OpenAI, Azure: o1 and later, gpt-5'],
  [/does(n't| not) support ('?)temperature/i, 'LiteLLM: UnsupportedParamsError'],
  [/temperature[^.]{0,40}(not supported|deprecated|is not allowed)/i, 'Anthropic, Bedrock'],
];

/** Words for an end that is none of `stop` and its like. */
const finishWords: ReadonlyMap<string, 'length' | 'content_filter' | 'broken'> = new Map([
  ['max_tokens', 'length'], // Anthropic, Gemini, passed on by gateways
  ['model_length', 'length'], // Mistral
  ['safety', 'content_filter'], // Gemini
  ['prohibited_content', 'content_filter'], // Gemini
  ['guardrail_intervened', 'content_filter'], // Bedrock
  ['content_filtered', 'content_filter'], // Bedrock
  ['sensitive', 'content_filter'], // Zhipu
  ['error', 'broken'], // Mistral, OpenRouter
  ['insufficient_system_resource', 'broken'], // DeepSeek
  ['network_error', 'broken'], // Zhipu
]);

/** A provider's word for the end of an answer, as the core knows it; what is not known stays. */
export const finishOf = (word: string): string => finishWords.get(word.toLowerCase()) ?? word;
