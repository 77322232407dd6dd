/**
 * DEAD: what could not be done. One subject for each letter, create-only: it is stored once through
 * kills and reconnects. Its head stands in a header, so that lists read no bodies.
 */
import { z } from 'zod';
import { isTooLarge } from '../../core/errors.ts';
import { jsonOf } from '../../core/json.ts';
import { limits } from '../../core/limits.ts';
import { letterSchema } from '../../core/wire/control-answers.ts';
import { letterText } from '../../core/wire/letter-text.ts';
import { taskIdentity } from '../../core/wire/letters.ts';
import type { DeadLetter, LetterHead, NewDeadLetter } from '../../ports/events.ts';
import { ask, lastMessage, type Nats } from './connection.ts';
import { readAll } from './ordered-reader.ts';
import { isOvertaken } from './publisher.ts';

const headSchema = letterSchema.omit({ id: true, at: true });
const deadSchema = headSchema.extend({
  body: z.string(),
  headers: z.record(z.string(), z.string()).default({}),
});
const headHeader = 'Understudy-Letter';

/** What is no subject token is written in one that is: a dead letter may come of a bad name. */
export const tokenOf = (text: string): string =>
  /^[A-Za-z0-9_-]{1,64}$/.test(text) ? text : 'invalid';

/** In ASCII: headers are read by many clients. */
const headText = (letter: NewDeadLetter): string =>
  JSON.stringify({
    tenant: letter.tenant.slice(0, 64),
    agent: letter.agent.slice(0, 64),
    code: letter.code,
    reason: letter.reason.slice(0, 200),
    ...(letter.session ? { session: letter.session.slice(0, 128) } : {}),
    ...(letter.task ? { task: letter.task.slice(0, 64) } : {}),
    subject: letter.subject ? letter.subject.slice(0, 160) : '',
    ...(letter.isCut ? { isCut: true } : {}),
  }).replace(/[^\x20-\x7e]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`);

/** Of a letter what every message can carry. */
const leastOf = (letter: Omit<NewDeadLetter, 'identity'>): Omit<NewDeadLetter, 'identity'> => ({
  tenant: letter.tenant.slice(0, 64),
  agent: letter.agent.slice(0, 64),
  code: letter.code,
  reason: letter.reason.slice(0, 200),
  ...(letter.session ? { session: letter.session.slice(0, 128) } : {}),
  ...(letter.task ? { task: letter.task.slice(0, 64) } : {}),
  subject: letter.subject.slice(0, 160),
  body: '',
  headers: {},
  isCut: true,
});

function letterFrom(id: number, at: number, text: string): DeadLetter | undefined {
  const parsed = deadSchema.safeParse(jsonOf(text));
  return parsed.success ? { id, at, ...parsed.data } : undefined;
}

/** Tenant, agent, identity, code; a letter of an early version has the first two only. */
function identityIn(subject: string, allLetters: string): string | undefined {
  const prefixLength = allLetters.split('.').length - 1;
  const tokens = subject.split('.').slice(prefixLength);
  return tokens.length === 4 ? tokens[2] : undefined;
}

export function natsLetters(nats: Nats) {
  const { subjects, streams, publisher } = nats;
  const subjectOf = ({ tenant, agent, identity, code }: NewDeadLetter) =>
    subjects.letter(tokenOf(tenant), tokenOf(agent), tokenOf(identity), tokenOf(code));

  /** Heads of letters with numbers from `first` up to `last`, in order. */
  const headsBetween = async (first: number, last: number): Promise<LetterHead[]> => {
    const heads: LetterHead[] = [];
    const old: number[] = [];
    await readAll(
      nats,
      {
        stream: streams.dead,
        filter: subjects.all('dead'),
        afterSequence: first - 1,
        upTo: last,
        headersOnly: true,
      },
      ({ sequence: id, at, header }) => {
        const head = headSchema.safeParse(jsonOf(header(headHeader)));
        if (head.success) heads.push({ id, at, ...head.data });
        else old.push(id);
      },
    );
    // Letters of an earlier version have their head in the body only.
    for (const id of old) {
      const letter = await read(id);
      if (letter) heads.push(letter);
    }
    return heads.sort((left, right) => left.id - right.id);
  };
  const read = async (id: number): Promise<DeadLetter | undefined> => {
    const message = await lastMessage(nats, streams.dead, { seq: id });
    const letter = message && letterFrom(id, message.at, message.text);
    if (!letter) return undefined;
    const identity = identityIn(message.subject, subjects.all('dead'));
    return identity === undefined ? letter : { ...letter, identity };
  };
  const stateOf = async () => {
    const info = await ask<{ state: { messages: number; first_seq: number; last_seq: number } }>(
      nats,
      `$JS.API.STREAM.INFO.${streams.dead}`,
      undefined,
    );
    return info.state ?? { messages: 0, first_seq: 1, last_seq: 0 };
  };

  return {
    /** @returns its number and time, whether it is new or was there */
    async store(letter: NewDeadLetter): Promise<{ id: number; at: number; isNew: boolean }> {
      const subject = subjectOf(letter);
      const { identity: _, ...content } = letter;
      const send = (what: Omit<NewDeadLetter, 'identity'>) => {
        const headers = {
          'Nats-Expected-Last-Subject-Sequence': '0',
          [headHeader]: headText({ ...letter, ...what }),
        };
        // The publisher counts three bytes for each character of headers.
        const headersBytes = JSON.stringify(headers).length * 3;
        const bytesMax = (nats.connection.info?.max_payload ?? limits.batchBytesMax) - headersBytes;
        return publisher.publish(subject, letterText(what, bytesMax), { headers });
      };
      try {
        const id = await send(content).catch((error: unknown) => {
          // Whatever its sender wrote into it: a letter is stored, or its task would come for ever.
          if (isTooLarge(error)) return send(leastOf(content));
          throw error;
        });
        return { id, at: Date.now(), isNew: true };
      } catch (error) {
        if (!isOvertaken(error)) throw error;
      }
      const stored = await lastMessage(nats, streams.dead, { last_by_subj: subject });
      return { id: stored?.seq ?? 0, at: stored?.at ?? Date.now(), isNew: false };
    },

    async list(max: number, before?: number): Promise<LetterHead[]> {
      const { first_seq: first, last_seq: last } = await stateOf();
      let upTo = Math.min(last, (before ?? Number.MAX_SAFE_INTEGER) - 1);
      const found: LetterHead[] = [];
      // Numbers may be far apart where many letters were taken away: look further each time.
      for (let width = 2 * max + 64; upTo >= first && found.length < max; width *= 4) {
        const from = Math.max(first, upTo - width + 1);
        found.push(...(await headsBetween(from, upTo)).reverse());
        upTo = from - 1;
      }
      return found.slice(0, max);
    },

    read,

    async ofTask(
      tenant: string,
      agent: string,
      session: string,
      task: string,
    ): Promise<LetterHead | undefined> {
      const subject = subjects.letter(tenant, agent, taskIdentity(session, task), '*');
      const message = await lastMessage(nats, streams.dead, { last_by_subj: subject });
      return message && letterFrom(message.seq, message.at, message.text);
    },

    count: async (): Promise<number> => (await stateOf()).messages,

    async remove(id: number): Promise<boolean> {
      const answer = await ask<{ success?: boolean }>(
        nats,
        `$JS.API.STREAM.MSG.DELETE.${streams.dead}`,
        { seq: id, no_erase: false },
      );
      return answer.success === true;
    },
  };
}
