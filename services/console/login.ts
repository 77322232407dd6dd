/** The door of the console: who am I, come in, go out. */
import { type Context, Hono } from 'hono';
import { getCookie, setCookie } from 'hono/cookie';
import { z } from 'zod';
import type { Telemetry } from '../ports/telemetry.ts';
import { type Access, cookieName, cookieSeconds } from './access.ts';
import { bodyOf } from './requests.ts';

const loginSchema = z.object({ token: z.string().max(512), name: z.string().max(64) });
const slowMs = 500;
const waitingMax = 20;

export const userOf = (context: Context, access: Access): string | undefined => access.who(context.req.raw.headers, getCookie(context, cookieName));

export function loginRoutes(access: Access, telemetry: Telemetry): Hono {
  const routes = new Hono();
  let refusing: Promise<void> = Promise.resolve();
  let waiting = 0;
  routes.get('/me', (context) => context.json({ user: userOf(context, access) ?? null, asksForToken: access.asksForToken }));
  routes.post('/login', async (context) => {
    const { token, name } = await bodyOf(context, loginSchema);
    const cookie = access.enter(token, name);
    if (!cookie) {
      telemetry.refused('console', 'LOGIN_REFUSED', {});
      // One after the other, whoever asks: guessing is slow.
      if (waiting >= waitingMax) return context.json({ code: 'LOGIN_REFUSED', message: 'too many wrong tokens are being given just now: try again in a minute' }, 429);
      waiting += 1;
      refusing = refusing.then(() => new Promise((resolve) => setTimeout(resolve, slowMs)));
      await refusing;
      waiting -= 1;
      const message = access.asksForToken
        ? 'this is not the token of this console, or no name (letters, digits, ._@+- and spaces)'
        : 'this console has no token: a proxy in front says who you are';
      return context.json({ code: 'LOGIN_REFUSED', message }, 401);
    }
    setCookie(context, cookieName, cookie, { httpOnly: true, sameSite: 'Strict', path: '/', maxAge: cookieSeconds, secure: isEncrypted(context) });
    return context.json({ user: name });
  });
  routes.post('/logout', (context) => {
    setCookie(context, cookieName, '', { httpOnly: true, sameSite: 'Strict', path: '/', maxAge: 0 });
    return context.json({});
  });
  return routes;
}

const isEncrypted = (context: Context) => context.req.header('x-forwarded-proto') === 'https' || context.req.url.startsWith('https:');
