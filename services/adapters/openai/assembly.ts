/**
 * Puts an answer together as providers send it: whole, or piece by piece. Providers differ in what
 * they leave out, repeat and nest; what they mean is decided here, once for all of them.
 *
 * P1  A piece goes on with the call of its id, then of its index, then with the last one. It begins
 *     another where it brings a name and another id, or a name after a whole call. An answer that
 *     came whole has whole calls.
 * P5  An id is text that no other call of the answer has; of two that are equal the later one is
 *     made anew.
 * P2  A name that comes again is a repeat; a further piece is appended.
 * P3  Arguments are text; an object is what that text would have been.
 * P4  Of content in parts the text counts.
 */
import { jsonOf } from '../../core/json.ts';
import type { ToolCall } from '../../core/session/messages.ts';
import { finishOf } from './dialect.ts';

type Fields = Readonly<Record<string, unknown>>;
const none: Fields = {};

// Read by hand: a schema for each chunk costs a gateway as much as all the rest of it.
const fieldsOf = (value: unknown): Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : none;
const textIn = (value: unknown): string => (typeof value === 'string' ? value : '');
const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);
const isIndex = (value: unknown): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0;

export interface Assembled {
  readonly content: string;
  readonly calls: ToolCall[];
  /** The provider's word; `refusal` where the model refused in words of its own. */
  readonly finish: string;
  /** As it came. */
  readonly usage: unknown;
  readonly model: string;
  /** What it thought before it called, where the provider told. */
  readonly reasoning: string;
}

/** Of a call, or all of it. */
interface Piece {
  readonly index: number | undefined;
  readonly id: string;
  readonly name: string;
  readonly arguments: string;
  readonly isWhole: boolean;
}

export class Assembly {
  #content = '';
  #refusal = '';
  #reasoning = '';
  #finish: string | undefined;
  #model = '';
  #usage: unknown;
  readonly #calls: ToolCall[] = [];
  readonly #byIndex = new Map<number, ToolCall>();

  /**
   * @param chunk  of a stream, or an answer that came whole
   * @returns the text that it brought
   */
  add(chunk: unknown): string {
    const { model, choices, usage } = fieldsOf(chunk);
    this.#model = textIn(model) || this.#model;
    if (usage) this.#usage = usage;
    const { delta, message, finish_reason: finish } = fieldsOf(listOf(choices)[0]);
    const said = fieldsOf(delta ?? message);
    const text = textOf(said.content);
    this.#content += text;
    this.#refusal += textIn(said.refusal);
    this.#reasoning += textIn(said.reasoning_content);
    this.#addCalls(listOf(said.tool_calls), fieldsOf(delta) !== none);
    this.#finish = textIn(finish) || this.#finish;
    return text;
  }

  /**
   * @param isWhole  it came in one piece, so that nothing can be missing
   * @returns undefined where no end was told, or a bad one: nobody knows what is missing
   */
  end(isWhole: boolean): Assembled | undefined {
    const finish = finishOf(this.#finish ?? (isWhole ? 'stop' : ''));
    if (finish === '' || finish === 'broken') return undefined;
    const isRefused = this.#refusal !== '' && this.#calls.length === 0;
    return {
      content: isRefused ? this.#refusal : this.#content,
      calls: named(this.#calls),
      finish: isRefused ? 'refusal' : finish,
      usage: this.#usage,
      model: this.#model,
      reasoning: this.#reasoning,
    };
  }

  /** @param arePieces  what they name may have begun before */
  #addCalls(parts: readonly unknown[], arePieces: boolean): void {
    let hasName = false;
    for (const part of parts) {
      const { index, id, function: given } = fieldsOf(part);
      const called = fieldsOf(given);
      const piece: Piece = {
        index: isIndex(index) ? index : undefined,
        id: typeof id === 'number' ? String(id) : textIn(id),
        name: textIn(called.name),
        arguments: argumentsOf(called.arguments),
        isWhole: fieldsOf(called.arguments) !== none,
      };
      if (!piece.id && !piece.name && !piece.arguments) continue;
      // Two names side by side, and nothing else that tells: two calls.
      const isPlaced = piece.id !== '' || piece.index !== undefined;
      this.#addPiece(piece, arePieces && (piece.name === '' || isPlaced || !hasName));
      hasName ||= piece.name !== '';
    }
  }

  #addPiece(piece: Piece, canRepeat: boolean): void {
    const call = (canRepeat ? this.#begunBy(piece) : undefined) ?? this.#begin(piece.index);
    call.id ||= piece.id;
    if (piece.name !== call.name) call.name += piece.name;
    call.arguments = piece.isWhole ? piece.arguments : call.arguments + piece.arguments;
  }

  #begin(index: number | undefined): ToolCall {
    const call = { id: '', name: '', arguments: '' };
    this.#calls.push(call);
    if (index !== undefined) this.#byIndex.set(index, call);
    return call;
  }

  /** The call that a piece goes on with, if it begins none. */
  #begunBy({ index, id, name }: Piece): ToolCall | undefined {
    const byId = id ? this.#calls.find((call) => call.id === id) : undefined;
    const there = index === undefined ? this.#calls.at(-1) : this.#byIndex.get(index);
    if (byId && (index === undefined || !name || byId === there)) return byId;
    if (!there || !name) return there;
    if (id && there.id) return id === there.id ? there : undefined;
    // No id tells them apart: another name, or a whole call before it, is another call.
    const isOther = name !== there.name && there.arguments !== '';
    const isWhole =
      index === undefined && there.arguments.endsWith('}') && jsonOf(there.arguments) !== undefined;
    return isOther || isWhole ? undefined : there;
  }
}

/** Ids that no two calls of an answer share, whatever came. */
export function named(calls: readonly ToolCall[]): ToolCall[] {
  const taken = new Set(calls.map(({ id }) => id));
  const used = new Set<string>();
  let made = 0;
  return calls.map((call) => {
    let { id } = call;
    while (!id || used.has(id)) {
      const next = `call_${made++}`;
      id = taken.has(next) ? '' : next;
    }
    used.add(id);
    return { ...call, id };
  });
}

/** Of anything else but text and an object nothing can be made. */
const argumentsOf = (value: unknown): string =>
  fieldsOf(value) === none ? textIn(value) : JSON.stringify(value);

function textOf(content: unknown): string {
  if (typeof content === 'string') return content;
  return listOf(content)
    .map((part) => {
      const { type, text } = fieldsOf(part);
      return textIn(part) || (type === undefined || type === 'text' ? textIn(text) : '');
    })
    .join('');
}
