/**
 * Who may come in, and under which name: whatever changes a session records who did it.
 *
 * - a token: whoever knows it gives a name and gets a cookie that no script can read, signed with the token, for half a day;
 * - a header: a proxy in front has asked who it is (only behind one: anybody can write a header);
 * - neither: the machine's own user, at a loopback address only.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';

export interface AccessSettings {
  readonly token?: string | undefined;
  readonly userHeader?: string | undefined;
  /** Who it is where nobody asks. */
  readonly localUser: string;
}

export const cookieName = 'understudy-console';
export const cookieSeconds = 12 * 3_600;
const namePattern = /^[\p{L}\p{N} ._@+-]{1,64}$/u;

export interface Access {
  readonly asksForToken: boolean;
  /** @returns the name of who asks, or nothing */
  who(headers: Headers, cookie: string | undefined): string | undefined;
  /** @returns the value of the cookie, or nothing for a wrong token or a name that is none */
  enter(token: string, name: string): string | undefined;
}

export function accessOf(
  { token, userHeader, localUser }: AccessSettings,
  clock: () => number,
): Access {
  const sign = (text: string) =>
    createHmac('sha256', `console ${token}`).update(text).digest('base64url');
  const equal = (left: string, right: string) => {
    const [one, other] = [left, right].map((text) =>
      createHmac('sha256', 'compare').update(text).digest(),
    );
    return timingSafeEqual(one!, other!);
  };
  return {
    asksForToken: token !== undefined,
    who(headers, cookie) {
      const proven = userHeader && headers.get(userHeader);
      if (proven && namePattern.test(proven)) return proven;
      if (token === undefined)
        return userHeader
          ? undefined
          : isLoopbackHost(headers.get('host') ?? '')
            ? localUser
            : undefined;
      const [name = '', until = '', signature = ''] = (cookie ?? '').split('.');
      if (!equal(signature, sign(`${name}.${until}`)) || !(Number(until) > clock()))
        return undefined;
      return Buffer.from(name, 'base64url').toString('utf8');
    },
    enter(given, name) {
      if (token === undefined || !equal(given, token) || !namePattern.test(name)) return undefined;
      const signed = `${Buffer.from(name).toString('base64url')}.${clock() + cookieSeconds * 1_000}`;
      return `${signed}.${sign(signed)}`;
    },
  };
}

/** A page of another name that resolves to this machine must not come in as its user. */
const isLoopbackHost = (host: string): boolean =>
  /^(localhost|127(\.\d{1,3}){3}|\[::1\]|::1)(:\d+)?$/.test(host);
