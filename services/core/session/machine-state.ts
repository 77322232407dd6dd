/**
 * What a user's own machine holds, as JSON: equal to it, or refused with the field's path.
 *
 * A session has one future, whether it stayed in memory or was restored: each step begins from what
 * was stored. Two things that JSON does not write are kept all the same, for most machines hold
 * them: a field that is `undefined`, and the error of an invoke. The record notes where they stood.
 */
import { Refused } from '../errors.ts';
import { limits } from '../limits.ts';
import type { Failure } from '../tools/job.ts';

/** By JSON pointer (RFC 6901): what stands there in the machine. */
export type Forms = Readonly<Record<string, 'undefined' | 'error'>>;

export interface Stored {
  readonly value: unknown;
  readonly text: string;
  readonly forms: Forms;
}

const formsMax = 1_000; // fields that are undefined, or errors: a record stays small

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

/** @throws Refused (MACHINE_NOT_JSON) with the path of the first field that JSON would change */
export function exactly(value: unknown, what: string): Stored {
  const forms: Record<string, 'undefined' | 'error'> = {};
  let count = 0;
  const note = (pointer: string, form: 'undefined' | 'error') => {
    count += 1;
    if (count > formsMax)
      throw new Refused('MACHINE_NOT_JSON', `${what} has more than ${formsMax} undefined fields`);
    forms[pointer] = form;
  };
  const refuse = (path: string, why: string): never => {
    const place = path === '' ? what : `${what} at ${path.slice(1)}`;
    throw new Refused('MACHINE_NOT_JSON', `${place} is ${why}, which JSON does not keep`);
  };
  const copy = (one: unknown, path: string, pointer: string, level: number): unknown => {
    if (level > limits.nestingMax) return refuse(path, 'nested too deep, or contains itself');
    switch (typeof one) {
      case 'string':
      case 'boolean':
        return one;
      case 'number':
        return Number.isFinite(one) ? one + 0 : refuse(path, String(one));
      case 'undefined':
        note(pointer, 'undefined');
        return null;
      case 'object':
        break;
      default:
        return refuse(path, `a ${typeof one}`);
    }
    if (one === null) return null;
    if (one instanceof InvokeError) {
      note(pointer, 'error');
      return one.toJSON();
    }
    if (Array.isArray(one)) {
      if (Object.keys(one).length !== one.length) return refuse(path, 'an array with holes');
      return one.map((item, index) =>
        copy(item, `${path}.${index}`, `${pointer}/${index}`, level + 1),
      );
    }
    return fieldsOf(one as object, path, pointer, level);
  };
  const fieldsOf = (one: object, path: string, pointer: string, level: number): unknown => {
    const prototype: unknown = Object.getPrototypeOf(one);
    if (prototype !== Object.prototype && prototype !== null) return refuse(path, kindOf(one));
    if (Object.getOwnPropertySymbols(one).length > 0) return refuse(path, 'an object with symbols');
    const result: Record<string, unknown> = {};
    for (const key of Object.keys(one)) {
      const below = `${path}.${key}`;
      if (key === '__proto__') return refuse(below, 'a field that changes what an object is');
      const inner = (one as Record<string, unknown>)[key];
      const at = `${pointer}/${key.replaceAll('~', '~0').replaceAll('/', '~1')}`;
      const written = copy(inner, below, at, level + 1);
      if (inner !== undefined) result[key] = written;
    }
    return result;
  };
  const written = safely(() => copy(value, '', '', 1), what);
  return { value: written, text: JSON.stringify(written), forms };
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
  for (const [pointer, form] of Object.entries(forms ?? {})) {
    const keys = pointer.split('/').slice(1);
    const last = keys.pop();
    if (last === undefined) continue;
    let holder: unknown = value;
    for (const key of keys) holder = fieldOf(holder, unescaped(key));
    if (typeof holder !== 'object' || holder === null) continue;
    const key = unescaped(last);
    const now = form === 'undefined' ? undefined : fieldOf(holder, key);
    const revivedOne = form === 'error' ? new InvokeError(now as Failure) : undefined;
    (holder as Record<string, unknown>)[key] = revivedOne;
  }
  return value;
}

const unescaped = (key: string): string => key.replaceAll('~1', '/').replaceAll('~0', '~');

const fieldOf = (holder: unknown, key: string): unknown =>
  typeof holder === 'object' && holder !== null && Object.hasOwn(holder, key)
    ? (holder as Record<string, unknown>)[key]
    : undefined;
