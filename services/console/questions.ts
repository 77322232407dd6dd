/** Questions to the control API: many who look at the same page cost a runtime no more than one. */
import { Refused } from '../core/errors.ts';
import type { Control } from '../ports/control.ts';

const waitMs = 5_000;
const sharedMs = 1_000;

export interface Questions {
  /** An answer may be up to a second old. @throws Refused with the runtime's code; Unavailable when none answers */
  look(verb: 'list' | 'inspect' | 'approvals' | 'dead' | 'doctor' | 'verify', body: object): Promise<unknown>;
  /** Never shared. @throws as above */
  act(verb: 'pause' | 'resume' | 'halt' | 'approve' | 'reject' | 'requeue', body: object): Promise<unknown>;
}

export function questionsOf(control: Pick<Control, 'ask'>, clock: () => number): Questions {
  const asked = new Map<string, { readonly at: number; readonly answer: Promise<unknown> }>();
  const ask = async (verb: string, body: object): Promise<unknown> => {
    const answer = await control.ask(verb, body, waitMs);
    if (!answer.ok) throw new Refused(answer.code, answer.message);
    return answer.value;
  };
  return {
    look(verb, body) {
      const question = JSON.stringify([verb, body]);
      const now = clock();
      for (const [key, { at }] of asked) if (now - at > sharedMs) asked.delete(key);
      const known = asked.get(question);
      if (known) return known.answer;
      const answer = ask(verb, body);
      asked.set(question, { at: now, answer });
      answer.catch(() => asked.delete(question));
      return answer;
    },
    async act(verb, body) {
      const done = await ask(verb, body);
      asked.clear(); // who acted looks next, and must see it
      return done;
    },
  };
}
