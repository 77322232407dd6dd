/** What a check came to: `problem` is undefined for a value that fits. */
export type Verdict =
  | { readonly isTooCostly: false; readonly problem: string | undefined }
  | { readonly isTooCostly: true };

/**
 * Checks of values that are too large, or whose schema is too costly, to be made where others wait.
 *
 * Guarantee: it answers within seconds whatever schema and value are, holds up nobody, and gives
 * each tenant its turn.
 */
export interface SchemaChecks {
  /** @param text  the value as JSON */
  check(tenant: string, schema: Readonly<Record<string, unknown>>, text: string): Promise<Verdict>;
}
