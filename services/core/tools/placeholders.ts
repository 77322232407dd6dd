/** `${env:NAME}` in specs: values of the process that performs, never of the spec. */

const variable = /\$\{env:([^}]*)\}/g;
const nameShape = /^[A-Za-z_][A-Za-z0-9_]*$/;

export type Expanded =
  | { readonly ok: true; readonly text: string }
  | { readonly ok: false; readonly missing: readonly string[] };

/**
 * What documents may name: all but what the services of the installation have for themselves, the
 * password of their broker and the key of sign-ins among it. Whoever writes a document chooses where
 * it is sent.
 */
export const documentEnvironment = (
  environment: Readonly<Record<string, string | undefined>>,
): Readonly<Record<string, string | undefined>> =>
  Object.fromEntries(
    Object.entries(environment).filter(([name]) => !name.toUpperCase().startsWith('UNDERSTUDY_')),
  );

/** A variable that is not set, or empty, is missing: never the empty string. */
export function expandEnvironment(
  text: string,
  environment: Readonly<Record<string, string | undefined>>,
): Expanded {
  const missing = new Set<string>();
  const expanded = text.replace(variable, (_, name: string) => {
    const value = Object.hasOwn(environment, name) ? environment[name] : undefined;
    if (!value) missing.add(name);
    return value ?? '';
  });
  return missing.size > 0 ? { ok: false, missing: [...missing] } : { ok: true, text: expanded };
}

/** Names of variables that texts name. */
export const variablesOf = (...texts: readonly (string | undefined)[]): string[] => [
  ...new Set(
    texts.flatMap((text) => [...(text ?? '').matchAll(variable)].map(([, name]) => name!)),
  ),
];

const secretMin = 4; // characters: a shorter value is a word, and would be found everywhere

/** Values of variables that texts name. Whoever was sent them may say them again. */
export const secretsIn = (
  environment: Readonly<Record<string, string | undefined>>,
  ...texts: readonly (string | undefined)[]
): string[] =>
  variablesOf(...texts).flatMap((name) =>
    Object.hasOwn(environment, name) ? (environment[name] ?? []) : [],
  );

/**
 * Also as they stand in JSON, in an address and on one line, and one that was cut at the text's end.
 */
export function withoutSecrets(text: string, secrets: readonly string[]): string {
  const spellings = new Set(secrets.flatMap(spelled).filter(({ length }) => length >= secretMin));
  let told = text;
  // A short one may stand in a longer one, whose rest would be left.
  for (const spelling of [...spellings].sort((one, other) => other.length - one.length)) {
    told = told.replaceAll(spelling, '***');
    let length = Math.min(spelling.length, told.length);
    while (length >= secretMin && !told.endsWith(spelling.slice(0, length))) length -= 1;
    if (length >= secretMin) told = `${told.slice(0, -length)}***`;
  }
  return told;
}

const spelled = (secret: string): string[] => {
  const ways = [secret, secret.trim(), secret.replaceAll(/\s+/g, ' ').trim()];
  return ways.flatMap((way) => [
    way,
    JSON.stringify(way).slice(1, -1),
    encodeURIComponent(way.toWellFormed()),
  ]);
};

/** What is wrong with the variables of a text, as it stands in a spec. */
export const variableProblems = (text: string): string[] =>
  variablesOf(text)
    .filter((name) => !nameShape.test(name))
    .map((name) => `\${env:${name}} names no variable`);

/** Headers of the connection: the sender refuses them. */
const connectionHeaders: ReadonlySet<string> = new Set([
  'content-length',
  'expect',
  'keep-alive',
  'transfer-encoding',
  'upgrade',
]);

/** Why a header of this name cannot be sent; undefined where it can. */
export function headerNameProblem(name: string): string | undefined {
  if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(name))
    return `${JSON.stringify(name)} is not a header name`;
  return connectionHeaders.has(name.toLowerCase())
    ? `the header ${name} belongs to the connection and cannot be sent`
    : undefined;
}

/** Spaces and line breaks around the value are not sent. */
export const isHeaderValue = (value: string): boolean =>
  /^[\t\x20-\x7e\x80-\xff]*$/.test(value.replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, ''));

/** Names in braces: arguments of a url. */
export const placeholdersOf = (url: string): string[] => [
  ...new Set(
    [...url.replace(variable, '').matchAll(/\{([A-Za-z0-9_]+)\}/g)].map(([, name]) => name!),
  ),
];

/** A placeholder before the path would let an argument choose the host. */
export const hasPlaceholderInOrigin = (url: string): boolean =>
  /\{[A-Za-z0-9_]+\}/.test(/^[a-z]+:\/\/[^/?#]*/i.exec(url.replace(variable, 'x'))?.[0] ?? '');

/** A placeholder in the fragment takes its argument and sends it nowhere. */
export const hasPlaceholderInFragment = (url: string): boolean =>
  placeholdersOf(url.replace(/^[^#]*/, '')).length > 0;

/** Text directly behind a variable at the beginning of a url would extend the host that it holds. */
export const extendsHost = (url: string): boolean => /^\$\{env:[^}]*\}[^/?]/.test(url);

/** A user or a password in front of the host: no request can be made with such a url. */
export const hasCredentials = (url: string): boolean =>
  /^https?:\/\/[^/?#\\]*@/i.test(url.replace(variable, 'x'));

export type Origin =
  | { readonly ok: true; readonly origin: string; readonly rest: string }
  | { readonly ok: false; readonly problem: string };

/**
 * Splits an expanded url into scheme and authority, which no argument reaches, and the rest.
 *
 * @param url  variables are replaced; placeholders may stand in the rest
 * @returns the problem, as the end of a sentence; it does not quote the url, which may hold secrets
 */
export function originOf(url: string): Origin {
  const origin = /^https?:\/\/[^/?#{}\\]+/i.exec(url)?.[0];
  if (!origin || !URL.canParse(origin)) return { ok: false, problem: 'is not an address' };
  const rest = url.slice(origin.length);
  if (!/^([/?#]|$)/.test(rest))
    return { ok: false, problem: 'is not an address: its host must be followed by /, ? or #' };
  if (hasCredentials(origin))
    return { ok: false, problem: 'names a user or a password, which belong in a header' };
  return { ok: true, origin, rest };
}
