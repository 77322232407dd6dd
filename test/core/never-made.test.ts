/** Which errors of a sender are certain: nothing was sent. */
import { expect, test } from 'vitest';
import { wasNeverMade, whyNotSent } from '../../services/core/tools/never-made.ts';

const thrown = (cause: object) => new TypeError('fetch failed', { cause });
const record = (judge: string) =>
  `408D:error:0A00010B:SSL routines:${judge}:wrong version number:methods.c:77:`;

test.each([
  { code: 'ECONNREFUSED', syscall: 'connect' },
  { code: 'ENOTFOUND', syscall: 'getaddrinfo' },
  { code: 'UND_ERR_CONNECT_TIMEOUT' },
  { code: 'DEPTH_ZERO_SELF_SIGNED_CERT' },
  { code: 'CERT_HAS_EXPIRED' },
  { code: 'ERR_TLS_CERT_ALTNAME_INVALID' },
  { code: 'ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE' },
  { code: 'ERR_SSL_WRONG_VERSION_NUMBER', message: record('tls_validate_record_header') },
  { errors: [{ code: 'ECONNREFUSED' }, { code: 'ENETUNREACH' }] },
])('wasNeverMade is certain of %j', (cause) => {
  expect(wasNeverMade(thrown(cause))).toBe(true);
  expect(whyNotSent(thrown(cause))).toBeUndefined();
});

test.each([
  {},
  { code: 'ECONNRESET', syscall: 'read' },
  { code: 'UND_ERR_SOCKET', message: 'other side closed' },
  // Of a connection that was made, after the request.
  { code: 'EHOSTUNREACH', syscall: 'read' },
  { code: 'ENETUNREACH', syscall: 'write' },
  { code: 'ERR_SSL_WRONG_VERSION_NUMBER', message: record('tls13_validate_record_header') },
  { code: 'ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED' },
  { code: 'ERR_SSL_SSLV3_ALERT_BAD_RECORD_MAC' },
  { errors: [] },
  { errors: [{ code: 'ECONNREFUSED' }, { code: 'ECONNRESET' }] },
])('wasNeverMade is not certain of %j', (cause) => {
  expect(wasNeverMade(thrown(cause))).toBe(false);
});

test.each([
  [{ code: 'UND_ERR_NOT_SUPPORTED', message: 'expect header not supported' }, 'expect header'],
  [{ code: 'UND_ERR_INVALID_ARG', message: 'invalid upgrade header' }, 'invalid upgrade'],
  [{ message: 'bad port' }, 'its port is blocked'],
])('whyNotSent tells why the sender refused: %j', (cause, why) => {
  expect(wasNeverMade(thrown(cause))).toBe(true);
  expect(whyNotSent(thrown(cause))).toContain(why);
});

test('an error without a cause tells nothing', () => {
  for (const error of [undefined, null, 'text', new Error('bad port')]) {
    expect(wasNeverMade(error)).toBe(false);
    expect(whyNotSent(error)).toBeUndefined();
  }
});
