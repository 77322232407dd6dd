/** One event as one line for people. */

import { dollars } from '../format.ts';
import type { UnderstudyEvent } from './cloud-event.ts';
import { isEndEvent } from './event-end.ts';

export function eventLine(event: UnderstudyEvent): string {
  const { data } = event;
  const kind = event.type.slice(event.type.lastIndexOf('.') + 1);
  const details: string[] = [];
  if (data.details.model)
    details.push(
      `${String(data.details.model)} ${String(data.details.promptTokens)}+${String(data.details.completionTokens)} tokens, ${String(data.details.latencyMs)} ms, ${dollars(Number(data.details.costMicros))}`,
    );
  if (data.details.tool)
    details.push(
      `${String(data.details.tool)} ${String(data.details.outcome ?? data.details.decision ?? '')}${data.details.code ? ` ${String(data.details.code)}` : ''}`,
    );
  if (data.details.actor)
    details.push(
      `by ${String(data.details.actor)}${data.details.reason ? `: ${String(data.details.reason)}` : ''}`,
    );
  if (data.details.event) details.push(`heard ${String(data.details.event)}`);
  for (const { type } of emittedIn(data.emitted)) details.push(`emitted ${type}`);
  for (const { what } of data.underWay ?? []) details.push(`${what} was under way`);
  for (const { kind: wanted, what } of data.effects)
    details.push(`-> ${wanted}${what ? ` ${what}` : ''}`);
  if (data.reason && isEndEvent(event)) details.push(data.reason);
  const move =
    data.from === data.to || data.from === ''
      ? data.to === kind
        ? ''
        : data.to
      : `${data.from} > ${data.to}`;
  return `${event.time.slice(11, 23)}  ${data.session}  v${data.version}  ${kind.padEnd(14)} ${move}  ${details.join('  ')}`.trimEnd();
}

/** Types of events of a user's machine; what has none is told as what it is. */
const emittedIn = (emitted: readonly unknown[] = []): { readonly type: string }[] =>
  emitted.map((event) => ({
    type: String((event as { type?: unknown } | null)?.type ?? 'an event').slice(0, 100),
  }));
