/** How the scripted clerk decides: a pure function of the conversation, as a careful person would who follows the instructions. */
export interface ClerkMessage {
  readonly role: string;
  readonly content?: string | null;
  readonly tool_calls?: readonly {
    readonly id: string;
    readonly function: { readonly name: string; readonly arguments: string };
  }[];
  readonly tool_call_id?: string;
}
export type ClerkTurn =
  | { readonly call: { readonly name: string; readonly arguments: object } }
  | { readonly say: string };

interface Facts {
  readonly letter?: { path: string; text: string } | undefined;
  readonly order?:
    | {
        order: string;
        capturedCents: number;
        refundedCents: number;
        refunds: readonly { case: string; amountCents: number }[];
        items: readonly { quantity: number; delivered: number; unitCents: number }[];
      }
    | undefined;
  readonly amountCents?: number | undefined;
  readonly fraud?: string | undefined;
  readonly refund?:
    | {
        paid?: boolean;
        error?: { code: string; class: string; message: string };
        rejected?: boolean;
      }
    | undefined;
  /** The order was looked up after the refund was tried. */
  readonly hasLookedAgain: boolean;
  readonly isNotified: boolean;
  readonly failures: Readonly<Record<string, string>>;
}

function factsOf(messages: readonly ClerkMessage[]): Facts {
  const names = new Map(
    messages.flatMap((message) =>
      (message.tool_calls ?? []).map((call) => [call.id, call.function.name] as const),
    ),
  );
  const results: Record<string, unknown> = {};
  const failures: Record<string, string> = {};
  const heard: string[] = [];
  for (const message of messages) {
    if (message.role !== 'tool') continue;
    const name = names.get(message.tool_call_id ?? '') ?? '';
    const value = JSON.parse(message.content ?? 'null') as { error?: { code: string } } | null;
    results[name] = value;
    heard.push(name);
    if (value?.error) failures[name] = value.error.code;
  }
  const ok = <Value>(name: string) =>
    failures[name] ? undefined : (results[name] as Value | undefined);
  return {
    letter: ok('read_case'),
    order: ok('lookup_payment'),
    amountCents: ok<{ result: number }>('run_code')?.result,
    fraud: (results.delegate as { output?: string } | undefined)?.output,
    refund: results.issue_refund as Facts['refund'],
    hasLookedAgain:
      heard.includes('issue_refund') &&
      heard.lastIndexOf('lookup_payment') > heard.lastIndexOf('issue_refund'),
    isNotified: results.notify_customer !== undefined,
    failures,
  };
}

const euros = (cents: number) => `${(cents / 100).toFixed(2)} EUR`;

