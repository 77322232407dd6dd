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

export const userOf = (context: Context, access: Access): string | undefined =>
  access.who(context.req.raw.headers, getCookie(context, cookieName));

export function loginRoutes(access: Access, telemetry: Telemetry): Hono {
  const routes = new Hono();
  const turns = new Turns();
  routes.get('/me', (context) =>
    context.json({ user: userOf(context, access) ?? null, asksForToken: access.asksForToken }),
  );
  routes.post('/login', async (context) => {
    const { token, name } = await bodyOf(context, loginSchema);
    const turn = await turns.take(peerOf(context));
    if (!turn)
      return context.json(
        {
          code: 'LOGIN_REFUSED',
          message:
            'too many tokens are being given from your address just now: try again in some seconds',
        },
        429,
      );
    let cookie: string | undefined;
    try {
      cookie = access.enter(token, name);
      if (!cookie) await new Promise((resolve) => setTimeout(resolve, slowMs));
    } finally {
      turn.end();
    }
    if (!cookie) {
      telemetry.refused('console', 'LOGIN_REFUSED', {});
      const message = access.asksForToken
        ? 'this is not the token of this console, or no name (letters, digits, ._@+- and spaces)'
        : 'this console has no token: a proxy in front says who you are';
      return context.json({ code: 'LOGIN_REFUSED', message }, 401);
    }
    setCookie(context, cookieName, cookie, {
      httpOnly: true,
      sameSite: 'Strict',
      path: '/',
      maxAge: cookieSeconds,
      secure: isEncrypted(context),
    });
    return context.json({ user: name });
  });
  routes.post('/logout', (context) => {
    setCookie(context, cookieName, '', {
      httpOnly: true,
      sameSite: 'Strict',
      path: '/',
      maxAge: 0,
    });
    return context.json({});
  });
  return routes;
}

/** Of the connection, as its server knows it. */
const peerOf = (context: Context): string =>
  (context.env as { incoming?: { socket?: { remoteAddress?: string } } } | undefined)?.incoming
    ?.socket?.remoteAddress ?? '';

/** Those of one address one after the other, and a wrong one takes its time: guessing is slow, and holds up nobody elsewhere. */
class Turns {
  readonly #lines = new Map<string, { last: Promise<void>; waiting: number }>();

  /** @returns undefined when too many wait: the token is not looked at then */
  async take(address: string): Promise<{ end(): void } | undefined> {
    const line = this.#lines.get(address) ?? { last: Promise.resolve(), waiting: 0 };
    if (line.waiting >= waitingMax) return undefined;
    this.#lines.set(address, line);
    line.waiting += 1;
    const before = line.last;
    const { promise, resolve } = Promise.withResolvers<void>();
    line.last = promise;
    await before;
    return {
      end: () => {
        line.waiting -= 1;
        if (line.waiting === 0) this.#lines.delete(address);
        resolve();
      },
    };
  }
}

const isEncrypted = (context: Context) =>
  context.req.header('x-forwarded-proto') === 'https' || context.req.url.startsWith('https:');
