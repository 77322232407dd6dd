/**
 * The provider's own reason, for people: cut, on one line, without secrets, and without what it
 * quotes of the request, which is a tenant's.
 */
import { withoutSecrets } from '../../core/tools/placeholders.ts';
import type { Prompt } from '../../ports/performers.ts';

const reasonMax = 300; // characters
const runLength = 12; // characters in a row that a reason and the request have in common are a quotation
const shortMin = 4; // a shorter text of the request is a word like any other
const secretShape = /(?:\b(?:sk|pk|key|token|bearer|basic)[-_ :=]+\S{6,})|[A-Za-z0-9+/_=-]{32,}/gi;

/** @param said  the provider's message; undefined where it gave none */
export function reasonFrom(said: unknown, secrets: readonly string[], prompt: Prompt): string {
  if (typeof said !== 'string') return '';
  let text = unescaped(said.slice(0, 4_000)).replaceAll(/\s+/g, ' ').trim().slice(0, 2_000);
  text = withoutSecrets(text, secrets).replaceAll(secretShape, '***').slice(0, reasonMax);
  return withoutQuotes(text, [
    prompt.instructions,
    ...prompt.entries.map(({ content }) => content),
    ...prompt.entries.flatMap((entry) =>
      entry.role === 'assistant' ? (entry.calls ?? []).map((call) => call.arguments) : [],
    ),
  ]).trim();
}

/** As it was written before it was put into JSON: a quotation must be known as one. */
const unescaped = (text: string): string =>
  text
    .replaceAll(/\\+u([0-9a-f]{4})/gi, (_, code: string) =>
      String.fromCharCode(Number.parseInt(code, 16)),
    )
    .replaceAll(/\\+[nrt]/g, ' ')
    .replaceAll(/\\+(["'/])/g, '$1');

/** Runs of the request become an ellipsis. */
function withoutQuotes(text: string, request: readonly string[]): string {
  const sent = request.map((one) => unescaped(one).replaceAll(/\s+/g, ' ').trim());
  const isQuoted = new Uint8Array(text.length);
  const whole = sent.join('\n');
  for (let at = 0; at + runLength <= text.length; at += 1)
    if (whole.includes(text.slice(at, at + runLength))) isQuoted.fill(1, at, at + runLength);
  for (const short of new Set(sent)) {
    if (short.length < shortMin || short.length >= runLength) continue;
    for (let at = text.indexOf(short); at >= 0; at = text.indexOf(short, at + 1))
      isQuoted.fill(1, at, at + short.length);
  }
  let kept = '';
  for (let at = 0; at < text.length; at += 1)
    if (isQuoted[at] === 0) kept += text[at];
    else if (isQuoted[at - 1] !== 1) kept += '…';
  return kept;
}
