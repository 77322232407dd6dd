/** What a model is asked: the conversation as it stands, or as it is to be summarised. */
import { behaviourOf } from '../core/session/behaviour.ts';
import { condensed, inPromptOrder, lengthOf } from '../core/session/condensed.ts';
import type { Entry } from '../core/session/conversation.ts';
import type { CallModel } from '../core/session/effects.ts';
import { contextLimitOf, fixedBytesOf } from '../core/session/model-call.ts';
import type { Bundle } from '../core/session/specs.ts';
import { delegateTool } from '../core/session/tool-calls.ts';
import type { Prompt } from '../ports/performers.ts';

const charactersPerToken = 3; // of a conversation that is to be summarised: below what most have

/** What has grown too long is cut where it is to be summarised, so that the request fits. */
function toSummarise(
  bundle: Bundle,
  entries: readonly Entry[],
  isTooLong: boolean,
): readonly Entry[] {
  if (behaviourOf(bundle) < 4) return entries;
  // It was refused as it is: half of it may fit, whatever its documents say of the window.
  const half = isTooLong ? Math.floor(lengthOf(entries) / 2) : Number.MAX_SAFE_INTEGER;
  const room = contextLimitOf(bundle) * charactersPerToken - fixedBytesOf(bundle);
  return condensed(entries, Math.min(half, Math.max(contextLimitOf(bundle), room)));
}

export function promptOf(effect: CallModel, bundle: Bundle, stored: readonly Entry[]): Prompt {
  const { agent } = bundle;
  const entries = inPromptOrder(stored);
  const common = {
    temperature: agent.temperature,
    outputTokensMax: effect.outputTokensMax,
    traceparent: effect.traceparent,
  };
  if (effect.purpose === 'input')
    return {
      ...common,
      instructions: agent.instructions,
      entries: [{ role: 'user', content: effect.prompt ?? '' }],
      tools: [],
    };
  if (effect.purpose === 'summary') {
    const ask: Entry = {
      role: 'user',
      content:
        'Summarise this conversation for yourself: the task, what is known, what was done with which result, what remains. Keep every id and amount. Do not call a tool.',
    };
    // Some refuse a conversation with calls where the request names no tools.
    const tools = toolsOf(bundle);
    const { instructions } = agent;
    const shown = toSummarise(bundle, entries, effect.isTooLong === true);
    return { ...common, instructions, entries: [...shown, ask], tools, isSummary: true };
  }
  return { ...common, instructions: agent.instructions, entries, tools: toolsOf(bundle) };
}

const toolsByBundle = new WeakMap<Bundle, Prompt['tools']>();
function toolsOf(bundle: Bundle): Prompt['tools'] {
  let tools = toolsByBundle.get(bundle);
  if (!tools) {
    const names = Object.keys(bundle.agents);
    const delegate = {
      name: delegateTool,
      description: `Give a task to another agent and wait for its answer. ${names.map((name) => `${name}: ${bundle.agents[name]!.description}`).join('; ')}`,
      input: {
        type: 'object',
        properties: { agent: { type: 'string', enum: names }, input: { type: 'string' } },
        required: ['agent', 'input'],
      },
    };
    tools = [
      ...Object.entries(bundle.tools).map(([name, { description, input }]) => ({
        name,
        description,
        input,
      })),
      ...(names.length > 0 ? [delegate] : []),
    ];
    toolsByBundle.set(bundle, tools);
  }
  return tools;
}
