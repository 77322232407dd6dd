/** Where a Model's provider is, and which key goes there. */
import { failed } from '../../core/tools/job.ts';
import {
  expandEnvironment,
  isHeaderValue,
  originOf,
  variablesOf,
} from '../../core/tools/placeholders.ts';
import { unpaid } from './refusal.ts';

const defaultBaseUrl = 'https://api.openai.com/v1';

/** @returns the failure, if there is none that can be sent: nothing was, and no key is quoted */
export function keyOf(
  { name, apiKeyEnv }: { readonly name: string; readonly apiKeyEnv: string | null },
  environment: Readonly<Record<string, string | undefined>>,
): { readonly ok: true; readonly key: string | undefined } | ReturnType<typeof failed> {
  if (apiKeyEnv === null) return { ok: true, key: undefined };
  const key = environment[apiKeyEnv];
  if (!key)
    return unpaid(
      failed('permanent', 'MODEL_KEY_MISSING', `model ${name} needs a key in ${apiKeyEnv}`),
    );
  const problem = `model ${name}: ${apiKeyEnv} has characters that no header can carry`;
  return isHeaderValue(key)
    ? { ok: true, key }
    : unpaid(failed('permanent', 'MODEL_SETTINGS_INVALID', problem));
}

/**
 * Address of the provider. The default is only for a Model without `baseUrl`: a prompt and a key
 * never go to another provider because a variable is not set.
 *
 * @returns the failure, if there is no address: nothing was sent, and no url is quoted
 */
export function addressOf(
  { name, baseUrl }: { readonly name: string; readonly baseUrl?: string | undefined },
  environment: Readonly<Record<string, string | undefined>>,
): { readonly ok: true; readonly url: string } | ReturnType<typeof failed> {
  const refused = (message: string) =>
    unpaid(failed('permanent', 'MODEL_SETTINGS_INVALID', `model ${name}: ${message}`));
  const own = environment.OPENAI_BASE_URL || defaultBaseUrl;
  const expanded =
    baseUrl === undefined
      ? ({ ok: true, text: own } as const)
      : expandEnvironment(baseUrl, environment);
  if (!expanded.ok) return refused(`${expanded.missing.join(', ')} is not set for this gateway`);
  const { text } = expanded;
  const origin = originOf(text);
  if (origin.ok && URL.canParse(text)) return { ok: true, url: text };
  const names = baseUrl === undefined ? ['OPENAI_BASE_URL'] : variablesOf(baseUrl);
  const from = names.length > 0 ? `with ${names.join(', ')} of this gateway, ` : '';
  return refused(`${from}its baseUrl ${origin.ok ? 'is not an address' : origin.problem}`);
}
