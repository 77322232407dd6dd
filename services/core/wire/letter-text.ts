/** A dead letter as text that one message can carry. */

import { beginningWithin } from '../json.ts';

interface Cuttable {
  readonly body: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly isCut?: boolean | undefined;
}

/**
 * As much of the letter as fits: a letter that no message can carry would never be stored, and what waits for that would wait for ever.
 * JSON within JSON is longer than it was, up to six times (`\u0000`): characters of a body say little of its bytes.
 *
 * @param bytesMax  of the text
 * @returns JSON; with `isCut` when the body is its beginning only, or headers were left out
 */
export function letterText(letter: Cuttable, bytesMax: number): string {
  const text = JSON.stringify(letter);
  const excess = Buffer.byteLength(text) - bytesMax;
  if (excess <= 0) return text;
  const headersBytes = Buffer.byteLength(JSON.stringify(letter.headers));
  // Headers that are most of it go before the body does: a body can be read without them.
  if (headersBytes > bytesMax / 2)
    return letterText({ ...letter, headers: {}, isCut: true }, bytesMax);
  const bare = Buffer.byteLength(JSON.stringify({ ...letter, body: '', isCut: true }));
  return JSON.stringify({
    ...letter,
    body: beginningWithin(letter.body, bytesMax - bare),
    isCut: true,
  });
}
