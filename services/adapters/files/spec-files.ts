/** Agents, tools, models and tenants from a directory of YAML files. What is wrong names file, line and field; the rest stands. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join, relative, resolve } from 'node:path';
import { LineCounter, parseAllDocuments } from 'yaml';
import { type Catalog, catalogOf, documentSchema, type SpecDocument, type SpecProblem } from '../../core/session/specs.ts';

export async function loadSpecs(directory: string): Promise<{ catalog: Catalog; problems: SpecProblem[] }> {
  const documents: { document: SpecDocument; file: string; machineHash?: string }[] = [];
  const problems: SpecProblem[] = [];
  const found = (await readdir(directory, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile() && /\.ya?ml$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
  for (const path of found) {
    const file = relative(directory, path);
    for (const { document, problems: wrong } of parseSpecs(await readFile(path, 'utf8'), file)) {
      problems.push(...wrong);
      if (!document) continue;
      if (document.kind === 'Agent' && document.spec.machine !== undefined) {
        try {
          const hash = createHash('sha256')
            .update(await readFile(resolve(directory, document.spec.machine)))
            .digest('hex')
            .slice(0, 16);
          documents.push({ document, file, machineHash: hash });
        } catch {
          problems.push({ file, field: 'spec.machine', message: `there is no file ${document.spec.machine} in ${directory}` });
        }
      } else documents.push({ document, file });
    }
  }
  const built = catalogOf(documents);
  return { catalog: built.catalog, problems: [...problems, ...built.problems] };
}

export interface ParsedSpec {
  readonly document: SpecDocument | undefined;
  readonly problems: SpecProblem[];
}

/** Parse the YAML documents of one file, each for itself. */
export function parseSpecs(text: string, file: string): ParsedSpec[] {
  const lines = new LineCounter();
  return [...parseAllDocuments(text, { lineCounter: lines, prettyErrors: true })].flatMap((yaml): ParsedSpec[] => {
    if ('empty' in yaml) return [];
    if (yaml.errors.length > 0) {
      return [
        { document: undefined, problems: yaml.errors.map((error) => ({ file: `${file}:${error.linePos?.[0].line ?? 1}`, field: '', message: error.message.split('\n')[0]! })) },
      ];
    }
    const value: unknown = yaml.toJS();
    if (value === null) return [];
    const parsed = documentSchema.safeParse(value);
    if (parsed.success) return [{ document: parsed.data, problems: [] }];
    return [
      {
        document: undefined,
        problems: parsed.error.issues.map((issue) => {
          const node = nearest(yaml, issue.path);
          const line = node?.range ? lines.linePos(node.range[0]).line : 1;
          return { file: `${file}:${line}`, field: issue.path.join('.'), message: issue.message };
        }),
      },
    ];
  });
}

/** The YAML node of a path, or of the longest part of it that is there. */
function nearest(yaml: { getIn(path: Iterable<unknown>, keepScalar?: boolean): unknown }, path: readonly PropertyKey[]): { range?: [number, number, number] | null } | undefined {
  for (let length = path.length; length >= 0; length -= 1) {
    const node = yaml.getIn(path.slice(0, length), true);
    if (node && typeof node === 'object' && 'range' in node) return node as { range?: [number, number, number] };
  }
  return undefined;
}
