/**
 * What a user's own machine holds, as JSON: equal to it, or refused with the field's path.
 *
 * A session has one future, whether it stayed in memory or was restored: each step begins from what
 * was stored. What JSON does not write and most machines hold all the same is kept beside it: fields
 * that are `undefined`, errors of invokes, objects without a prototype (`Object.groupBy`), and one
 * object that stands in two places. The record notes where they stood.
 */
import { z } from 'zod';
import { Refused } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Failure } from '../tools/job.ts';

/**
 * By JSON pointer (RFC 6901): what stands there in the machine. `=` and a pointer: the same object
 * as there.
 */
export const formsSchema = z.record(
  z.string(),
  z.union([z.enum(['undefined', 'error', 'bare']), z.templateLiteral(['=', z.string()])]),
);

export type Forms = Readonly<z.infer<typeof formsSchema>>;

type Form = Forms[string];

export interface Stored {
  readonly value: unknown;
  readonly text: string;
  readonly forms: Forms;
}

const formsMax = 1_000; // notes of one value: a record stays small

const lengthMax = 2 * limits.contextBytesMax; // of anything a machine holds: beyond it reading ends

/** The error of an invoke: an Error as a promise's is, with class and code of what failed. */
export class InvokeError extends Error {
  readonly class: Failure['class'];
  readonly code: string;

  constructor({ class: failureClass, code, message }: Failure) {
    super(message);
    this.class = failureClass;
    this.code = code;
    // One that was restored is equal to one that was not.
    Object.defineProperty(this, 'stack', { value: `${code}: ${message}`, enumerable: false });
  }

  toJSON(): Failure {
    const { class: failureClass, code, message } = this;
    return { class: failureClass, code, message };
  }
}

/**
 * @param isRevived  it comes back by `revived`: fields that are undefined keep their places, as null
 * @throws Refused (MACHINE_NOT_JSON) with the path of the first field that JSON would change;
 *         (STATE_TOO_LARGE)
 */
export function exactly(value: unknown, what: string, isRevived = false): Stored {
  const copy = new Copy(what, isRevived);
  const written = safely(() => copy.of(value, '', '', 1), what);
  return { value: written, text: JSON.stringify(written), forms: copy.forms };
}

/** An object that was met: where first, and as what it was written. `length` is 0 while it is read. */
interface Met {
  readonly pointer: string;
  written: unknown;
  length: number;
}

/** One value on its way into JSON. */
class Copy {
  readonly forms: Record<string, Form> = {};
  readonly #what: string;
  readonly #isRevived: boolean;
  readonly #met = new Map<object, Met>();
  #noted = 0;
  #length = 0; // characters so far: an object in two places counts twice, as it is written twice

  constructor(what: string, isRevived: boolean) {
    this.#what = what;
    this.#isRevived = isRevived;
  }

  of(one: unknown, path: string, pointer: string, level: number): unknown {
    if (level > limits.nestingMax) return this.#refuse(path, 'nested too deep, or contains itself');
    this.#add(typeof one === 'string' ? one.length + 2 : 2);
    switch (typeof one) {
      case 'string':
      case 'boolean':
        return one;
      case 'number':
        return Number.isFinite(one) ? one + 0 : this.#refuse(path, String(one));
      case 'undefined':
        this.#note(pointer, 'undefined');
        return null;
      case 'object':
        return one === null ? null : this.#object(one, path, pointer, level);
      default:
        return this.#refuse(path, `a ${typeof one}`);
    }
  }

