/**
 * Urls of HTTP tools: what the operator wrote, with arguments where the template names them.
 *
 * U1  A placeholder never changes the number of path segments, nor anything before the path.
 * U2  A variable that is not set is not the empty string: the call is refused by its name.
 * U3  The origin is the one of the expanded template; else nothing is sent.
 */
import { own } from '../../core/keyed.ts';
import { failed } from '../../core/tools/job.ts';
import { expandEnvironment, originOf } from '../../core/tools/placeholders.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

/** Never left this process: certain, whatever the class of the tool. */
export const neverSent = (
  failureClass: 'semantic' | 'permanent',
  code: string,
  message: string,
) => {
  const { failure } = failed(failureClass, code, message);
  return { ok: false, failure: { ...failure, hasBegun: false } } as const;
};

export type Refusal = ReturnType<typeof neverSent>;

export interface Filled {
  readonly url: URL;
  /** Names of the arguments that the url has taken. */
  readonly used: ReadonlySet<string>;
}

/** @returns the url, or why there is none */
export function fillUrl(
  tool: string,
  template: string,
  args: Readonly<Record<string, unknown>>,
  idempotencyKey: string,
  environment: Environment,
): Filled | Refusal {
  const expanded = expandEnvironment(template, environment);
  if (!expanded.ok)
    return neverSent(
      'permanent',
      'TOOL_ENV_MISSING',
      `tool ${tool}: ${expanded.missing.join(', ')} is not set for this executor`,
    );
  const used = new Set<string>();
  const problems: string[] = [];
  const base = originOf(expanded.text);
  if (!base.ok)
    return neverSent('permanent', 'TOOL_URL_INVALID', `tool ${tool}: its url ${base.problem}`);
  const [path = '', ...rest] = base.rest.split('?');
  const put = (isPath: boolean) => (_: string, name: string) => {
    const value = name === 'idempotencyKey' ? idempotencyKey : own(args, name);
    used.add(name);
    const text = textOf(value);
    if (text === undefined) problems.push(`${name} is missing`);
    else if (isPath && isNoSegment(text)) problems.push(`${name} cannot be part of a path`);
    return encode(text ?? '');
  };
  const filled =
    base.origin +
    path.replace(placeholder, put(true)) +
    (rest.length > 0 ? `?${rest.join('?').replace(placeholder, put(false))}` : '');
  if (problems.length > 0)
    return neverSent('semantic', 'ARGUMENTS_INVALID', `tool ${tool}: ${problems.join('; ')}`);
  const url = URL.parse(filled);
  if (url?.origin !== new URL(base.origin).origin)
    return neverSent('permanent', 'TOOL_URL_INVALID', `tool ${tool}: its url is not an address`);
  return { url, used };
}

const placeholder = /\{([A-Za-z0-9_]+)\}/g;

/** Text of an argument in a url; undefined for what is none. */
function textOf(value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'string') return value;
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  return JSON.stringify(value);
}

/** Empty or of dots, a segment is resolved away. */
const isNoSegment = (text: string): boolean => text === '' || text === '.' || text === '..';

const encode = (text: string): string => encodeURIComponent(text.toWellFormed());
