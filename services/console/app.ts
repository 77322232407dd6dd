/**
 * The console over HTTP: its page, and below /api what the page asks and does.
 *
 * Every answer comes from the control API or from EVENTS, every deed is a message to a session.
 *
 * W1  Without a name nobody reads or does anything; the page itself, `me`, `login` and `logout` tell nothing of anybody.
 * W2  What changes something comes from our own page (same origin, JSON), and is recorded under the name of who asked.
 * W3  What was said to a model or a tool, what they answered, and bodies are shown only to who asks for them by a request of their own, and that is
 *     logged. What waits for a decision is shown whole: who decides must see it.
 */
import { Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { secureHeaders } from 'hono/secure-headers';
import { z } from 'zod';
import { messageOf, Refused, Unavailable } from '../core/errors.ts';
import { limits } from '../core/limits.ts';
import {
  approvalSchema,
  healthSchema,
  letterSchema,
  requeuedSchema,
  sessionCountsSchema,
  summarySchema,
} from '../core/wire/control-answers.ts';
import type { Events } from '../ports/events.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import type { Access } from './access.ts';
import { bodySchema, conversationSchema, sessionSchema, verdictViewSchema } from './answers.ts';
import { eventStreams } from './event-stream.ts';
import { loginRoutes, userOf } from './login.ts';
import type { Page } from './page.ts';
import type { Questions } from './questions.ts';
import { bodyOf, filterOf, isOurPage, letterOf, sessionOf } from './requests.ts';

export interface ConsolePorts {
  readonly questions: Questions;
  readonly events: Pick<Events, 'follow'>;
  readonly access: Access;
  readonly page: Page;
  readonly telemetry: Telemetry;
}

const reasonSchema = z.object({ reason: z.string().trim().max(2_000).default('') });
const decisionSchema = reasonSchema.extend({
  hash: z.string().min(8),
  arguments: z.string().optional(),
});
const requeueSchema = z.object({ body: z.string().optional() });

/** A task's body, and as much again for what JSON makes of it. */
const bodyBytesMax = 2 * limits.taskBytesMax;
const shownMax = 100; // approvals, whole, in one answer of a runtime
const lettersMax = 500;

/** Of a code, what HTTP says. */
const statusOf = (code: string) =>
  /_UNKNOWN$/.test(code)
    ? 404
    : /_INVALID$|_NOT_JSON$/.test(code)
      ? 400
      : code === 'DEFECT'
        ? 500
        : code === 'ANSWER_TOO_LARGE'
          ? 413
          : 409;

export function consoleApp({ questions, events, access, page, telemetry }: ConsolePorts) {
  const app = new Hono<{ Variables: { user: string } }>();
  const streams = eventStreams(events, telemetry);
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
  app.use(
    '/api/*',
    bodyLimit({
      maxSize: bodyBytesMax,
      onError: (context) =>
        context.json(
          { code: 'BODY_INVALID', message: `a body has ${bodyBytesMax} bytes at the most` },
          413,
        ),
    }),
  );
  app.onError((error, context) => {
    if (error instanceof Refused)
      return context.json({ code: error.code, message: error.message }, statusOf(error.code));
    if (error instanceof Unavailable)
      return context.json({ code: error.code, message: error.message }, 503);
    telemetry.log('error', 'a request failed', {
      path: context.req.routePath,
      cause: messageOf(error).slice(0, 200),
    });
    return context.json(
      { code: 'DEFECT', message: 'the console cannot make sense of an answer; its log says more' },
      500,
    );
  });

  app.get('/assets/*', (context) => {
    const asset = page.asset(context.req.path.slice('/assets/'.length));
    return asset
      ? context.body(asset.text, 200, { 'content-type': asset.type, 'cache-control': 'no-cache' })
      : context.notFound();
  });
  // ---- who asks (W1, W2) ---------------------------------------------------------------------------
  app.use('/api/*', async (context, next) => {
    if (context.req.method !== 'GET' && !isOurPage(context))
      return context.json(
        {
          code: 'OTHER_ORIGIN',
          message: 'what changes something comes from the console itself, as JSON',
        },
        403,
      );
    await next();
  });
  app.route('/api', loginRoutes(access, telemetry));
  app.use('/api/*', async (context, next) => {
    const user = userOf(context, access);
    if (!user)
      return context.json(
        {
          code: 'LOGIN_NEEDED',
          message: access.asksForToken
            ? 'who are you? give the token of this console'
            : 'nobody says who you are',
        },
        401,
      );
    context.set('user', user);
    context.header('cache-control', 'no-store');
    await next();
  });

  // ---- what is looked at ---------------------------------------------------------------------------
  app.get('/api/sessions', async (context) =>
    context.json(z.array(summarySchema).parse(await questions.look('list', filterOf(context)))),
  );
  app.get('/api/session-counts', async (context) =>
    context.json(sessionCountsSchema.parse(await questions.look('count', filterOf(context)))),
  );
  app.get('/api/sessions/:session', async (context) =>
    context.json(
      sessionSchema.parse(await questions.look('inspect', { session: sessionOf(context) })),
    ),
  );
  app.get('/api/sessions/:session/verify', async (context) =>
    context.json(
      verdictViewSchema.parse(await questions.look('verify', { session: sessionOf(context) })),
    ),
  );
  app.get('/api/sessions/:session/conversation', async (context) => {
    const session = sessionOf(context);
    telemetry.log('info', 'a conversation was shown', { session, actor: context.get('user') });
    return context.json(
      conversationSchema.parse(await questions.look('inspect', { session, conversation: true })),
    );
  });
  app.get('/api/sessions/:session/events', async (context) => {
    const { summary } = sessionSchema.parse(
      await questions.look('inspect', { session: sessionOf(context) }),
    );
    return streams.answer(context, summary);
  });
  app.get('/api/approvals', async (context) =>
    context.json(
      z.array(approvalSchema).parse(await questions.look('approvals', { max: shownMax })),
    ),
  );
  app.get('/api/dead-letters', async (context) =>
    context.json(
      z
        .array(letterSchema)
        .parse(await questions.look('dead', { max: lettersMax }))
        .reverse(),
    ),
  );
  app.get('/api/dead-letters/:id/body', async (context) => {
    const id = letterOf(context);
    telemetry.log('info', 'a dead letter was shown', { letter: id, actor: context.get('user') });
    return context.json(bodySchema.parse(await questions.look('dead', { id })));
  });
  app.get('/api/health', async (context) =>
    context.json(healthSchema.parse(await questions.look('doctor', {}))),
  );

  // ---- what is done --------------------------------------------------------------------------------
  for (const verb of ['pause', 'resume', 'halt'] as const) {
    app.post(`/api/sessions/:session/${verb}`, async (context) => {
      const { reason } = await bodyOf(context, reasonSchema);
      return context.json(
        summarySchema.parse(
          await questions.act(verb, {
            session: sessionOf(context),
            actor: context.get('user'),
            reason,
          }),
        ),
      );
    });
  }
  for (const verb of ['approve', 'reject'] as const) {
    app.post(`/api/sessions/:session/approvals/:approval/${verb}`, async (context) => {
      const { reason, hash, arguments: edited } = await bodyOf(context, decisionSchema);
      const decision = {
        session: sessionOf(context),
        approval: context.req.param('approval'),
        hash,
        actor: context.get('user'),
        reason,
      };
      await questions.act(
        verb,
        verb === 'approve' && edited !== undefined ? { ...decision, arguments: edited } : decision,
      );
      return context.json({});
    });
  }
  app.post('/api/dead-letters/:id/requeue', async (context) => {
    const { body } = await bodyOf(context, requeueSchema);
    const id = letterOf(context);
    const done = requeuedSchema.parse(
      await questions.act('requeue', { id, ...(body === undefined ? {} : { body }) }),
    );
    telemetry.log('info', 'a dead letter was requeued', {
      letter: id,
      actor: context.get('user'),
      isEdited: body !== undefined,
    });
    if (done.requeued === 0)
      throw new Refused('NOT_REQUEUED', done.refused.join('; ') || 'nothing was requeued');
    return context.json(done);
  });

  app.all('/api/*', (context) =>
    context.json(
      { code: 'PATH_UNKNOWN', message: `there is no ${context.req.method} ${context.req.path}` },
      404,
    ),
  );
  app.get('*', (context) => context.html(page.html));
  return app;
}
