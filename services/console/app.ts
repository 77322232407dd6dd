/**
 * The console over HTTP: its page, and below /api what the page asks and does.
 *
 * Owns     nothing: every answer comes from the control API or from EVENTS, every deed is a message to a session.
 *
 * W1  Without a name nobody reads or does anything but probe and log in.
 * W2  What changes something comes from our own page (same origin, JSON), and is recorded under the name of who asked.
 * W3  Prompts, results and bodies are shown only to who asks for them by a request of their own, and that is logged.
 */
import { type Context, Hono } from 'hono';
import { getCookie, setCookie } from 'hono/cookie';
import { secureHeaders } from 'hono/secure-headers';
import { streamSSE } from 'hono/streaming';
import { z } from 'zod';
import { issuesOf, messageOf, Refused, Unavailable } from '../core/errors.ts';
import { sessionIdSchema } from '../core/ids.ts';
import type { UnderstudyEvent } from '../core/wire/cloud-event.ts';
import type { Events } from '../ports/events.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { type Access, cookieName, cookieSeconds } from './access.ts';
import { approvalSchema, conversationSchema, healthSchema, letterSchema, sessionSchema, summarySchema } from './answers.ts';
import type { Page } from './page.ts';
import type { Questions } from './questions.ts';

export interface ConsolePorts {
  readonly questions: Questions;
  readonly events: Pick<Events, 'follow'>;
  readonly access: Access;
  readonly page: Page;
  readonly telemetry: Telemetry;
  readonly clock: () => number;
}

const filterSchema = z.object({
  tenant: z.string().optional(),
  agent: z.string().optional(),
  status: z.string().optional(),
  ended: z.stringbool().default(false),
  max: z.coerce.number().int().positive().max(2_000).default(200),
});
const reasonSchema = z.object({ reason: z.string().trim().max(2_000).default('') });
const decisionSchema = reasonSchema.extend({ hash: z.string().min(8), arguments: z.string().optional() });
const requeueSchema = z.object({ body: z.string().optional() });
const loginSchema = z.object({ token: z.string().max(512), name: z.string().max(64) });

type Variables = { Variables: { user: string } };

/** Of a code, what HTTP says. */
const statusOf = (code: string) => (/_UNKNOWN$/.test(code) ? 404 : /_INVALID$|_NOT_JSON$/.test(code) ? 400 : code === 'DEFECT' ? 500 : 409);
const streamQueueMax = 20_000;

