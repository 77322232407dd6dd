/**
 * A session's events as they happen, for a browser (server-sent events).
 *
 * E1  What was opened for a reader is closed when it goes, whenever that is.
 * E2  A reader that does not keep up, or asks when there are too many, is let go and may come again.
 * E3  A session that is over is followed to its end and no further.
 */
import type { Context } from 'hono';
import { streamSSE } from 'hono/streaming';
import { messageOf, Unavailable } from '../core/errors.ts';
import { isFinal } from '../core/session/status.ts';
import type { SessionSummary } from '../core/session/summary.ts';
import type { UnderstudyEvent } from '../core/wire/cloud-event.ts';
import { isEndEvent } from '../core/wire/event-end.ts';
import type { Events } from '../ports/events.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { eventViewOf } from './answers.ts';

const waitingBytesMax = 4 * 1024 * 1024; // a session of some thousand steps, told at once
const streamsMax = 200; // each reads the events of an agent: one process has no more to give
const beatMs = 15_000; // proxies close what is silent for a minute
const lingerMs = 500; // steps that had to be told again may come after the end

export function eventStreams(events: Pick<Events, 'follow'>, telemetry: Telemetry) {
  let open = 0;
  return {
    /** @throws Unavailable when as many are open as there may be */
    answer(
      context: Context,
      session: Pick<SessionSummary, 'tenant' | 'agent' | 'session' | 'startedAt'>,
    ): Response {
      // HEAD comes here as well, and nobody would read, or end, what it is given.
      if (context.req.method !== 'GET') return context.body(null);
      if (open >= streamsMax)
        throw new Unavailable(
          'STREAMS_FULL',
          `${streamsMax} sessions are being watched: close some pages, or start more consoles`,
        );
      open += 1;
      return streamSSE(context, async (stream) => {
        const { promise: over, resolve: end } = Promise.withResolvers<void>();
        stream.onAbort(end);
        let waiting = 0;
        const tell = (name: string | undefined, id: string | undefined, data: string) => {
          waiting += data.length;
          if (waiting > waitingBytesMax) return stream.abort(); // calls who waits for the abort, too
          void stream
            .writeSSE({ ...(name ? { event: name } : {}), ...(id ? { id } : {}), data })
            .then(() => {
              waiting -= data.length;
            });
        };
        // One that comes again has seen what is of lower versions; the rest it knows by its id.
        const seen = Number(
          /-(\d+)(?:-end\d+)?$/.exec(context.req.header('last-event-id') ?? '')?.[1] ?? 0,
        );
        const onEvent = (event: UnderstudyEvent) => {
          if (event.data.version < seen) return;
          tell(undefined, event.id, JSON.stringify(eventViewOf(event)));
          if (!isEndEvent(event) || !isFinal(event.data.status)) return;
          setTimeout(() => {
            tell('over', undefined, '');
            end();
          }, lingerMs);
        };
        let following: { stop(): Promise<void> } | undefined;
        let beat: NodeJS.Timeout | undefined;
        try {
          following = await events.follow(
            {
              tenant: session.tenant,
              agent: session.agent,
              session: session.session,
              since: session.startedAt,
            },
            true,
            onEvent,
          );
          if (stream.aborted) return;
          beat = setInterval(() => tell('beat', undefined, '-'), beatMs);
          await over;
        } catch (error) {
          telemetry.log('warn', 'events of a session cannot be followed', {
            session: session.session,
            cause: messageOf(error).slice(0, 200),
          });
          stream.abort();
        } finally {
          open -= 1;
          clearInterval(beat);
          await following?.stop();
        }
      });
    },
    get open(): number {
      return open;
    },
  };
}
