/** Who may come in to the console. */
import { expect, test } from 'vitest';
import { accessOf } from '../../services/console/access.ts';

const token = 'correct horse battery';
let now = 1_700_000_000_000;
const clock = () => now;
const none = new Headers();

test('whoever knows the token gets a cookie that carries the name', () => {
  const access = accessOf({ token, localUser: 'root' }, clock);
  const cookie = access.enter(token, 'Ada Lovelace');
  expect(cookie).toBeDefined();
  expect(access.who(none, cookie)).toBe('Ada Lovelace');
  expect(access.who(none, undefined)).toBeUndefined();
});

test('a wrong token, and a name that is none, get nothing', () => {
  const access = accessOf({ token, localUser: 'root' }, clock);
  expect(access.enter('correct horse', 'ada')).toBeUndefined();
  expect(access.enter('', 'ada')).toBeUndefined();
  expect(access.enter(token, '')).toBeUndefined();
  expect(access.enter(token, 'a\nb')).toBeUndefined();
});

test('a cookie that was changed, is too old, or is of another token is none', () => {
  const access = accessOf({ token, localUser: 'root' }, clock);
  const cookie = access.enter(token, 'ada')!;
  const [, until, signature] = cookie.split('.');
  expect(
    access.who(none, `${Buffer.from('eve').toString('base64url')}.${until}.${signature}`),
  ).toBeUndefined();
  expect(access.who(none, cookie.replace(until!, String(Number(until) + 1)))).toBeUndefined();
  expect(
    accessOf({ token: `${token}!`, localUser: 'root' }, clock).who(none, cookie),
  ).toBeUndefined();
  now += 13 * 3_600_000;
  expect(access.who(none, cookie)).toBeUndefined();
});

test('with a token nobody is the local user, whatever the host', () => {
  expect(
    accessOf({ token, localUser: 'root' }, clock).who(
      new Headers({ host: 'localhost:1' }),
      undefined,
    ),
  ).toBeUndefined();
});

test('without any, only an address of this machine is the local user: a name that resolves to it is not', () => {
  const access = accessOf({ localUser: 'root' }, clock);
  for (const host of ['127.0.0.1:8081', 'localhost:8081', '[::1]:8081'])
    expect(access.who(new Headers({ host }), undefined), host).toBe('root');
  for (const host of [
    'evil.example',
    'localhost.evil.example:8081',
    '127.0.0.1.evil.example',
    '10.0.0.1:8081',
    '',
  ])
    expect(access.who(new Headers({ host }), undefined), host).toBeUndefined();
});

test('behind a proxy it is who the proxy says, and nobody where it says nothing', () => {
  const access = accessOf({ userHeader: 'X-Forwarded-User', localUser: 'root' }, clock);
  expect(
    access.who(
      new Headers({ host: 'localhost', 'x-forwarded-user': 'ada@example.com' }),
      undefined,
    ),
  ).toBe('ada@example.com');
  expect(access.who(new Headers({ host: 'localhost' }), undefined)).toBeUndefined();
  expect(access.who(new Headers({ 'x-forwarded-user': 'a"b<script>' }), undefined)).toBeUndefined();
});