export function consoleApp({ questions, events, access, page, telemetry, clock }: ConsolePorts): Hono<Variables> {
  const app = new Hono<Variables>();
  app.use(
    secureHeaders({
      contentSecurityPolicy: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'", page.importMapHash],
        styleSrc: ["'self'"],
        connectSrc: ["'self'"],
        imgSrc: ["'self'"],
        baseUri: ["'none'"],
        formAction: ["'self'"],
        frameAncestors: ["'none'"],
      },
      referrerPolicy: 'no-referrer',
      strictTransportSecurity: false, // of whoever encrypts: it speaks for a whole domain
    }),
  );
  app.onError((error, context) => {
    if (error instanceof Refused) return context.json({ code: error.code, message: error.message }, statusOf(error.code));
    if (error instanceof Unavailable) return context.json({ code: error.code, message: error.message }, 503);
    telemetry.log('error', 'a request failed', { path: context.req.routePath, cause: messageOf(error).slice(0, 200) });
    return context.json({ code: 'DEFECT', message: 'the console cannot make sense of an answer; its log says more' }, 500);
  });

  // ---- the page, which holds nothing of anybody ----------------------------------------------------
  app.get('/assets/*', (context) => {
    const asset = page.asset(context.req.path.slice('/assets/'.length));
    return asset ? context.body(asset.text, 200, { 'content-type': asset.type, 'cache-control': 'no-cache' }) : context.notFound();
  });
  app.get('/api/me', (context) => context.json({ user: userOf(context) ?? null, asksForToken: access.asksForToken }));
  app.post('/api/login', async (context) => {
    if (!isOurPage(context)) return context.json({ code: 'OTHER_ORIGIN', message: 'a login comes from the console itself' }, 403);
    const { token, name } = await bodyOf(context, loginSchema);
    const cookie = access.enter(token, name, clock());
    if (!cookie) {
      telemetry.refused('console', 'LOGIN_REFUSED', {});
      await new Promise((resolve) => setTimeout(resolve, 500)); // guessing is slow
      return context.json({ code: 'LOGIN_REFUSED', message: 'this is not the token of this console, or no name (letters, digits, ._@+- and spaces)' }, 401);
    }
    setCookie(context, cookieName, cookie, { httpOnly: true, sameSite: 'Strict', path: '/', maxAge: cookieSeconds, secure: isEncrypted(context) });
    return context.json({ user: name });
  });
  app.post('/api/logout', (context) => {
    setCookie(context, cookieName, '', { httpOnly: true, sameSite: 'Strict', path: '/', maxAge: 0 });
    return context.json({});
  });

  // ---- who asks (W1, W2) ---------------------------------------------------------------------------
  const userOf = (context: Context) => access.who(context.req.raw.headers, getCookie(context, cookieName));
  app.use('/api/*', async (context, next) => {
    const user = userOf(context);
    if (!user) return context.json({ code: 'LOGIN_NEEDED', message: 'who are you? give the token of this console' }, 401);
    if (context.req.method !== 'GET' && !isOurPage(context))
      return context.json({ code: 'OTHER_ORIGIN', message: 'what changes something comes from the console itself, as JSON' }, 403);
    context.set('user', user);
    context.header('cache-control', 'no-store');
    await next();
  });

  // ---- what is looked at ---------------------------------------------------------------------------
  app.get('/api/sessions', async (context) => {
    const filter = filterSchema.safeParse(context.req.query());
    if (!filter.success) throw new Refused('FILTER_INVALID', issuesOf(filter.error));
    return context.json(z.array(summarySchema).parse(await questions.look('list', filter.data)));
  });
  const sessionOf = (context: Context) => {
    const session = sessionIdSchema.safeParse(context.req.param('session'));
    if (!session.success) throw new Refused('SESSION_INVALID', `${String(context.req.param('session')).slice(0, 80)} is no session id`);
    return session.data;
  };
  app.get('/api/sessions/:session', async (context) => context.json(sessionSchema.parse(await questions.look('inspect', { session: sessionOf(context) }))));
  app.get('/api/sessions/:session/verify', async (context) => context.json(await questions.look('verify', { session: sessionOf(context) })));
  app.get('/api/sessions/:session/conversation', async (context) => {
    const session = sessionOf(context);
    telemetry.log('info', 'a conversation was shown', { session, actor: context.get('user') });
    return context.json(conversationSchema.parse(await questions.look('inspect', { session, conversation: true })));
  });
  app.get('/api/sessions/:session/events', async (context) => {
    const { summary } = sessionSchema.parse(await questions.look('inspect', { session: sessionOf(context) }));
    return streamSSE(context, async (stream) => {
      let waiting = 0;
      const { promise: over, resolve: end } = Promise.withResolvers<void>();
      const send = (event: UnderstudyEvent) => {
        waiting += 1;
        if (waiting > streamQueueMax) return end(); // who does not read is let go, and may come again
        void stream.writeSSE({ id: event.id, data: JSON.stringify(withoutOutput(event)) }).then(() => {
          waiting -= 1;
        }, end);
      };
      const following = await events.follow({ tenant: summary.tenant, agent: summary.agent, session: summary.session, since: summary.startedAt }, true, send);
      stream.onAbort(end);
      const beat = setInterval(() => void stream.writeSSE({ event: 'beat', data: '' }).catch(end), 15_000);
      await over;
      clearInterval(beat);
      await following.stop();
    });
  });
  app.get('/api/approvals', async (context) => context.json(z.array(approvalSchema).parse(await questions.look('approvals', {}))));
  app.get('/api/dead-letters', async (context) =>
    context.json(
      z
        .array(letterSchema)
        .parse(await questions.look('dead', { max: 500 }))
        .reverse(),
    ),
  );
  app.get('/api/dead-letters/:id/body', async (context) => {
    const id = letterOf(context);
    telemetry.log('info', 'a dead letter was shown', { letter: id, actor: context.get('user') });
    const found = z.array(z.object({ id: z.number(), body: z.string() })).parse(await questions.look('dead', { max: 10_000 }));
    const letter = found.find((one) => one.id === id);
    if (!letter) throw new Refused('DEAD_LETTER_UNKNOWN', `there is no dead letter ${id}`);
    return context.json({ body: letter.body });
  });
  app.get('/api/health', async (context) => context.json(healthSchema.parse(await questions.look('doctor', {}))));

  // ---- what is done --------------------------------------------------------------------------------
  for (const verb of ['pause', 'resume', 'halt'] as const) {
    app.post(`/api/sessions/:session/${verb}`, async (context) => {
      const { reason } = await bodyOf(context, reasonSchema);
      return context.json(summarySchema.parse(await questions.act(verb, { session: sessionOf(context), actor: context.get('user'), reason })));
    });
  }
  for (const verb of ['approve', 'reject'] as const) {
    app.post(`/api/sessions/:session/approvals/:approval/${verb}`, async (context) => {
      const { reason, hash, arguments: edited } = await bodyOf(context, decisionSchema);
      const decision = { session: sessionOf(context), approval: context.req.param('approval'), hash, actor: context.get('user'), reason };
      await questions.act(verb, verb === 'approve' && edited !== undefined ? { ...decision, arguments: edited } : decision);
      return context.json({});
    });
  }
  app.post('/api/dead-letters/:id/requeue', async (context) => {
    const { body } = await bodyOf(context, requeueSchema);
    const done = z
      .object({ requeued: z.number(), tasks: z.array(z.string()), refused: z.array(z.string()) })
      .parse(await questions.act('requeue', { id: letterOf(context), ...(body === undefined ? {} : { body }) }));
    telemetry.log('info', 'a dead letter was requeued', { letter: letterOf(context), actor: context.get('user'), isEdited: body !== undefined });
    if (done.requeued === 0) throw new Refused('NOT_REQUEUED', done.refused.join('; ') || 'nothing was requeued');
    return context.json(done);
  });

  app.all('/api/*', (context) => context.json({ code: 'PATH_UNKNOWN', message: `there is no ${context.req.method} ${context.req.path}` }, 404));
  app.get('*', (context) => context.html(page.html));
  return app;
}

