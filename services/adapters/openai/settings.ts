/** What a Model document says of its requests, with the variables of this gateway in it. */
import type { ModelSpec } from '../../core/session/model-spec.ts';
import { failed } from '../../core/tools/job.ts';
import { expandEnvironment, isHeaderValue, secretsIn } from '../../core/tools/placeholders.ts';
import { addressOf, keyOf } from './address.ts';
import { unpaid } from './refusal.ts';

type Environment = Readonly<Record<string, string | undefined>>;
type Named = ModelSpec & { readonly name: string };

export interface Settings {
  readonly url: string;
  /** Undefined for a server that wants none. */
  readonly key: string | undefined;
  readonly model: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Readonly<Record<string, unknown>>;
  /** Values that nobody may read in a reason. */
  readonly secrets: readonly string[];
}

/** Documents do not change while a session runs on them, and neither does the environment. */
const known = new WeakMap<Named, Settings>();

/** @returns the failure, if there is nothing that could be sent: names of variables, and no value */
export function settingsOf(
  spec: Named,
  environment: Environment,
): { readonly ok: true; readonly settings: Settings } | ReturnType<typeof failed> {
  const found = known.get(spec);
  if (found) return { ok: true, settings: found };
  const address = addressOf(spec, environment);
  if (!address.ok) return address;
  const key = keyOf(spec, environment);
  if (!key.ok) return key;
  const refused = (message: string) =>
    unpaid(failed('permanent', 'MODEL_SETTINGS_INVALID', `model ${spec.name}: ${message}`));
  const missing = new Set<string>();
  const expanded = (text: string): string => {
    const made = expandEnvironment(text, environment);
    if (made.ok) return made.text;
    for (const name of made.missing) missing.add(name);
    return '';
  };
  const model = expanded(spec.model);
  const headers: Record<string, string> = {};
  for (const [name, text] of Object.entries(spec.headers ?? {})) {
    const value = expanded(text);
    if (!isHeaderValue(value))
      return refused(`the header ${name} has characters that no header can carry`);
    headers[name.toLowerCase()] = value.trim();
  }
  const body = expandedIn(spec.body ?? {}, expanded) as Settings['body'];
  if (missing.size > 0) return refused(`${[...missing].join(', ')} is not set for this gateway`);
  const settings: Settings = {
    url: address.url,
    key: key.key,
    model,
    headers,
    body,
    secrets: secretsOf(spec, key.key, environment),
  };
  known.set(spec, settings);
  return { ok: true, settings };
}

/** Texts anywhere in a value; a document is a tree, and not deep. */
function expandedIn(value: unknown, expanded: (text: string) => string): unknown {
  if (typeof value === 'string') return expanded(value);
  if (Array.isArray(value)) return value.map((one) => expandedIn(one, expanded));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [name, expandedIn(inner, expanded)]),
  );
}

/** What stands in a variable may be a secret, wherever a document puts it. */
function secretsOf(spec: Named, key: string | undefined, environment: Environment): string[] {
  const texts = [...Object.values(spec.headers ?? {}), JSON.stringify(spec.body ?? {})];
  return [...(key === undefined ? [] : [key]), ...secretsIn(environment, ...texts)];
}
