/** What a check came to: `problem` is undefined for a value that fits. */
export type Verdict =
  | { readonly isTooCostly: false; readonly problem: string | undefined }
  | { readonly isTooCostly: true };

/**
 * Checks of values that are too large, or whose schema is too costly, to be made where others wait.
 *
 * Guarantee: it answers within a few seconds whatever schema and value are, and holds up nobody.
 */
export interface SchemaChecks {
  /** @param text  the value as JSON */
  check(schema: Readonly<Record<string, unknown>>, text: string): Promise<Verdict>;
}