  #object(one: object, path: string, pointer: string, level: number): unknown {
    const before = this.#met.get(one);
    if (before) {
      if (before.length === 0) return this.#refuse(path, 'a field that contains itself');
      this.#note(pointer, `=${before.pointer}`);
      this.#add(before.length);
      return before.written;
    }
    const met: Met = { pointer, written: undefined, length: 0 };
    this.#met.set(one, met);
    const start = this.#length;
    if (one instanceof InvokeError) {
      this.#note(pointer, 'error');
      met.written = one.toJSON();
    } else {
      met.written = Array.isArray(one)
        ? this.#items(one, path, pointer, level)
        : this.#fields(one, path, pointer, level);
    }
    met.length = this.#length - start + 2;
    return met.written;
  }

  #items(one: readonly unknown[], path: string, pointer: string, level: number): unknown {
    if (Object.getPrototypeOf(one) !== Array.prototype) return this.#refuse(path, kindOf(one));
    // `findIndex` looks at holes, too.
    const isHollow = one.findIndex((_, at) => !Object.hasOwn(one, at)) >= 0;
    if (isHollow || Object.keys(one).length !== one.length)
      return this.#refuse(path, 'an array with holes');
    return one.map((item, index) =>
      this.of(item, `${path}.${index}`, `${pointer}/${index}`, level + 1),
    );
  }

  #fields(one: object, path: string, pointer: string, level: number): unknown {
    const prototype: unknown = Object.getPrototypeOf(one);
    if (prototype === null) this.#note(pointer, 'bare');
    else if (prototype !== Object.prototype) return this.#refuse(path, kindOf(one));
    if (Object.getOwnPropertySymbols(one).length > 0)
      return this.#refuse(path, 'an object with symbols');
    const result: Record<string, unknown> = {};
    for (const key of Object.getOwnPropertyNames(one)) {
      const below = `${path}.${key}`;
      if (key === '__proto__') return this.#refuse(below, 'a field that changes what an object is');
      const field = Object.getOwnPropertyDescriptor(one, key)!;
      // It would be another value at each look.
      if (!('value' in field)) return this.#refuse(below, 'a getter');
      if (!field.enumerable) return this.#refuse(below, 'a hidden field');
      const at = `${pointer}/${key.replaceAll('~', '~0').replaceAll('/', '~1')}`;
      this.#add(key.length + 4);
      const written = this.of(field.value, below, at, level + 1);
      if (field.value !== undefined || this.#isRevived) result[key] = written;
    }
    return result;
  }

  #note(pointer: string, form: Form): void {
    this.#noted += 1;
    if (this.#noted > formsMax) {
      throw new Refused(
        'MACHINE_NOT_JSON',
        `${this.#what} has more than ${formsMax} fields that are undefined, or stand in it twice`,
      );
    }
    this.forms[pointer] = form;
  }

  #add(length: number): void {
    this.#length += length;
    if (this.#length <= lengthMax) return;
    throw new Refused('STATE_TOO_LARGE', `${this.#what} has more than ${lengthMax} characters`);
  }

  #refuse(path: string, why: string): never {
    const place = path === '' ? this.#what : `${this.#what} at ${path.slice(1, 300)}`;
    throw new Refused('MACHINE_NOT_JSON', `${place} is ${why}, which JSON does not keep`);
  }
}

/** A getter may throw, and so may a proxy. */
function safely<Result>(read: () => Result, what: string): Result {
  try {
    return read();
  } catch (error) {
    if (error instanceof Refused) throw error;
    const why = error instanceof Error ? String(error.message).slice(0, 200) : 'it threw';
    throw new Refused('MACHINE_NOT_JSON', `${what} cannot be read: ${why}`);
  }
}

function kindOf(one: object): string {
  const { name } = (one as { constructor?: { name?: unknown } }).constructor ?? {};
  const kind = typeof name === 'string' && name !== '' ? name : 'an object with a prototype';
  return /^[A-Z]/.test(kind) ? `a ${kind}` : kind;
}

/** Back as the machine knew it. @param value  JSON of its own, which is changed */
export function revived<Value>(value: Value, forms: Forms | undefined): Value {
  const links: (() => void)[] = [];
  let whole: unknown = value;
  for (const [pointer, form] of Object.entries(forms ?? {})) {
    const put = (one: unknown) => {
      const at = pointer.lastIndexOf('/');
      const holder = at < 0 ? undefined : standingAt(whole, pointer.slice(0, at));
      if (typeof holder === 'object' && holder !== null)
        (holder as Record<string, unknown>)[unescaped(pointer.slice(at + 1))] = one;
      else if (at < 0) whole = one;
    };
    if (form === 'undefined') put(undefined);
    else if (form === 'error') put(new InvokeError(standingAt(whole, pointer) as Failure));
    else if (form === 'bare') bare(standingAt(whole, pointer));
    else links.push(() => put(standingAt(whole, form.slice(1))));
  }
  // What they lead to is as it was by now.
  for (const link of links) link();
  return whole as Value;
}

function bare(one: unknown): void {
  if (typeof one === 'object' && one !== null) Object.setPrototypeOf(one, null);
}

function standingAt(value: unknown, pointer: string): unknown {
  let found = value;
  for (const key of pointer.split('/').slice(1)) found = fieldOf(found, unescaped(key));
  return found;
}

const unescaped = (key: string): string => key.replaceAll('~1', '/').replaceAll('~0', '~');

const fieldOf = (holder: unknown, key: string): unknown =>
  typeof holder === 'object' && holder !== null && Object.hasOwn(holder, key)
    ? (holder as Record<string, unknown>)[key]
    : undefined;
