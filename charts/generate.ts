/** Writes what follows from the schemas of values and settings: values.yaml, values.schema.json, docs/values.md, docs/settings.md. `--check` only compares. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { settingsSchema } from '../services/adapters/files/environment.ts';
import { valuesSchema } from './values.ts';

interface Node {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, Node>>;
  readonly anyOf?: readonly Node[];
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly minLength?: number;
  readonly pattern?: string;
}

const root = join(import.meta.dirname, '..');
const schema = z.toJSONSchema(valuesSchema, { io: 'input', unrepresentable: 'any' }) as Node &
  Record<string, unknown>;
const defaults = valuesSchema.parse({}) as Record<string, unknown>;

const isBranch = (node: Node | undefined, value: unknown): boolean =>
  Boolean(node?.properties) && typeof value === 'object' && value !== null && !Array.isArray(value);
const inline = (value: unknown): string =>
  typeof value === 'string' &&
  value !== '' &&
  /^[A-Za-z][\w./-]*$/.test(value) &&
  !/^(true|false|yes|no|null)$/i.test(value)
    ? value
    : JSON.stringify(value);

/** What has a value, whether the schema names it or not (resource names are open). */
const childrenOf = (node: Node, value: Record<string, unknown>): [string, Node][] =>
  [...new Set([...Object.keys(node.properties ?? {}), ...Object.keys(value)])]
    .filter((key) => value[key] !== undefined)
    .map((key) => [key, node.properties?.[key] ?? {}]);

function* yamlOf(node: Node, value: Record<string, unknown>, depth: number): Generator<string> {
  const indent = '  '.repeat(depth);
  for (const [key, child] of childrenOf(node, value)) {
    const held = value[key];
    if (depth === 0) yield '';
    if (child.description) yield `${indent}# ${child.description}`;
    if (isBranch(child, held) && Object.keys(held as object).length > 0) {
      yield `${indent}${key}:`;
      yield* yamlOf(child, held as Record<string, unknown>, depth + 1);
    } else yield `${indent}${key}: ${inline(held)}`;
  }
}

const typeOf = (node: Node): string => {
  if (node.enum) return node.enum.map(String).join(' \\| ');
  if (node.anyOf) return node.anyOf.map(typeOf).join(' \\| ');
  const range = [
    node.minimum !== undefined && node.minimum > Number.MIN_SAFE_INTEGER ? `≥ ${node.minimum}` : '',
    node.exclusiveMinimum !== undefined ? `> ${node.exclusiveMinimum}` : '',
    node.maximum !== undefined && node.maximum < Number.MAX_SAFE_INTEGER ? `≤ ${node.maximum}` : '',
    node.minLength !== undefined ? `${node.minLength} characters or more` : '',
    node.pattern !== undefined ? `\`${node.pattern}\`` : '',
  ]
    .filter(Boolean)
    .join(', ');
  return `${String(node.type ?? 'any')}${range ? ` (${range})` : ''}`;
};

function* rowsOf(node: Node, value: Record<string, unknown>, path: string): Generator<string> {
  for (const [key, child] of childrenOf(node, value)) {
    const held = value[key];
    const name = path ? `${path}.${key}` : key;
    if (isBranch(child, held) && Object.keys(held as object).length > 0) {
      if (child.description) yield `| \`${name}\` | | | ${child.description} |`;
      yield* rowsOf(child, held as Record<string, unknown>, name);
    } else
      yield `| \`${name}\` | ${typeOf(child)} | \`${JSON.stringify(held)}\` | ${child.description ?? ''} |`;
  }
}

const settings = z.toJSONSchema(settingsSchema, { io: 'input', unrepresentable: 'any' }) as Node;
const settingRows = Object.entries(settings.properties ?? {}).map(
  ([name, node]) =>
    `| \`${name}\` | ${typeOf(node)} | ${node.default === undefined ? '' : `\`${String(node.default)}\``} | ${node.description ?? ''} |`,
);

const outputs: Record<string, string> = {
  'charts/understudy/values.yaml': `# Made from charts/values.ts by \`npm run values\`; docs/values.md is the same as a table.\n${[...yamlOf(schema, defaults, 0)].join('\n')}\n`,
  'charts/understudy/values.schema.json': `${JSON.stringify(schema, null, 2)}\n`,
  'docs/values.md': `# Values of the chart\n\nMade from \`charts/values.ts\` by \`npm run values\`. What does not fit is refused by \`helm install\` itself, with the path of the value.\n\n| value | type | default | what and why |\n|---|---|---|---|\n${[...rowsOf(schema, defaults, '')].join('\n')}\n`,
  'docs/settings.md': `# Settings of the services\n\nMade from \`services/adapters/files/environment.ts\` by \`make values\`. Environment, parsed at the start: a wrong one ends the process with its name and why (exit code 1).\n\n| variable | type | default | what and why |\n|---|---|---|---|\n${settingRows.join('\n')}\n`,
};

for (const file of ['agents.yaml', 'tools.yaml'])
  outputs[`charts/understudy/files/refund-desk/${file}`] = readFileSync(
    join(root, 'examples/refund-desk/agents', file),
    'utf8',
  );

const isCheck = process.argv.includes('--check');
let isStale = false;
for (const [file, text] of Object.entries(outputs)) {
  const path = join(root, file);
  if (!isCheck) writeFileSync(path, text);
  else if (readFileSync(path, 'utf8') !== text) {
    isStale = true;
    process.stderr.write(`${file} is not what its schema says: npm run values\n`);
  }
}
if (isStale) process.exitCode = 1;
