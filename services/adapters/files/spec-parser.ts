/** YAML documents of one text, each for itself: what is wrong names its line and field. */
import { LineCounter, parseAllDocuments } from 'yaml';
import { z } from 'zod';
import { messageOf } from '../../core/errors.ts';
import type { SourceDocument, SpecProblem } from '../../core/session/specs.ts';
import { documentSchema, type SpecDocument } from '../../core/session/specs.ts';

export interface ParsedSpec {
  readonly document: SpecDocument | undefined;
  readonly problems: SpecProblem[];
  /** Kind and name of a document that is refused, as far as they can be read. */
  readonly named?: string | undefined;
  readonly lineOf?: SourceDocument['lineOf'];
}

const headSchema = z.object({ kind: z.string(), metadata: z.object({ name: z.string() }) });

/** Parse the YAML documents of one file, each for itself. */
export function parseSpecs(text: string, file: string): ParsedSpec[] {
  const lines = new LineCounter();
  return [...parseAllDocuments(text, { lineCounter: lines, prettyErrors: true })].flatMap(
    (yaml): ParsedSpec[] => {
      if ('empty' in yaml) return [];
      if (yaml.errors.length > 0) {
        return [
          {
            document: undefined,
            problems: yaml.errors.map((error) => ({
              file: `${file}:${error.linePos?.[0].line ?? 1}`,
              field: '',
              message: error.message.split('\n')[0]!,
            })),
          },
        ];
      }
      let value: unknown;
      try {
        value = yaml.toJS();
      } catch (error) {
        // An alias without its anchor, or too many of them.
        const line = yaml.contents?.range ? lines.linePos(yaml.contents.range[0]).line : 1;
        return [
          {
            document: undefined,
            problems: [
              { file: `${file}:${line}`, field: '', message: messageOf(error).split('\n')[0]! },
            ],
          },
        ];
      }
      if (value === null) return [];
      const lineOf = (path: readonly PropertyKey[]): number => {
        const node = nearest(yaml, path);
        return node?.range ? lines.linePos(node.range[0]).line : 1;
      };
      const parsed = documentSchema.safeParse(value);
      if (parsed.success) return [{ document: parsed.data, problems: [], lineOf }];
      const head = headSchema.safeParse(value);
      return [
        {
          document: undefined,
          ...(head.success ? { named: `${head.data.kind} ${head.data.metadata.name}` } : {}),
          problems: parsed.error.issues.map(({ path, message }) => ({
            file: `${file}:${lineOf(path)}`,
            field: path.join('.'),
            message,
          })),
        },
      ];
    },
  );
}

/** The YAML node of a path, or of the longest part of it that is there. */
function nearest(
  yaml: { getIn(path: Iterable<unknown>, keepScalar?: boolean): unknown },
  path: readonly PropertyKey[],
): { range?: [number, number, number] | null } | undefined {
  for (let length = path.length; length >= 0; length -= 1) {
    const node = yaml.getIn(path.slice(0, length), true);
    if (node && typeof node === 'object' && 'range' in node)
      return node as { range?: [number, number, number] };
  }
  return undefined;
}
