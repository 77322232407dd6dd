/** `understudy tell`: an event for a session of a user's own machine. */
import { issuesOf, Refused } from '../core/errors.ts';
import { inexactNumber, jsonOf } from '../core/json.ts';
import { eventSchema, type OutsideEvent } from '../core/session/messages.ts';

/**
 * @param text  JSON with a `type`, or the type alone
 * @throws Refused for what can be no event, before anything is published
 */
export function eventIn(text: string): OutsideEvent {
  const value = /^\s*[[{"]/.test(text) ? jsonOf(text) : { type: text };
  if (value === undefined) throw new Refused('EVENT_INVALID', 'the event is not JSON');
  const number = inexactNumber(text);
  if (number !== undefined)
    throw new Refused('EVENT_INVALID', `the event holds ${number}, which would not stay exact`);
  const event = eventSchema.safeParse(value);
  if (!event.success) throw new Refused('EVENT_INVALID', `the event: ${issuesOf(event.error)}`);
  return event.data;
}
