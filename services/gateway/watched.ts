/** What watchers are told of one model call: which attempt a piece belongs to, where it begins and how it ends. */
import type { CallModel } from '../core/session/effects.ts';
import type { TokenPiece, Tokens } from '../ports/tokens.ts';

export class Watched {
  readonly #tell: Tokens;
  readonly #of: Pick<TokenPiece, 'tenant' | 'session' | 'call'>;
  #attempt = 0;
  #hasBegun = false;

  constructor(tell: Tokens, { id, tenant, session }: CallModel) {
    this.#tell = tell;
    this.#of = { tenant, session, call: id };
  }

  /** @param attempt  its number, those of other gateways included */
  begin(attempt: number): void {
    this.#attempt = attempt;
    this.#hasBegun = false;
  }

  readonly text = (text: string): void => {
    if (!this.#hasBegun) this.#say('begin', '');
    this.#hasBegun = true;
    this.#say('text', text);
  };

  end(isAnswered: boolean): void {
    if (this.#hasBegun) this.#say('end', '', isAnswered ? 'answered' : 'dropped');
    this.#hasBegun = false;
  }

  #say(part: TokenPiece['part'], text: string, end?: TokenPiece['end']): void {
    this.#tell({ ...this.#of, attempt: this.#attempt, part, text, ...(end ? { end } : {}) });
  }
}
