/** EVENTS and DEAD: what happened, and what could not be done. */
import { z } from 'zod';
import type { UnderstudyEvent } from '../../core/wire/cloud-event.ts';
import { subjectsOf } from '../../core/wire/subjects.ts';
import type { DeadLetter, Events } from '../../ports/events.ts';
import { ask, type Nats } from './connection.ts';
import { OrderedReader, readAll } from './ordered-reader.ts';

const deadSchema = z.object({
  tenant: z.string(),
  agent: z.string(),
  code: z.string(),
  reason: z.string(),
  session: z.string().optional(),
  task: z.string().optional(),
  subject: z.string(),
  body: z.string(),
  headers: z.record(z.string(), z.string()).default({}),
});

/** What is no subject token is written in one that is: a dead letter may come of a bad name. */
const tokenOf = (text: string) => (/^[A-Za-z0-9_-]{1,64}$/.test(text) ? text : 'invalid');

export function natsEvents(nats: Nats): Events {
  const { subjects, streams, publisher } = nats;
  const kindOf = (event: UnderstudyEvent) => event.type.slice(event.type.lastIndexOf('.') + 1);
  const subjectOf = (event: UnderstudyEvent) => subjects.event(event.data.tenant, event.data.agent, event.data.session, kindOf(event));
  const parseDead = (sequence: number, at: number, text: string): DeadLetter | undefined => {
    try {
      return { id: sequence, at, ...deadSchema.parse(JSON.parse(text)) };
    } catch {
      return undefined;
    }
  };
  return {
    async publish(event) {
      await publisher.publish(subjectOf(event), JSON.stringify(event));
    },
    async has(event) {
      const answer = await ask<{ message?: { data: string } }>(nats, `$JS.API.STREAM.MSG.GET.${streams.events}`, { last_by_subj: subjectOf(event) });
      if (!answer.message) return false;
      return (JSON.parse(Buffer.from(answer.message.data, 'base64').toString('utf8')) as { id?: string }).id === event.id;
    },
    async follow({ tenant, agent, session }, fromStart, onEvent) {
      let afterSequence = 0;
      if (!fromStart) {
        const info = await ask<{ state: { last_seq: number } }>(nats, `$JS.API.STREAM.INFO.${streams.events}`, undefined);
        afterSequence = info.state?.last_seq ?? 0;
      }
      const filter = subjectsOf(subjects.prefix).event(tenant ?? '*', agent ?? '*', session ?? '*', '*');
      const reader = new OrderedReader(nats, { stream: streams.events, filter, afterSequence }, (message) => onEvent(JSON.parse(message.text()) as UnderstudyEvent));
      await reader.start();
      return { stop: () => reader.stop() };
    },
    async bury(letter) {
      await publisher.publish(subjects.dead(tokenOf(letter.tenant), tokenOf(letter.agent)), JSON.stringify(letter));
    },
    async deadLetters(max) {
      const letters: DeadLetter[] = [];
      await readAll(nats, { stream: streams.dead, filter: subjects.all('dead'), afterSequence: 0 }, (message) => {
        const letter = parseDead(message.sequence, message.at, message.text());
        if (letter) letters.push(letter);
      });
      return letters.slice(-max);
    },
    async deadLetter(id) {
      const answer = await ask<{ message?: { data: string; time: string } }>(nats, `$JS.API.STREAM.MSG.GET.${streams.dead}`, { seq: id });
      return answer.message ? parseDead(id, Date.parse(answer.message.time), Buffer.from(answer.message.data, 'base64').toString('utf8')) : undefined;
    },
    async unbury(id) {
      await ask(nats, `$JS.API.STREAM.MSG.DELETE.${streams.dead}`, { seq: id, no_erase: false });
    },
  };
}
