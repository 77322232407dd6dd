/** What a provider says that an answer cost. */
import type { ModelAnswer } from '../../ports/performers.ts';

/** What a provider says of tokens: a whole number from 0 on, or nothing that can be believed. */
const tokensOf = (value: unknown): number | undefined => {
  if (typeof value !== 'number' || !(value >= 0)) return undefined;
  const whole = Math.ceil(value);
  return Number.isSafeInteger(whole) ? whole : undefined;
};

/** What an answer holds, as far as its usage must fit it. */
export type Output = Pick<ModelAnswer, 'content' | 'calls'>;

/**
 * Odd usage never throws a good answer away: it counts as none, and the gateway takes the bound.
 * Every prompt has tokens, and so has every text or call: a zero means that nobody counted.
 */
export function usageFrom(
  { content, calls }: Output,
  prompt: unknown,
  completion: unknown,
  cached: unknown,
  written?: unknown,
): ModelAnswer['usage'] {
  const [promptTokens, completionTokens] = [tokensOf(prompt), tokensOf(completion)];
  if (promptTokens === undefined || completionTokens === undefined) return undefined;
  const completionTokensMin = content !== '' || calls.length > 0 ? 1 : 0;
  if (promptTokens < 1 || completionTokens < completionTokensMin) return undefined;
  const cacheWriteTokens = Math.min(tokensOf(written) ?? 0, promptTokens);
  return {
    promptTokens,
    completionTokens,
    cachedTokens: Math.min(tokensOf(cached) ?? 0, promptTokens),
    ...(cacheWriteTokens > 0 ? { cacheWriteTokens } : {}),
  };
}
