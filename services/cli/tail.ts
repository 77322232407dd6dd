/** `understudy tail`: what happens, as it happens; of one session until it has ended. */
import { Refused } from '../core/errors.ts';
import { isFinal } from '../core/session/status.ts';
import type { SessionSummary } from '../core/session/summary.ts';
import { isEndEvent } from '../core/wire/event-end.ts';
import { eventLine } from '../core/wire/event-line.ts';
import { quoted } from './failure.ts';
import type { Terminal } from './terminal.ts';

export interface TailOptions {
  readonly tenant?: string;
  readonly agent?: string;
  readonly fromStart?: boolean;
}

export async function tail(
  session: string | undefined,
  filter: TailOptions,
  { options, serverUrl, tell, say, note, withPorts }: Terminal,
): Promise<void> {
  const { prefix, explain } = options();
  if (explain) {
    say(
      `nats --server ${serverUrl()} sub ${quoted(`${prefix}.event.${filter.tenant ?? '*'}.${filter.agent ?? '*'}.>`)}${session === undefined ? '' : ` | grep ${quoted(session)}`}`,
    );
    return;
  }
  await withPorts(async ({ control, events }) => {
    const isJson = options().output === 'json';
    // A name that nobody knows is said now: waiting for it would look like a quiet session.
    const known =
      session === undefined
        ? undefined
        : await control.ask('inspect', { session }, options().timeout);
    if (known && !known.ok) throw new Refused(known.code, known.message);
    // Steps of a session stand among those of its agent: read no more of them than it has lived through.
    const { tenant, agent, startedAt, status } =
      (known?.value as { summary: Partial<SessionSummary> } | undefined)?.summary ?? {};
    if (status && isFinal(status) && !filter.fromStart)
      return note(`${session} has ${status} and says nothing more; --from-start shows what it did`);
    await new Promise<void>((resolve, reject) => {
      process.once('SIGINT', () => resolve());
      process.once('SIGTERM', () => resolve());
      events
        .follow(
          {
            tenant: filter.tenant ?? tenant,
            agent: filter.agent ?? agent,
            session,
            since: startedAt,
          },
          Boolean(filter.fromStart),
          (event) => {
            if (isJson) process.stdout.write(`${JSON.stringify(event)}\n`);
            else tell(eventLine(event));
            // A session that was named and has ended says nothing more.
            if (session !== undefined && isEndEvent(event) && isFinal(event.data.status)) resolve();
          },
        )
        .then(async () => {
          // It may have ended while we began to listen.
          if (session === undefined || filter.fromStart) return;
          const now = await control.ask('inspect', { session }, options().timeout);
          if (now.ok && isFinal((now.value as { summary: SessionSummary }).summary.status))
            resolve();
        })
        .catch(reject);
    });
  });
}
