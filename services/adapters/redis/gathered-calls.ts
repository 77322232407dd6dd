/**
 * Calls of a script that are asked for in one turn, or while another call is under way, go as one, each judged for itself: a call alone costs
 * both sides as much as what is in it.
 *
 * The script is given the keys of all, and of each its arguments with their number first. It answers with a list: what it has to say to
 * each, or `ERROR` and what Redis said.
 */
import { ReplyError } from 'ioredis';

export type Arguments = readonly (string | number)[];

interface Asked<Answer> {
  readonly keys: readonly string[];
  readonly args: Arguments;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

export interface CallLimits {
  /** In one call: it holds up every other client of the server while it runs. */
  readonly argumentsMax: number;
  readonly askedMax: number;
}

export class GatheredCalls<Answer> {
  readonly #call: (keyCount: number, keys: readonly string[], args: Arguments) => Promise<readonly (Answer | string)[]>;
  readonly #limits: CallLimits;
  #asked: Asked<Answer>[] = [];
  /** Of those. */
  #arguments = 0;
  /** Calls without an answer yet. */
  #underWay = 0;

  constructor(call: (keyCount: number, keys: readonly string[], args: Arguments) => Promise<readonly (Answer | string)[]>, limits: CallLimits) {
    this.#call = call;
    this.#limits = limits;
  }

  /** @throws what ioredis throws when there was no answer, ReplyError when this one failed */
  ask(keys: readonly string[], args: Arguments): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#arguments + args.length > this.#limits.argumentsMax) this.#send();
      this.#arguments += args.length;
      const count = this.#asked.push({ keys, args, resolve, reject });
      if (count >= this.#limits.askedMax) this.#send();
      else if (count === 1 && this.#underWay === 0) queueMicrotask(() => this.#send());
    });
  }

  #send(): void {
    const asked = this.#asked;
    if (asked.length === 0) return;
    this.#asked = [];
    this.#arguments = 0;
    const keys = asked.flatMap((one) => one.keys);
    const args = asked.flatMap((one) => [one.args.length, ...one.args]);
    this.#underWay += 1;
    const over = () => {
      this.#underWay -= 1;
      if (this.#underWay === 0) this.#send();
    };
    this.#call(keys.length, keys, args).then(
      (answers) => {
        over();
        for (const [index, { resolve, reject }] of asked.entries()) {
          const answer = answers[index];
          if (answer === undefined) reject(new ReplyError('the script said nothing'));
          else if (typeof answer === 'string' && answer.startsWith('ERROR ')) reject(new ReplyError(answer.slice(6)));
          else resolve(answer as Answer);
        }
      },
      (error: unknown) => {
        over();
        for (const { reject } of asked) reject(error);
      },
    );
  }
}
