/** `understudy mcp login`: a person signs in with a browser; executors keep what comes of it. */
import { createServer, type Server } from 'node:http';
import { createInterface } from 'node:readline/promises';
import { Refused } from '../core/errors.ts';
import { hint } from './failure.ts';
import type { Terminal } from './terminal.ts';

const askMs = 60_000; // its server and its issuer may be slow
const waitMs = 600_000; // as long as the sign-in stays open

export async function login(name: string, { ask, tell, note, print, options }: Terminal) {
  const begun = await ask<{ url: string | null }>('signIn', { name }, askMs);
  if (!begun) return;
  if (begun.url === null) return print({ server: name }, () => `${name}: nothing to sign in to`);
  const back = redirectOf(begun.url);
  const state = new URL(begun.url).searchParams.get('state');
  const hearing = await listen(back, state);
  try {
    if (options().output === 'json') note(`sign in: ${begun.url}`);
    else tell(`Open this in a browser, and sign in:\n\n  ${begun.url}\n`);
    const how = hearing ? `waiting for the browser at ${back.href}` : `${back.href} is in use here`;
    note(`${how}; or paste the address that the browser ends at:`);
    const callback = await Promise.race([
      ...(hearing ? [hearing.heard] : []),
      pasted(note, hearing !== undefined),
      new Promise<never>((_, reject) =>
        setTimeout(
          () => reject(new Refused('SIGN_IN_STALE', 'nobody signed in within ten minutes')),
          waitMs,
        ).unref(),
      ),
    ]);
    const done = await ask<{ url: null }>('signIn', { name, callback }, askMs);
    if (done)
      print({ server: name, signedIn: true }, () =>
        [
          `signed in to ${name}: executors have a token, and the next when it ends`,
          hint(`  next: understudy mcp show ${name} --ask`),
        ].join('\n'),
      );
  } finally {
    hearing?.server.close();
    hearing?.server.closeAllConnections();
  }
}

/** Where the browser is sent back to, as its issuer is told. */
function redirectOf(url: string): URL {
  const redirect = new URL(url).searchParams.get('redirect_uri') ?? '';
  if (!URL.canParse(redirect))
    throw new Refused(
      'SIGN_IN_REFUSED',
      'its issuer is not told where to send the browser back to',
    );
  return new URL(redirect);
}

/** @returns undefined where the address cannot be listened at */
function listen(
  back: URL,
  state: string | null,
): Promise<{ server: Server; heard: Promise<string> } | undefined> {
  let hear: (callback: string) => void;
  const heard = new Promise<string>((resolve) => {
    hear = resolve;
  });
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', back);
    response.setHeader('content-type', 'text/plain; charset=utf-8');
    // Any page may lead a browser here: only the sign-in that was begun counts.
    const isOurs = url.pathname === back.pathname && url.searchParams.get('state') === state;
    if (!isOurs) return response.writeHead(404).end('not here\n');
    response.end('This window can be closed: the terminal says how it went.\n');
    hear(url.href);
  });
  return new Promise((resolve) => {
    server.once('error', () => resolve(undefined));
    server.listen(Number(back.port || 80), '127.0.0.1', () => resolve({ server, heard }));
  });
}

/**
 * What is typed.
 *
 * @param isHeard  the browser may come as well: then an end of what is typed says nothing
 */
async function pasted(note: Terminal['note'], isHeard: boolean): Promise<string> {
  const reader = createInterface({ input: process.stdin });
  for await (const line of reader) {
    if (URL.canParse(line.trim())) return line.trim();
    if (line.trim()) note('that is no address: paste the whole of it');
  }
  if (!isHeard)
    throw new Refused('SIGN_IN_STALE', 'its port is in use here, and no address was pasted');
  return new Promise(() => undefined);
}
