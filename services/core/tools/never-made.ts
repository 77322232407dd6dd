/** Errors of requests that were never sent: nothing has begun. */

/** The connection was never made. */
const connectCodes: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
]);

/** TLS: our side refused the certificate, or both sides found no way to speak. */
const handshakeCodes: ReadonlySet<string> = new Set([
  'CERT_CHAIN_TOO_LONG',
  'CERT_HAS_EXPIRED',
  'CERT_NOT_YET_VALID',
  'CERT_REJECTED',
  'CERT_REVOKED',
  'CERT_SIGNATURE_FAILURE',
  'CERT_UNTRUSTED',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'ERROR_IN_CERT_NOT_AFTER_FIELD',
  'ERROR_IN_CERT_NOT_BEFORE_FIELD',
  'HOSTNAME_MISMATCH',
  'INVALID_CA',
  'INVALID_PURPOSE',
  'PATH_LENGTH_EXCEEDED',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY',
  'UNABLE_TO_DECRYPT_CERT_SIGNATURE',
  'UNABLE_TO_GET_CRL',
  'UNABLE_TO_GET_ISSUER_CERT',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'ERR_TLS_CERT_ALTNAME_FORMAT',
  'ERR_TLS_CERT_ALTNAME_INVALID',
  'ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE',
  'ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE',
  'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL',
  'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION',
  'ERR_SSL_TLSV1_UNRECOGNIZED_NAME',
  'ERR_SSL_UNSUPPORTED_PROTOCOL',
]);

/** The sender refused the request that it was given. */
const requestCodes: ReadonlySet<string> = new Set(['UND_ERR_INVALID_ARG', 'UND_ERR_NOT_SUPPORTED']);

interface Cause {
  readonly code?: string;
  readonly message?: string;
  /** Of an error of the operating system. */
  readonly syscall?: string;
  /** Of each address that was tried. */
  readonly errors?: readonly Cause[];
}

const causeOf = (error: unknown): Cause =>
  ((error as { cause?: Cause } | undefined)?.cause ?? {}) as Cause;

/** An unreachable host may also be told to a connection that was made, while it reads or writes. */
function isOfConnect({ code = '', message = '', syscall }: Cause): boolean {
  if (connectCodes.has(code)) return syscall !== 'read' && syscall !== 'write';
  // The other side speaks no TLS; only this function judges what comes before a version is agreed.
  if (code === 'ERR_SSL_WRONG_VERSION_NUMBER')
    return message.includes(':tls_validate_record_header:');
  return handshakeCodes.has(code);
}

/**
 * Why the sender refused the request, which no other try would change.
 *
 * @param error  as `fetch` throws it, with its cause
 * @returns words that quote no value; undefined for any other error
 */
export function whyNotSent(error: unknown): string | undefined {
  const { code = '', message = '' } = causeOf(error);
  if (requestCodes.has(code)) return message;
  // A port that `fetch` blocks has no code.
  return code === '' && message === 'bad port' ? 'its port is blocked' : undefined;
}

/** @param error  as `fetch` throws it, with its cause */
export function wasNeverMade(error: unknown): boolean {
  const cause = causeOf(error);
  if (cause.errors) return cause.errors.length > 0 && cause.errors.every(isOfConnect);
  return isOfConnect(cause) || whyNotSent(error) !== undefined;
}