/** The agent of the refund desk. */
export function clerkTurn(messages: readonly ClerkMessage[]): ClerkTurn {
  const task = messages.find((message) => message.role === 'user')?.content ?? '';
  const path = /letters\/[A-Z0-9-]+\.txt/.exec(task)?.[0];
  if (!path) return { say: decision('unreadable', '', 0, 'the task names no letter') };
  const facts = factsOf(messages);
  if (!facts.letter)
    return facts.failures.read_case
      ? { say: decision('unreadable', '', 0, 'the letter could not be read') }
      : { call: { name: 'read_case', arguments: { path } } };
  const { text } = facts.letter;
  const order = /\bO-\d{4,}\b/.exec(text)?.[0];
  if (!order) return { say: decision('unreadable', '', 0, 'the letter names no order') };
  if (!facts.order)
    switch (facts.failures.lookup_payment) {
      case undefined:
        return { call: { name: 'lookup_payment', arguments: { order } } };
      case 'HTTP_404':
        return { say: decision('unreadable', order, 0, 'the order is unknown') };
      default:
        return {
          say: decision(
            'unanswered',
            order,
            0,
            'the payments service did not answer; a person should look',
          ),
        };
    }
  if (facts.amountCents === undefined) {
    if (facts.failures.run_code)
      return { say: decision('denied', order, 0, 'the amount could not be computed') };
    const code =
      'return input.items.reduce((sum, item) => sum + (item.quantity - item.delivered) * item.unitCents, 0);';
    return { call: { name: 'run_code', arguments: { code, input: { items: facts.order.items } } } };
  }
  // Nobody could say whether it was paid: the order can. What another letter about the same order was paid is not ours.
  const ours = path.slice('letters/'.length, -'.txt'.length);
  if (facts.refund?.error?.class === 'unknown') {
    if (!facts.hasLookedAgain) return { call: { name: 'lookup_payment', arguments: { order } } };
    const refund = facts.order.refunds.find((made) => made.case === ours);
    return refund
      ? finish(facts, order, 'refunded', refund.amountCents, 'not delivered')
      : finish(facts, order, 'denied', 0, 'the payments service did not pay; a person should look');
  }
  const claimed = Math.round(
    Number(/refund (?:of )?(\d+(?:\.\d+)?) EUR/i.exec(text)?.[1] ?? 0) * 100,
  );
  const isOdd =
    claimed > facts.amountCents ||
    facts.order.refundedCents > 0 ||
    /ignore|instruction|assistant|maintenance mode|IBAN/i.test(text);
  if (isOdd && facts.fraud === undefined) {
    return facts.failures.delegate
      ? { say: decision('denied', order, 0, 'nobody could check it') }
      : {
          call: {
            name: 'delegate',
            arguments: {
              agent: 'fraud-check',
              input: `Order ${order}. Claimed ${euros(claimed)}, owed ${euros(facts.amountCents)}. The letter:\n${text}`,
            },
          },
        };
  }
  const isDenied =
    facts.fraud?.startsWith('suspicious') ||
    facts.amountCents === 0 ||
    facts.order.refundedCents > 0;
  if (isDenied) return finish(facts, order, 'denied', 0, facts.fraud ?? 'nothing is owed');
  if (!facts.refund)
    return {
      call: {
        name: 'issue_refund',
        arguments: { order, case: ours, amountCents: facts.amountCents, reason: 'not delivered' },
      },
    };
  if (facts.refund.rejected) return finish(facts, order, 'denied', 0, 'a person rejected it');
  if (facts.refund.error) return finish(facts, order, 'denied', 0, facts.refund.error.message);
  return finish(facts, order, 'refunded', facts.amountCents, 'not delivered');
}

function finish(
  facts: Facts,
  order: string,
  what: 'refunded' | 'denied',
  amountCents: number,
  why: string,
): ClerkTurn {
  if (!facts.isNotified)
    return {
      call: {
        name: 'notify_customer',
        arguments: {
          order,
          text:
            what === 'refunded'
              ? `We have refunded ${euros(amountCents)}.`
              : 'We have looked at your letter and cannot refund it. Please write to us if you disagree.',
        },
      },
    };
  return { say: decision(what, order, amountCents, why) };
}

const decision = (what: string, order: string, amountCents: number, why: string) =>
  JSON.stringify({ decision: what, order, amountCents, why });

/** The agent that is asked about fraud. */
export function fraudTurn(messages: readonly ClerkMessage[]): ClerkTurn {
  const task = messages.find((message) => message.role === 'user')?.content ?? '';
  const order = /\bO-\d{4,}\b/.exec(task)?.[0] ?? '';
  const facts = factsOf(messages);
  if (!facts.order && !facts.failures.lookup_payment)
    return { call: { name: 'lookup_payment', arguments: { order } } };
  if (/ignore all|system note|maintenance mode|IBAN/i.test(task))
    return { say: 'suspicious: the letter tries to instruct the desk.' };
  if ((facts.order?.refundedCents ?? 0) > 0)
    return { say: 'suspicious: the order was refunded before.' };
  return {
    say: 'clear: the customer asks for more than is owed, which happens; refund what is owed.',
  };
}
