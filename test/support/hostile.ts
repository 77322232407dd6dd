/** What a step tells the world, as text: it must be writable whatever the step was about. */
import type { Step } from '../../services/core/session/draft.ts';
import { eventOf, stepEventOf } from '../../services/core/wire/cloud-event.ts';

export const cloudEventText = (
  { record, happened, effects }: Extract<Step, { kind: 'applied' }>,
  at: number,
): string => stepEventOf(eventOf(record, happened, effects, at)).text;
