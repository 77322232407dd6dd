/** Does a performer have what a tool names? Names of variables are told, never values. */
import { expandEnvironment, isHeaderValue, originOf } from './placeholders.ts';
import { type ToolSpec, textsOf } from './tool-spec.ts';

/** Texts of a tool that name variables or addresses. */
export interface ToolQuestion {
  readonly tool: string;
  /** Whose executors are asked. */
  readonly pool: string;
  readonly texts: readonly { readonly field: string; readonly text: string }[];
}

export interface ToolTrouble {
  /** Of a Model it is the name that its document gives it. */
  readonly kind?: 'model' | undefined;
  readonly tool: string;
  readonly field: string;
  readonly message: string;
  /** Worth a look; it works all the same, or will. */
  readonly isNote?: boolean | undefined;
}

export const questionOf = (
  tool: string,
  { pool, run }: Pick<ToolSpec, 'pool' | 'run'>,
): ToolQuestion => ({
  tool,
  pool,
  texts: textsOf(run).map(([field, text]) => ({ field: `run.${field}`, text })),
});

/** What is wrong with an expanded text; it is not quoted. */
function problemOf(field: string, text: string): string | undefined {
  if (field === 'run.headers')
    return isHeaderValue(text) ? undefined : 'has characters that no header can carry';
  if (field === 'run.env' || field === 'run.oauth') return undefined;
  const origin = originOf(text);
  if (!origin.ok) return origin.problem;
  const isAddress = URL.canParse(text.replaceAll(/\{[A-Za-z0-9_]+\}/g, 'x'));
  return isAddress ? undefined : 'is not an address';
}

export function troublesOf(
  questions: readonly Pick<ToolQuestion, 'tool' | 'texts'>[],
  environment: Readonly<Record<string, string | undefined>>,
): ToolTrouble[] {
  return questions.flatMap(({ tool, texts }) =>
    texts.flatMap(({ field, text }): ToolTrouble[] => {
      const expanded = expandEnvironment(text, environment);
      if (!expanded.ok)
        return expanded.missing.map((name) => ({
          tool,
          field,
          message: `${name} is not set for the executors`,
        }));
      const problem = problemOf(field, expanded.text);
      if (!problem) return [];
      return [{ tool, field, message: `with what is set for the executors it ${problem}` }];
    }),
  );
}
