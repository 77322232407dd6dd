/**
 * Any OpenAI-compatible provider through the openai package: Chat Completions, or the Responses
 * API. Its own retries are off: ours are classified.
 */
import { createHash } from 'node:crypto';
import type OpenAI from 'openai';
import { totalMsOf } from '../../core/session/model-spec.ts';
import { failed } from '../../core/tools/job.ts';
import type { Clock } from '../../ports/clock.ts';
import type { Model, Prompt } from '../../ports/performers.ts';
import { askChat } from './chat.ts';
import { DirectClient } from './client.ts';
import { reasonFrom } from './reason.ts';
import { classify, refusesTemperature } from './refusal.ts';
import { askResponses } from './responses.ts';
import { settingsOf } from './settings.ts';
import { fieldsOf } from './shape.ts';

export function openaiModel(
  environment: Readonly<Record<string, string | undefined>>,
  clock: Pick<Clock, 'timeLimit'>,
): Model {
  const clients = new Map<string, OpenAI>();
  const doors = new WeakMap<object, string>();
  /** Temperatures that models refused, and answered without: they are asked without. */
  const withoutTemperature = new Set<string>();
  const clientFor = (baseUrl: string, apiKey: string | undefined): OpenAI => {
    const key = `${baseUrl}\n${apiKey ?? ''}`;
    let client = clients.get(key);
    if (!client) {
      client = new DirectClient(baseUrl, apiKey);
      clients.set(key, client);
    }
    return client;
  };
  return {
    doorOf(spec) {
      const known = doors.get(spec);
      if (known) return known;
      const found = settingsOf(spec, environment);
      if (!found.ok) return undefined;
      const { url, model, key = '' } = found.settings;
      const door = createHash('sha256')
        .update(JSON.stringify([url, model, key]))
        .digest('hex');
      doors.set(spec, door.slice(0, 32));
      return doors.get(spec);
    },
    whyNot(spec) {
      const found = settingsOf(spec, environment);
      return found.ok
        ? undefined
        : found.failure.message.replace(`model ${spec.name}`, '').replace(/^:? /, '');
    },
    async complete(spec, given, { signal, onText }) {
      const found = settingsOf(spec, environment);
      if (!found.ok) return found;
      const { url, key, model, headers, body, secrets } = found.settings;
      const { temperature = given.temperature } = spec;
      const prompt = { ...given, temperature };
      const client = clientFor(url, key);
      const place = `${url}\n${model}\n${temperature}`;
      const from = performance.now();
      // Until the first piece, and between two of them; and all of it together.
      const silence = clock.timeLimit(spec.timeoutMs, signal);
      const whole = clock.timeLimit(totalMsOf(spec), silence.signal);
      const options = {
        signal: whole.signal,
        headers: {
          ...(prompt.traceparent ? { traceparent: prompt.traceparent } : {}),
          ...headers,
        },
        ...(spec.stream ? { onData: () => silence.again() } : {}),
      };
      const ask = (what: Prompt) => {
        const fields = fieldsOf(spec, what, model, body);
        const shape = { name: spec.name, model, stream: spec.stream, fields };
        return (spec.api === 'responses' ? askResponses : askChat)(
          client,
          shape,
          what,
          options,
          onText,
        );
      };
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
        const isOver = silence.isOver || whole.isOver;
        return classify(error, isOver, spec.name, (said) => reasonFrom(said, secrets, prompt));
      } finally {
        whole.stop();
        silence.stop();
      }
    },
  };
}
