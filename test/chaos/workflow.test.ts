/** The workflow of Chaos Mesh says again what the scenarios say: it must say the same. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import { inTurn } from '../../chaos/in-turn.ts';

interface Scenario {
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly annotations: Readonly<Record<string, string>>;
  };
  readonly spec: { readonly duration?: string };
}
interface Template {
  readonly name: string;
  readonly templateType: string;
  readonly deadline: string;
  readonly children?: readonly string[];
}

const folder = join(import.meta.dirname, '../../chaos');
const scenarios = readdirSync(join(folder, 'scenarios')).map(
  (file) => parse(readFileSync(join(folder, 'scenarios', file), 'utf8')) as Scenario,
);
const { templates } = (
  parse(readFileSync(join(folder, 'workflow.yaml'), 'utf8')) as {
    spec: { templates: readonly Template[] };
  }
).spec;
const experiments = templates.filter(
  ({ templateType }) => templateType !== 'Serial' && templateType !== 'Suspend',
);

test('it runs every scenario that needs nothing special of the kernel, as its file says, and waits after each', () => {
  const runnable = scenarios.filter(
    ({ metadata }) => !metadata.annotations['understudy.dev/needs'],
  );
  expect(experiments.map(({ name }) => name).sort()).toEqual(
    runnable.map(({ metadata }) => metadata.name).sort(),
  );
  for (const { kind, metadata, spec } of runnable) {
    const { duration = '10s', ...said } = spec;
    const field = kind.replace(/^./, (letter) => letter.toLowerCase());
    expect(templates.find(({ name }) => name === metadata.name)).toEqual({
      name: metadata.name,
      templateType: kind,
      deadline: duration,
      [field]: said,
    });
  }
  const children = templates.find(({ templateType }) => templateType === 'Serial')!.children!;
  expect(children).toEqual(experiments.flatMap(({ name }) => [name, `rest-after-${name}`]));
  for (const name of children)
    expect(templates.some((template) => template.name === name)).toBe(true);
});

test('as many faults are looked for as it brings', () => {
  expect(inTurn.find(({ file }) => file === 'workflow.yaml')?.planned).toBe(experiments.length);
});
