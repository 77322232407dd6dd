/**
 * What a model is shown when it is to summarise, and what of it stays word for word.
 *
 * A conversation is summarised because it is too long: the request for that must not be, so its
 * longest texts are cut. The task's own words go along from summary to summary.
 */
import type { Entry } from './conversation.ts';

const wordsMax = 16_000; // characters of a task that stay word for word
const head = 'The task, word for word:';
const tail = '\n\nWhat has happened since:\n';

/** What we said to the model ourselves, and no task. */
const ours = /^Your answer was (?:cut off|empty)/;

/**
 * Entries whose texts together have no more than so many characters: the longest are cut, each to the
 * same length. Calls keep their form.
 */
export function condensed(entries: readonly Entry[], lengthMax: number): Entry[] {
  const lengths = entries.flatMap(lengthsOf);
  const cap = capFor(lengths, lengthMax);
  if (cap === undefined) return [...entries];
  const cut = (text: string) =>
    text.length <= cap ? text : `${text.slice(0, cap)} [cut: ${text.length} characters]`;
  return entries.map((entry): Entry => {
    if (entry.role !== 'assistant') return { ...entry, content: cut(entry.content) };
    const { thought: _, ...rest } = entry;
    const calls = entry.calls?.map((call) =>
      call.arguments.length <= cap
        ? call
        : { ...call, arguments: JSON.stringify({ cut: cut(call.arguments) }) },
    );
    return { ...rest, content: cut(entry.content), ...(calls ? { calls } : {}) };
  });
}

const lengthsOf = (entry: Entry): number[] => [
  entry.content.length,
  ...(entry.role === 'assistant' ? (entry.calls ?? []) : []).map((call) => call.arguments.length),
];

/** Characters of all texts. */
export const lengthOf = (entries: readonly Entry[]): number =>
  entries.flatMap(lengthsOf).reduce((sum, length) => sum + length, 0);

/** The length that the longest texts are cut to; undefined where all of them fit. */
function capFor(lengths: readonly number[], lengthMax: number): number | undefined {
  const ascending = lengths.toSorted((left, right) => left - right);
  let left = Math.max(0, lengthMax);
  for (const [index, length] of ascending.entries()) {
    const share = Math.floor(left / (ascending.length - index));
    if (length > share) return share;
    left -= length;
  }
  return undefined;
}

/** The last summary comes first: what stands before it in the conversation are the turns that were kept. */
export function inPromptOrder(entries: readonly Entry[]): readonly Entry[] {
  const at = entries.findLastIndex(({ role }) => role === 'summary');
  if (at <= 0) return entries;
  return [entries[at]!, ...entries.slice(0, at), ...entries.slice(at + 1)];
}

/** The task that the conversation is about, as its publisher said it; empty where it cannot be found. */
export function taskIn(entries: readonly Entry[]): string {
  const said = entries.findLast(({ role, content }) => role === 'user' && !ours.test(content));
  if (said) return said.content;
  const summary = entries.findLast(({ role }) => role === 'summary')?.content ?? '';
  const end = summary.indexOf(tail);
  return summary.startsWith(head) && end > 0 ? summary.slice(head.length + 1, end) : '';
}

/**
 * What happened, in our own words and cut: for a model that was asked to summarise and did not.
 *
 * @param lengthMax  characters of the texts that it quotes
 */
export function transcript(entries: readonly Entry[], lengthMax: number): string {
  const lines = condensed(entries, lengthMax).flatMap((entry): string[] => {
    if (entry.role === 'user') return [`The user said: ${entry.content}`];
    if (entry.role === 'tool') return [`${entry.tool} returned: ${entry.content}`];
    if (entry.role === 'summary') return [entry.content];
    const said = entry.content === '' ? [] : [`You said: ${entry.content}`];
    const calls = (entry.calls ?? []).map((call) => `You called ${call.name}: ${call.arguments}`);
    return [...said, ...calls];
  });
  return `(not summarised; cut where it is long)\n${lines.join('\n')}`;
}

/** A summary with the task's own words before it. @param task  as `taskIn` found it */
export function summaryWith(task: string, summary: string): string {
  if (task === '') return summary;
  const words = task.length <= wordsMax ? task : `${task.slice(0, wordsMax)} [cut]`;
  return `${head}\n${words}${tail}${summary}`;
}
