/** Errors of a connection that was never made: nothing was sent, so nothing has begun. */

const codes = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);

interface Cause {
  readonly code?: string;
  /** Of each address that was tried. */
  readonly errors?: readonly { readonly code?: string }[];
}

/** @param error  as `fetch` throws it, with its cause */
export function wasNeverMade(error: unknown): boolean {
  const { code = '', errors } = ((error as { cause?: Cause } | undefined)?.cause ?? {}) as Cause;
  if (errors) return errors.length > 0 && errors.every((one) => codes.has(one.code ?? ''));
  return codes.has(code);
}
