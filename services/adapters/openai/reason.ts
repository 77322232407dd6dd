/**
 * The provider's own reason, for people: cut, on one line, without secrets, and without what it
 * quotes of the request, which is a tenant's.
 */
import type { Prompt } from '../../ports/performers.ts';

const reasonMax = 300; // characters
const runLength = 12; // characters in a row that a reason and the request have in common are a quotation
const secretShape = /(?:\b(?:sk|pk|key|token|bearer|basic)[-_ :=]+\S{6,})|[A-Za-z0-9+/_=-]{32,}/gi;

/** @param said  the provider's message; undefined where it gave none */
export function reasonFrom(said: unknown, secrets: readonly string[], prompt: Prompt): string {
  if (typeof said !== 'string') return '';
  let text = said.replaceAll(/\s+/g, ' ').trim().slice(0, 2_000);
  for (const secret of secrets) text = text.replaceAll(secret, '***');
  text = text.replaceAll(secretShape, '***').slice(0, reasonMax);
  return withoutQuotes(text, [
    prompt.instructions,
    ...prompt.entries.map(({ content }) => content),
    ...prompt.entries.flatMap((entry) =>
      entry.role === 'assistant' ? (entry.calls ?? []).map((call) => call.arguments) : [],
    ),
  ]).trim();
}

/** Runs of the request become an ellipsis. */
function withoutQuotes(text: string, request: readonly string[]): string {
  const sent = request.map((one) => one.replaceAll(/\s+/g, ' '));
  const isSent = (run: string) => sent.some((one) => one.includes(run));
  let kept = '';
  for (let at = 0; at < text.length; ) {
    let length = runLength;
    if (at + length > text.length || !isSent(text.slice(at, at + length))) {
      kept += text[at];
      at += 1;
      continue;
    }
    while (at + length < text.length && isSent(text.slice(at, at + length + 1))) length += 1;
    kept += '…';
    at += length;
  }
  return kept;
}
