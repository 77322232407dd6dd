/**
 * A piece of an answer that is on its way, for whoever watches. It is not stored, and some may be lost.
 *
 * Of one call a later attempt begins anew: a reader drops what the attempt before it said. `end` tells
 * what became of the attempt: `answered` is the answer, `dropped` was none.
 */
export interface TokenPiece {
  readonly tenant: string;
  readonly session: string;
  /** The effect id of the model call. */
  readonly call: string;
  /** From 1 on, over all gateways that made the call. */
  readonly attempt: number;
  readonly part: 'begin' | 'text' | 'end';
  readonly text: string;
  readonly end?: 'answered' | 'dropped' | undefined;
}

export type Tokens = (piece: TokenPiece) => void;
