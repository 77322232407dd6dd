/** The scripted clerk of the refund desk: what it decides when nobody could say whether a refund was paid. */
import { expect, it } from 'vitest';
import { type ClerkMessage, clerkTurn } from '../examples/refund-desk/clerk.ts';

const call = (id: string, name: string): ClerkMessage => ({
  role: 'assistant',
  tool_calls: [{ id, function: { name, arguments: '{}' } }],
});
const result = (id: string, value: object): ClerkMessage => ({
  role: 'tool',
  tool_call_id: id,
  content: JSON.stringify(value),
});
const order = (refunds: readonly { case: string; amountCents: number }[]) => ({
  order: 'O-40014',
  capturedCents: 9_000,
  refundedCents: refunds.reduce((sum, { amountCents }) => sum + amountCents, 0),
  refunds,
  items: [{ quantity: 2, delivered: 1, unitCents: 4_500 }],
});

/** Case C-0007, up to the second look at its order. */
const told = (refunds: readonly { case: string; amountCents: number }[]): ClerkMessage[] => [
  { role: 'user', content: '{"case":"C-0007","letter":"letters/C-0007.txt"}' },
  call('a', 'read_case'),
  result('a', {
    path: 'letters/C-0007.txt',
    text: 'Order O-40014: one of two came. Please refund 45.00 EUR.',
  }),
  call('b', 'lookup_payment'),
  result('b', order([])),
  call('c', 'run_code'),
  result('c', { result: 4_500 }),
  call('d', 'issue_refund'),
  result('d', { error: { class: 'unknown', code: 'HTTP_409', message: 'REFUNDED_BEFORE' } }),
  call('e', 'lookup_payment'),
  result('e', order(refunds)),
  call('f', 'notify_customer'),
  result('f', { sent: true }),
];
const decided = (turn: ReturnType<typeof clerkTurn>) =>
  JSON.parse('say' in turn ? turn.say : '{}') as { decision?: string; amountCents?: number };

it('looks the order up again before it says anything', () => {
  expect(clerkTurn(told([]).slice(0, -4))).toMatchObject({ call: { name: 'lookup_payment' } });
});
it('counts a refund of its own case as paid', () => {
  expect(decided(clerkTurn(told([{ case: 'C-0007', amountCents: 4_500 }])))).toMatchObject({
    decision: 'refunded',
    amountCents: 4_500,
  });
});
it("does not count another case's refund of the same order as its own", () => {
  expect(decided(clerkTurn(told([{ case: 'C-0100', amountCents: 4_500 }])))).toMatchObject({
    decision: 'denied',
    amountCents: 0,
  });
});
