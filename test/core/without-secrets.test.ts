import { expect, test } from 'vitest';
import { withoutSecrets } from '../../services/core/tools/placeholders.ts';

const pem = '-----BEGIN KEY-----\nabc\ndef\n-----END KEY-----\n';

test.each([
  [
    'one within another',
    'bad key acme-9f8e7d6c5b given',
    ['acme', 'acme-9f8e7d6c5b'],
    'bad key *** given',
  ],
  ['one with a line break at its end', 'bad key s3cr3t given', ['s3cr3t\n'], 'bad key *** given'],
  [
    'one of several lines, on one',
    `no ${pem.replaceAll('\n', ' ').trim()} here`,
    [pem],
    'no *** here',
  ],
  ['one in JSON', JSON.stringify({ it: 'a"b-secret' }), ['a"b-secret'], '{"it":"***"}'],
  ['one in an address', 'GET /?k=a%2Fb-secret no', ['a/b-secret'], 'GET /?k=*** no'],
  ['one that was cut', 'no Bearer s3cr', ['s3cr3t-token'], 'no Bearer ***'],
  ['a word that is too short', 'a cat', ['cat'], 'a cat'],
])('%s is told without it', (_what, text, secrets, told) => {
  expect(withoutSecrets(text, secrets)).toBe(told);
});
