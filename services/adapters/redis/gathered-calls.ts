/**
 * Calls of a script that are asked for in one turn, or while another call is under way, go as one, each judged for itself: a call alone costs
 * both sides as much as what is in it.
 *
 * The script is given the keys of all, and of each its arguments with their number first. It answers with a list: what it has to say to
 * each, or `ERROR` and what Redis said. A call that would grow too heavy leaves at once. Where the server takes no keys of two slots, all go
 * alone from the first refusal on.
 */
import { ReplyError } from 'ioredis';

export type Arguments = readonly (string | number)[];

interface Asked<Answer> {
  readonly keys: readonly string[];
  readonly args: Arguments;
  readonly resolve: (answer: Answer) => void;
  readonly reject: (error: unknown) => void;
}

/** Of one call: it holds up every other client of the server while it runs. */
export interface CallLimits {
  readonly askedMax: number;
  /** In the measure of whoever asks. */
  readonly weightMax: number;
}

type Call<Answer> = (
  keyCount: number,
  keys: readonly string[],
  args: Arguments,
) => Promise<readonly (Answer | string)[]>;

export class GatheredCalls<Answer> {
  readonly #call: Call<Answer>;
  readonly #weightMax: number;
  #askedMax: number;
  #asked: Asked<Answer>[] = [];
  /** Of what is gathered, in the same measure. */
  #weight = 0;
  /** Calls without an answer yet. */
  #underWay = 0;

  constructor(call: Call<Answer>, { askedMax, weightMax }: CallLimits) {
    this.#call = call;
    this.#askedMax = askedMax;
    this.#weightMax = weightMax;
  }

  /** @throws what ioredis throws when there was no answer, ReplyError when this one failed */
  ask(keys: readonly string[], args: Arguments, weight: number): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#weight + weight > this.#weightMax) this.#sendGathered();
      this.#weight += weight;
      const count = this.#asked.push({ keys, args, resolve, reject });
      if (count >= this.#askedMax) this.#sendGathered();
      else if (count === 1 && this.#underWay === 0) queueMicrotask(() => this.#sendGathered());
    });
  }

  #sendGathered(): void {
    const asked = this.#asked;
    if (asked.length === 0) return;
    this.#asked = [];
    this.#weight = 0;
    void this.#send(asked);
  }

  async #send(asked: readonly Asked<Answer>[]): Promise<void> {
    this.#underWay += 1;
    try {
      const answers = await this.#call(
        asked.reduce((sum, { keys }) => sum + keys.length, 0),
        asked.flatMap(({ keys }) => keys),
        asked.flatMap(({ args }) => [args.length, ...args]),
      );
      for (const [index, { resolve, reject }] of asked.entries()) {
        const answer = answers[index];
        if (answer === undefined) reject(new ReplyError('the script said nothing'));
        else if (typeof answer === 'string' && answer.startsWith('ERROR '))
          reject(new ReplyError(answer.slice(6)));
        else resolve(answer as Answer);
      }
    } catch (error) {
      if (asked.length > 1 && isCrossSlot(error)) this.#sendAlone(asked);
      else for (const { reject } of asked) reject(error);
    }
    this.#underWay -= 1;
    if (this.#underWay === 0) this.#sendGathered();
  }

  /** The server refused the call for its keys, before it ran. It will refuse all such calls. */
  #sendAlone(asked: readonly Asked<Answer>[]): void {
    this.#askedMax = 1;
    for (const one of asked) void this.#send([one]);
  }
}

/** What looks like a single server may be a cluster behind one address, where no script may touch keys of two slots. */
const isCrossSlot = (error: unknown): boolean =>
  error instanceof Error && error.message.startsWith('CROSSSLOT');
