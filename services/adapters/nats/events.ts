/**
 * EVENTS: what happened. Steps leave as CloudEvents batches (ADR 6); ends are compared and appended
 * on a subject for each tenant, agent and shard (ends.ts, ADR 11). DEAD: letters.ts.
 */
import { isTooLarge } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import { parseEvents, type UnderstudyEvent } from '../../core/wire/cloud-event.ts';
import { isEndEvent } from '../../core/wire/event-end.ts';
import { letterEventOf } from '../../core/wire/letters.ts';
import type { Events } from '../../ports/events.ts';
import { ask, type Nats } from './connection.ts';
import { EndWriters } from './ends.ts';
import { natsLetters, tokenOf } from './letters.ts';
import { type OrderedMessage, OrderedReader, readAll } from './ordered-reader.ts';
import { WaitingRoom } from './waiting-room.ts';

export function natsEvents(nats: Nats): Events {
  const { subjects, streams, publisher } = nats;
  const letters = natsLetters(nats);
  const publishSteps = async (subject: string, texts: readonly string[]): Promise<void> => {
    try {
      await publisher.publish(subject, `[${texts.join(',')}]`, { pace: 'soon' });
    } catch (error) {
      if (!isTooLarge(error)) throw error;
      // Of many each alone; one that no message carries would be tried for ever.
      if (texts.length > 1) await Promise.all(texts.map((one) => publishSteps(subject, [one])));
      else await publisher.publish(subject, `[${withoutDetails(texts[0]!)}]`, { pace: 'soon' });
    }
  };
  const steps = new WaitingRoom(limits.eventsWaitMs, publishSteps);
  const ends = new EndWriters(nats);
  return {
    async publishSteps(events) {
      // Most share a batch, and so a promise.
      await Promise.all(
        new Set(
          events.map(({ tenant, agent, text }) =>
            steps.add(subjects.eventBatch(tenant, agent), text),
          ),
        ),
      );
    },
    publishEnd(event, shard = 0) {
      const { tenant, agent } = event.data;
      steps.send(subjects.eventBatch(tenant, agent));
      return ends.of(subjects.ends(tenant, agent, String(shard))).tell(event);
    },
    async endsOf({ tenant, agent, session }, shard, since) {
      const found: UnderstudyEvent[] = [];
      const read = (filter: string) =>
        readAll(nats, { stream: streams.events, filter, afterSequence: 0, since }, (message) => {
          for (const event of parseEvents(message.text()))
            if (event.data.session === session && isEndEvent(event)) found.push(event);
        });
      await read(subjects.event(tenant, agent, session, '*'));
      await read(subjects.ends(tenant, agent, String(shard)));
      return found;
    },
    async follow({ tenant, agent, session, since }, fromStart, onEvent) {
      let afterSequence = 0;
      if (!fromStart) {
        const info = await ask<{ state: { last_seq: number } }>(
          nats,
          `$JS.API.STREAM.INFO.${streams.events}`,
          undefined,
        );
        afterSequence = info.state?.last_seq ?? 0;
      }
      const tell = (message: OrderedMessage) => {
        for (const event of parseEvents(message.text()))
          if (session === undefined || event.data.session === session) onEvent(event);
      };
      const reader = new OrderedReader(
        nats,
        {
          stream: streams.events,
          filter: subjects.event(tenant ?? '*', agent ?? '*', '*', '*'),
          afterSequence,
          since,
        },
        tell,
      );
      await reader.start();
      return { stop: () => reader.stop() };
    },
    async putDeadLetter(letter) {
      const { id, at } = await letters.store(letter);
      // Who published a task waits for its end; a tenant that is no name has nobody who could hear.
      if (!letter.subject || tokenOf(letter.tenant) !== letter.tenant) return;
      const agent = tokenOf(letter.agent);
      const event = letterEventOf({ ...letter, id, at, agent });
      await ends.of(subjects.ends(letter.tenant, agent, 'refused')).tell(event);
    },
    deadLetters: (max, before) => letters.list(max, before),
    deadLetter: (id) => letters.read(id),
    letterOf: (tenant, agent, session, task) => letters.ofTask(tenant, agent, session, task),
    countDeadLetters: () => letters.count(),
    removeDeadLetter: (id) => letters.remove(id),
  };
}

/** A step that is too large for a message, as far as one needs to know that it was. */
function withoutDetails(text: string): string {
  const event = JSON.parse(text) as UnderstudyEvent;
  const { effects, decisions: _, details: _d, ...data } = event.data;
  const kinds = effects.slice(0, 20).map(({ id, kind }) => ({ id, kind }));
  return JSON.stringify({
    ...event,
    data: { ...data, decisions: [], effects: kinds, details: { isCut: true } },
  });
}
