/**
 * Puts an answer together as providers send it: whole, or piece by piece. Providers differ in what
 * they leave out, repeat and nest; what they mean is decided here, once for all of them.
 *
 * P1  A call is found by its id, then by its index; a piece with neither belongs to the last call.
 *     Another id at a used index is another call, and an empty id is none.
 * P2  A name that comes again is a repeat; a further piece is appended.
 * P3  Arguments are text; an object is what that text would have been.
 * P4  Of content in parts the text counts.
 */
import { z } from 'zod';
import type { ToolCall } from '../../core/session/messages.ts';

const textSchema = z
  .union([z.string(), z.array(z.unknown())])
  .nullish()
  .catch(null);
const partSchema = z
  .object({
    index: z.number().int().nonnegative().nullish().catch(null),
    id: z.string().nullish().catch(null),
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
  readonly #calls: { id: string; name: string; arguments: string }[] = [];
  readonly #byIndex = new Map<number, number>();

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
    for (const part of said?.tool_calls ?? []) this.#addPart(part);
    this.#finish = choice.finish_reason || this.#finish;
    return text;
  }

  /**
   * @param isWhole  it came in one piece, so that nothing can be missing
   * @returns undefined where no end was told: nobody knows what is missing
   */
  end(isWhole: boolean): Assembled | undefined {
    const finish = this.#finish ?? (isWhole ? 'stop' : undefined);
    if (finish === undefined) return undefined;
    const isRefused = this.#refusal !== '' && this.#calls.length === 0;
    return {
      content: isRefused ? this.#refusal : this.#content,
      calls: this.#calls.map((call, index) => ({ ...call, id: call.id || `call_${index}` })),
      finish: isRefused ? 'refusal' : finish,
      usage: this.#usage,
      model: this.#model,
      reasoning: this.#reasoning,
    };
  }

  #addPart({ index, id, function: called }: Part): void {
    if (!id && !called?.name && !called?.arguments) return;
    const call = this.#callOf(index ?? undefined, id || undefined);
    if (id && !call.id) call.id = id;
    const name = called?.name ?? '';
    if (name !== call.name) call.name += name;
    const given = called?.arguments ?? '';
    if (typeof given === 'string') call.arguments += given;
    else call.arguments = JSON.stringify(given);
  }

  #callOf(index: number | undefined, id: string | undefined) {
    const known = id === undefined ? -1 : this.#calls.findIndex((call) => call.id === id);
    if (known >= 0) return this.#calls[known]!;
    const at = index === undefined ? this.#calls.length - 1 : (this.#byIndex.get(index) ?? -1);
    const there = this.#calls[at];
    // Without an id it goes on; with one it begins, unless what stands there has none yet.
    if (there && (id === undefined || (index !== undefined && there.id === ''))) return there;
    const call = { id: '', name: '', arguments: '' };
    this.#calls.push(call);
    if (index !== undefined) this.#byIndex.set(index, this.#calls.length - 1);
    return call;
  }
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