/** The answer to whoever published the task is theirs. */
function withoutOutput(event: UnderstudyEvent): UnderstudyEvent {
  const { output: _output, ...data } = event.data;
  return { ...event, data };
}

const isEncrypted = (context: Context) => context.req.header('x-forwarded-proto') === 'https' || context.req.url.startsWith('https:');

/** A form of another page can send no JSON, and a browser says where a request comes from. */
function isOurPage(context: Context): boolean {
  const site = context.req.header('sec-fetch-site');
  const origin = context.req.header('origin');
  const isSame = site === undefined || site === 'same-origin';
  return (
    isSame && (origin === undefined || origin.replace(/^https?:\/\//, '') === context.req.header('host')) && /^application\/json\b/.test(context.req.header('content-type') ?? '')
  );
}

async function bodyOf<Schema extends z.ZodType>(context: Context, schema: Schema): Promise<z.output<Schema>> {
  const text = await context.req.text();
  let body: unknown;
  try {
    body = text === '' ? {} : JSON.parse(text);
  } catch (error) {
    throw new Refused('BODY_NOT_JSON', `the body is no JSON: ${messageOf(error).slice(0, 120)}`, { cause: error });
  }
  const parsed = schema.safeParse(body);
  if (!parsed.success) throw new Refused('BODY_INVALID', issuesOf(parsed.error));
  return parsed.data;
}

function letterOf(context: Context): number {
  const id = z.coerce.number().int().positive().safeParse(context.req.param('id'));
  if (!id.success) throw new Refused('DEAD_LETTER_INVALID', 'a dead letter is named by its number');
  return id.data;
}
