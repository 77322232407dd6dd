/**
 * A response as it is told piece by piece. The last event holds it whole; where a server leaves it
 * empty there, what was told before counts.
 */
import type { Readable } from 'node:stream';

type Fields = Readonly<Record<string, unknown>>;
const fieldsOf = (value: unknown): Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {};

/** Ends of a stream of the Responses API, with the status that each means. */
const ends: ReadonlyMap<unknown, string> = new Map([
  ['response.completed', 'completed'],
  ['response.incomplete', 'incomplete'],
  ['response.failed', 'failed'],
]);

/**
 * @returns the response as an answer that came whole would be
 * @throws Error where the stream ends without an end, or tells of an error
 */
export async function wholeOf(
  events: AsyncIterable<unknown> | Readable,
  onText?: (text: string) => void,
): Promise<unknown> {
  const items = new Map<number, unknown>();
  let told = '';
  let model: unknown;
  for await (const one of events) {
    const event = fieldsOf(one);
    const { type } = event;
    if (type === 'error') throw new Error('the stream told of an error');
    if (type === 'response.created') model = fieldsOf(event.response).model;
    if (type === 'response.output_text.delta' && typeof event.delta === 'string') {
      told += event.delta;
      onText?.(event.delta);
    }
    if (type === 'response.output_item.done')
      items.set(
        typeof event.output_index === 'number' ? event.output_index : items.size,
        event.item,
      );
    const status = ends.get(type);
    if (status !== undefined) return endOf(fieldsOf(event.response), status, items, told, model);
    // One answer in place of a stream: a proxy that does not stream.
    if (type === undefined && Array.isArray(event.output)) {
      onText?.(textIn(event.output));
      return event;
    }
  }
  throw new Error('the stream ended without an end');
}

function endOf(
  response: Fields,
  status: string,
  items: ReadonlyMap<number, unknown>,
  told: string,
  model: unknown,
): Fields {
  const given = Array.isArray(response.output) ? response.output : [];
  const inOrder = [...items].sort(([left], [right]) => left - right).map(([, item]) => item);
  const known = given.length > 0 ? given : inOrder;
  const bare = [{ type: 'message', content: told }];
  const output = known.length === 0 && told !== '' ? bare : known;
  return { model, ...response, status: response.status ?? status, output };
}

const textIn = (output: readonly unknown[]): string =>
  output
    .map(fieldsOf)
    .filter(({ type }) => type === 'message')
    .flatMap(({ content }) => (Array.isArray(content) ? content.map(fieldsOf) : []))
    .map(({ text }) => (typeof text === 'string' ? text : ''))
    .join('');
