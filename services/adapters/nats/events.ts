/**
 * EVENTS and DEAD: what happened, and what could not be done.
 *
 * Each end has a message of its own, under its session's subject. Steps leave as CloudEvents batches (ADR 6).
 */
import { z } from 'zod';
import { limits } from '../../core/limits.ts';
import { parseEvents, type UnderstudyEvent } from '../../core/wire/cloud-event.ts';
import { letterSchema } from '../../core/wire/control-answers.ts';
import { letterText } from '../../core/wire/letter-text.ts';
import type { DeadLetter, Events } from '../../ports/events.ts';
import { ask, lastMessage, type Nats } from './connection.ts';
import { type OrderedMessage, OrderedReader, readAll } from './ordered-reader.ts';
import { WaitingRoom } from './waiting-room.ts';

/** As it is stored: its number and its time are those of its message. */
const deadSchema = letterSchema
  .omit({ id: true, at: true })
  .extend({ body: z.string(), headers: z.record(z.string(), z.string()).default({}) });

/** What is no subject token is written in one that is: a dead letter may come of a bad name. */
const tokenOf = (text: string) => (/^[A-Za-z0-9_-]{1,64}$/.test(text) ? text : 'invalid');

export function natsEvents(nats: Nats): Events {
  const { subjects, streams, publisher } = nats;
  const kindOf = (event: UnderstudyEvent) => event.type.slice(event.type.lastIndexOf('.') + 1);
  const steps = new WaitingRoom(limits.eventsWaitMs, (subject, texts) =>
    publisher.publish(subject, `[${texts.join(',')}]`, { pace: 'soon' }),
  );
  const subjectOf = (event: UnderstudyEvent) =>
    subjects.event(event.data.tenant, event.data.agent, event.data.session, kindOf(event));
  const parseDead = (sequence: number, at: number, text: string): DeadLetter | undefined => {
    try {
      return { id: sequence, at, ...deadSchema.parse(JSON.parse(text)) };
    } catch {
      return undefined;
    }
  };
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
    async publishEnd(event) {
      steps.send(subjects.eventBatch(event.data.tenant, event.data.agent));
      await publisher.publish(subjectOf(event), JSON.stringify(event));
    },
    async has(event) {
      const subject = subjectOf(event);
      const last = await lastMessage(nats, streams.events, { last_by_subj: subject });
      if (!last) return false;
      const { id, data } = JSON.parse(last.text) as { id?: string; data?: { version?: number } };
      if (id === event.id) return true;
      if ((data?.version ?? 0) < event.data.version) return false;
      // A keyed session has had other ends since: look through them.
      let isThere = false;
      await readAll(
        nats,
        { stream: streams.events, filter: subject, afterSequence: 0 },
        (message) => {
          isThere ||= (JSON.parse(message.text()) as { id?: string }).id === event.id;
        },
      );
      return isThere;
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
    async bury(letter) {
      const bytesMax = nats.connection.info?.max_payload ?? limits.batchBytesMax;
      await publisher.publish(
        subjects.dead(tokenOf(letter.tenant), tokenOf(letter.agent)),
        letterText(letter, bytesMax),
      );
    },
    async deadLetters(max) {
      const letters: DeadLetter[] = [];
      await readAll(
        nats,
        { stream: streams.dead, filter: subjects.all('dead'), afterSequence: 0 },
        (message) => {
          const letter = parseDead(message.sequence, message.at, message.text());
          if (letter) letters.push(letter);
        },
      );
      return letters.slice(-max);
    },
    async deadLetter(id) {
      const message = await lastMessage(nats, streams.dead, { seq: id });
      return message && parseDead(id, message.at, message.text);
    },
    async unbury(id) {
      await ask(nats, `$JS.API.STREAM.MSG.DELETE.${streams.dead}`, { seq: id, no_erase: false });
    },
  };
}
