/**
 * Any OpenAI-compatible provider through the openai package: Chat Completions, or the Responses
 * API. Its own retries are off: ours are classified.
 */
import type OpenAI from 'openai';
import { failed } from '../../core/tools/job.ts';
import type { Clock } from '../../ports/clock.ts';
import type { Model, Prompt } from '../../ports/performers.ts';
import { addressOf, keyOf } from './address.ts';
import { askChat } from './chat.ts';
import { DirectClient } from './client.ts';
import { classify, refusesTemperature } from './refusal.ts';
import { askResponses } from './responses.ts';

export function openaiModel(
  environment: Readonly<Record<string, string | undefined>>,
  clock: Pick<Clock, 'timeLimit'>,
): Model {
  const clients = new Map<string, OpenAI>();
  /** Temperatures that models refused, and answered without: they are asked without. */
  const withoutTemperature = new Set<string>();
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
      const key = keyOf(spec, environment);
      if (!key.ok) return key;
      const client = clientFor(address.url, key.key);
      const place = `${address.url}\n${spec.model}\n${prompt.temperature}`;
      const from = performance.now();
      const limit = clock.timeLimit(spec.timeoutMs, signal);
      const options = {
        signal: limit.signal,
        ...(prompt.traceparent ? { headers: { traceparent: prompt.traceparent } } : {}),
      };
      const ask = (what: Prompt) =>
        (spec.api === 'responses' ? askResponses : askChat)(client, spec, what, options, onText);
      const bare = { ...prompt, temperature: null };
      try {
        const first = withoutTemperature.has(place) ? bare : prompt;
        const answer = await ask(first).catch(async (error) => {
          if (first.temperature === null || !refusesTemperature(error)) throw error;
          const second = await ask(bare);
          withoutTemperature.add(place);
          return second;
        });
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
