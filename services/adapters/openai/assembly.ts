/**
 * Puts an answer together as providers send it: whole, or piece by piece. Providers differ in what
 * they leave out, repeat and nest; what they mean is decided here, once for all of them.
 *
 * P1  A piece goes on with the call of its id, then of its index, then with the last one. It begins
 *     another where it brings a name and another id, or a name after a whole call. An answer that
 *     came whole has whole calls.
 * P5  An id is text that no other call of the answer has; where it came twice, the later one is new.
 * P2  A name that comes again is a repeat; a further piece is appended.
 * P3  Arguments are text; an object is what that text would have been.
 * P4  Of content in parts the text counts.
 */
import { z } from 'zod';
import { jsonOf } from '../../core/json.ts';
import type { ToolCall } from '../../core/session/messages.ts';
import { finishOf } from './dialect.ts';

const textSchema = z
  .union([z.string(), z.array(z.unknown())])
  .nullish()
  .catch(null);
const partSchema = z
  .object({
    index: z.number().int().nonnegative().nullish().catch(null),
    id: z.union([z.string(), z.number()]).nullish().catch(null),
    function: z
      .object({
        name: z.string().nullish().catch(null),
        arguments: z
          .union([z.string(), z.record(z.string(), z.unknown())])
          .nullish()
          .catch(null),
      })
      .partial()
      .nullish()
      .catch(null),
  })
  .catch({});
const saidSchema = z
  .object({
    content: textSchema,
    refusal: z.string().nullish().catch(null),
    reasoning_content: z.string().nullish().catch(null),
    tool_calls: z.array(partSchema).nullish().catch(null),
  })
  .partial()
  .nullish()
  .catch(null);
const choiceSchema = z.object({
  delta: saidSchema.optional(),
  message: saidSchema.optional(),
  finish_reason: z.string().nullish().catch(null),
});
const chunkSchema = z.object({
  model: z.string().nullish().catch(null),
  choices: z.array(choiceSchema).nullish().catch(null),
  usage: z.unknown().optional(),
});

type Part = z.infer<typeof partSchema>;

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
    const parsed = chunkSchema.safeParse(chunk);
    if (!parsed.success) return '';
    const { model, choices, usage } = parsed.data;
    if (model) this.#model = model;
    if (usage) this.#usage = usage;
    const [choice] = choices ?? [];
    if (!choice) return '';
    const said = choice.delta ?? choice.message;
    const text = textOf(said?.content);
    this.#content += text;
    this.#refusal += said?.refusal ?? '';
    this.#reasoning += said?.reasoning_content ?? '';
    const isPiece = choice.delta !== undefined && choice.delta !== null;
    let hasName = false;
    for (const part of said?.tool_calls ?? []) {
      const isNameless = !part.function?.name;
      const isPlaced = Boolean(part.id) || typeof part.index === 'number';
      // Two names side by side, and nothing else that tells: two calls.
      this.#addPart(part, isPiece && (isNameless || isPlaced || !hasName));
      hasName ||= !isNameless;
    }
    this.#finish = choice.finish_reason || this.#finish;
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

  /** @param canRepeat  it is a piece: what it names may have begun before */
  #addPart({ index, id, function: called }: Part, canRepeat: boolean): void {
    const piece = {
      index: index ?? undefined,
      id: id === null || id === undefined ? '' : String(id),
      name: called?.name ?? '',
      arguments: called?.arguments ?? '',
    };
    if (!piece.id && !piece.name && !piece.arguments) return;
    const call = (canRepeat ? this.#begunBy(piece) : undefined) ?? this.#begin(piece.index);
    call.id ||= piece.id;
    if (piece.name !== call.name) call.name += piece.name;
    if (typeof piece.arguments === 'string') call.arguments += piece.arguments;
    else call.arguments = JSON.stringify(piece.arguments);
  }

  #begin(index: number | undefined): ToolCall {
    const call = { id: '', name: '', arguments: '' };
    this.#calls.push(call);
    if (index !== undefined) this.#byIndex.set(index, call);
    return call;
  }

  /** The call that a piece goes on with, if it begins none. */
  #begunBy({ index, id, name }: { index: number | undefined; id: string; name: string }) {
    const byId = id ? this.#calls.find((call) => call.id === id) : undefined;
    const there = index === undefined ? this.#calls.at(-1) : this.#byIndex.get(index);
    if (byId && (index === undefined || !name || byId === there)) return byId;
    if (!there || !name) return there;
    if (id && there.id) return id === there.id ? there : undefined;
    // No id tells them apart: another name, or a whole call before it, is another call.
    const isOther = name !== there.name && there.arguments !== '';
    const isWhole = index === undefined && jsonOf(there.arguments) !== undefined;
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

function textOf(content: z.infer<typeof textSchema>): string {
  if (typeof content === 'string') return content;
  return (content ?? [])
    .map((part) => {
      if (typeof part === 'string') return part;
      const { type, text } = (part ?? {}) as { type?: unknown; text?: unknown };
      return typeof text === 'string' && (type === undefined || type === 'text') ? text : '';
    })
    .join('');
}
