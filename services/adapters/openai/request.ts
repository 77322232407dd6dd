/**
 * What is sent of a conversation. The record keeps what a model said as it said it; strict
 * providers refuse a request that repeats it where it was no call: what is sent is what they accept.
 */
import { jsonOf } from '../../core/json.ts';
import type { Entry } from '../../core/session/conversation.ts';
import type { ToolCall } from '../../core/session/messages.ts';

export interface RequestOptions {
  readonly signal: AbortSignal;
  readonly headers?: Readonly<Record<string, string>>;
  /** Told of each piece that comes. */
  readonly onData?: () => void;
}

const nameMax = 64; // characters; letters, digits, `_` and `-` are what all providers take

/** A made-up name, as far as it can be a name. */
const nameOf = (name: string): string =>
  name.replaceAll(/[^A-Za-z0-9_-]/g, '_').slice(0, nameMax) || 'unknown';

function argumentsOf(text: string): string {
  const value = jsonOf(text);
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? text : '{}';
}

/** Calls are sent with each turn that follows: what they are sent as is kept beside them. */
const sent = new WeakMap<ToolCall, ToolCall>();

export function sendable(call: ToolCall): ToolCall {
  const known = sent.get(call);
  if (known) return known;
  const { id, name, arguments: text } = call;
  const made = { id, name: nameOf(name), arguments: argumentsOf(text) };
  sent.set(call, made);
  return made;
}

/** An assistant that said nothing and called nothing is refused by some: it is left out. */
export const isSent = (entry: Entry): boolean =>
  entry.role !== 'assistant' || entry.content !== '' || (entry.calls?.length ?? 0) > 0;
