/**
 * What a session has heard since its last baseline, for the next one to hold.
 *
 * Messages of one session repeat each other's words, so where there are many sessions all but the last few are kept compressed: a sixth to a ninth of
 * their size. Without it they are most of what a waiting session weighs.
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { limits } from '../core/limits.ts';

interface Kept {
  readonly version: number;
  readonly sequence: number;
  /** JSON, and so without a line break. */
  readonly text: string;
}

interface Packed {
  readonly lastVersion: number;
  /** A byte a character: what zlib gives back is a piece of a block many times its size, and would keep all of it. */
  readonly lines: string;
}

/** Of a few KiB, where a larger window and more memory only cost time: 13 µs for 2 KiB. */
const options = { level: 3, windowBits: 13, memLevel: 6 } as const;

const pack = (kept: readonly Kept[]): Packed => ({
  lastVersion: kept.at(-1)!.version,
  lines: deflateRawSync(
    kept.map(({ version, sequence, text }) => `${version} ${sequence} ${text}`).join('\n'),
    options,
  ).toString('latin1'),
});

const unpack = ({ lines }: Packed): Kept[] =>
  inflateRawSync(Buffer.from(lines, 'latin1'))
    .toString('utf8')
    .split('\n')
    .map((line) => {
      const [version, sequence] = line.split(' ', 2);
      return {
        version: Number(version),
        sequence: Number(sequence),
        text: line.slice(version!.length + sequence!.length + 2),
      };
    });

/** How many characters of a session's mail are kept as they are: few where a shard has many sessions in memory, and each must weigh little. */
export const plainMaxOf = (sessions: number): number =>
  sessions > limits.mailPlainSessions ? limits.mailPackLength : limits.mailPlainLength;

export class MailBuffer {
  #packed: Packed[] = [];
  #recent: Kept[] = [];
  #recentLength = 0;
  /** Messages, and their characters: what a baseline of all of them would hold. */
  count = 0;
  length = 0;

  /** @param plainMax  characters that may be kept as they are */
  push(version: number, sequence: number, text: string, plainMax: number): void {
    this.#recent.push({ version, sequence, text });
    this.#recentLength += text.length;
    this.count += 1;
    this.length += text.length;
    if (this.#recentLength < plainMax) return;
    this.#packed.push(pack(this.#recent));
    this.#recent = [];
    this.#recentLength = 0;
  }

  /** Characters that are held in memory. */
  get weight(): number {
    return this.#packed.reduce((sum, { lines }) => sum + lines.length, this.#recentLength);
  }

  /** In the order in which they came, each as JSON. */
  upTo(version: number): string[] {
    return this.#all()
      .filter((kept) => kept.version <= version)
      .map(({ text }) => text);
  }

  /** A baseline holds those up to this version. @returns the sequence of the first that is left */
  forget(version: number): number | undefined {
    const left =
      (this.#packed.at(-1)?.lastVersion ?? 0) <= version
        ? this.#recent.filter((kept) => kept.version > version)
        : this.#all().filter((kept) => kept.version > version);
    this.#packed = [];
    this.#recent = left;
    this.#recentLength = left.reduce((sum, { text }) => sum + text.length, 0);
    this.count = left.length;
    this.length = this.#recentLength;
    return left[0]?.sequence;
  }

  #all(): Kept[] {
    return [...this.#packed.flatMap(unpack), ...this.#recent];
  }
}
