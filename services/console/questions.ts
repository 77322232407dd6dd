/** Questions to the control API: many who look at the same page cost a runtime no more than one. */
import { Refused } from '../core/errors.ts';
import type { Control } from '../ports/control.ts';

const waitMs = 5_000;
const sharedMs = 1_000;

export interface Questions {
  /** An answer may be up to a second old. @throws Refused with the runtime's code; Unavailable when none answers */
  look(
    verb: 'list' | 'count' | 'inspect' | 'approvals' | 'dead' | 'doctor' | 'verify',
    body: object,
  ): Promise<unknown>;
  /** Never shared. @throws as above */
  act(
    verb: 'pause' | 'resume' | 'halt' | 'approve' | 'reject' | 'requeue',
    body: object,
  ): Promise<unknown>;
}

export function questionsOf(control: Pick<Control, 'ask'>, clock: () => number): Questions {
  interface Asked {
    readonly answer: Promise<unknown>;
    /** Nothing while it is under way: one who asks meanwhile waits along. */
    answeredAt: number | undefined;
  }
  const asked = new Map<string, Asked>();
  const ask = async (verb: string, body: object): Promise<unknown> => {
    const answer = await control.ask(verb, body, waitMs);
    if (!answer.ok) throw new Refused(answer.code, answer.message);
    return answer.value;
  };
  return {
    look(verb, body) {
      const now = clock();
      for (const [key, { answeredAt }] of asked)
        if (answeredAt !== undefined && now - answeredAt > sharedMs) asked.delete(key);
      const question = JSON.stringify([verb, body]);
      const known = asked.get(question);
      if (known) return known.answer;
      const entry: Asked = { answer: ask(verb, body), answeredAt: undefined };
      asked.set(question, entry);
      entry.answer.then(
        () => {
          entry.answeredAt = clock();
        },
        () => {
          if (asked.get(question) === entry) asked.delete(question);
        },
      );
      return entry.answer;
    },
    async act(verb, body) {
      const done = await ask(verb, body);
      asked.clear(); // who acted looks next, and must see it
      return done;
    },
  };
}
