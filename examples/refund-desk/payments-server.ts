/**
 * The outside world of the refund desk: a payments service that records every call, answers slowly, fails now
 * and then, and sometimes dies after it has paid. Its ledger is a file; it is the witness of "never twice".
 *
 * Environment: PORT, HOST (127.0.0.1), DATA (folder with orders.csv and payments.csv), LEDGER (file), CALM=1 to behave.
 */
import { createHash } from 'node:crypto';
import { appendFileSync, existsSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { z } from 'zod';

const {
  PORT = '0',
  HOST = '127.0.0.1',
  DATA = join(import.meta.dirname, 'data'),
  LEDGER = 'ledger.jsonl',
  CALM,
} = process.env;

interface Line {
  readonly kind: 'paid' | 'message' | 'call';
  readonly key: string;
  readonly order: string;
  readonly amountCents?: number;
  /** The case that a refund is for: an order can have several letters. */
  readonly case?: string;
  readonly at: number;
  readonly session?: string;
}

const rows = (file: string) =>
  readFileSync(join(DATA, file), 'utf8')
    .trim()
    .split('\n')
    .slice(1)
    .map((line) => line.split(',').map((cell) => cell.replaceAll('"', '')));
const orders = new Map<
  string,
  {
    order: string;
    customer: string;
    capturedCents: number;
    items: { sku: string; name: string; quantity: number; delivered: number; unitCents: number }[];
  }
>();
for (const [order = '', captured] of rows('payments.csv'))
  orders.set(order, { order, customer: '', capturedCents: Number(captured), items: [] });
for (const [order = '', customer = '', , sku = '', ...rest] of rows('orders.csv')) {
  const [unitCents, delivered, quantity] = rest.reverse().map(Number);
  const found = orders.get(order);
  if (!found) continue;
  found.customer = customer;
  found.items.push({
    sku,
    name: rest.slice(3).reverse().join(','),
    quantity: quantity ?? 0,
    delivered: delivered ?? 0,
    unitCents: unitCents ?? 0,
  });
}

const paid = new Map<string, { order: string; amountCents: number }>();
const refunds = new Map<string, { case: string; amountCents: number }[]>();
const tries = new Map<string, number>();
const note = (line: Line) => appendFileSync(LEDGER, `${JSON.stringify(line)}\n`);
const remember = (line: Line) => {
  if (line.kind !== 'paid') return;
  paid.set(line.key, { order: line.order, amountCents: line.amountCents ?? 0 });
  refunds.set(line.order, [
    ...(refunds.get(line.order) ?? []),
    { case: line.case ?? '', amountCents: line.amountCents ?? 0 },
  ]);
};
const refundedCents = (order: string) =>
  (refunds.get(order) ?? []).reduce((sum, { amountCents }) => sum + amountCents, 0);
if (existsSync(LEDGER))
  for (const text of readFileSync(LEDGER, 'utf8').trim().split('\n'))
    if (text) remember(JSON.parse(text) as Line);

/** Chance without chance: the same key behaves the same in every run. */
const dice = (key: string, what: string) =>
  createHash('sha256').update(`${what}/${key}`).digest().readUInt32BE(0) / 2 ** 32;
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const refundSchema = z.object({
  order: z.string(),
  case: z.string(),
  amountCents: z.number().int().positive(),
  reason: z.string(),
});
const messageSchema = z.object({ order: z.string(), text: z.string() });

async function body(request: IncomingMessage): Promise<unknown> {
  let text = '';
  for await (const chunk of request) text += chunk;
  return JSON.parse(text || '{}');
}
function answer(response: ServerResponse, status: number, value: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const target = new URL(request.url ?? '/', 'http://payments');
  const key = String(request.headers['idempotency-key'] ?? '');
  const session = String(request.headers['x-understudy-session'] ?? '');
  if (request.method === 'GET' && target.pathname === '/health')
    return answer(response, 200, { ok: true });
  if (request.method === 'GET' && target.pathname === '/ledger') {
    response
      .writeHead(200, { 'content-type': 'application/x-ndjson' })
      .end(existsSync(LEDGER) ? readFileSync(LEDGER) : '');
    return;
  }
  if (request.method === 'GET' && target.pathname.startsWith('/orders/')) {
    const order = orders.get(decodeURIComponent(target.pathname.slice('/orders/'.length)));
    if (!order) return answer(response, 404, { error: { code: 'ORDER_UNKNOWN' } });
    return answer(response, 200, {
      ...order,
      refundedCents: refundedCents(order.order),
      refunds: refunds.get(order.order) ?? [],
    });
  }
  if (request.method === 'POST' && target.pathname === '/refunds') {
    const refund = refundSchema.parse(await body(request));
    note({
      kind: 'call',
      key,
      order: refund.order,
      amountCents: refund.amountCents,
      at: Date.now(),
      session,
    });
    if (key === '') return answer(response, 400, { error: { code: 'KEY_MISSING' } });
    const attempt = (tries.get(key) ?? 0) + 1;
    tries.set(key, attempt);
    if (!CALM) await sleep(80 + 500 * dice(key, 'slow'));
    const before = paid.get(key);
    if (before) return answer(response, 200, { paid: true, ...before, repeated: true });
    if (!CALM && attempt === 1 && dice(key, 'transient') < 0.12)
      return answer(response, 503, { error: { code: 'TRY_AGAIN' } });
    const order = orders.get(refund.order);
    if (!order) return answer(response, 404, { error: { code: 'ORDER_UNKNOWN' } });
    if (refunds.has(refund.order))
      return answer(response, 409, {
        error: { code: 'REFUNDED_BEFORE', refundedCents: refundedCents(refund.order) },
      });
    if (refund.amountCents > order.capturedCents)
      return answer(response, 409, { error: { code: 'MORE_THAN_PAID' } });
    const line: Line = {
      kind: 'paid',
      key,
      order: refund.order,
      case: refund.case,
      amountCents: refund.amountCents,
      at: Date.now(),
      session,
    };
    remember(line);
    note(line);
    // It has paid, and now it dies: the caller never hears of it. Whoever restarts it finds the ledger.
    if (!CALM && dice(key, 'dies') < 0.02) process.exit(3);
    return answer(response, 200, {
      paid: true,
      order: refund.order,
      amountCents: refund.amountCents,
    });
  }
  if (request.method === 'POST' && target.pathname === '/messages') {
    const message = messageSchema.parse(await body(request));
    if (!CALM) await sleep(20 + 120 * dice(key, 'slow'));
    note({ kind: 'message', key, order: message.order, at: Date.now(), session });
    return answer(response, 200, { sent: true });
  }
  return answer(response, 404, { error: { code: 'NOT_FOUND' } });
}

const server = createServer((request, response) => {
  handle(request, response).catch((error: unknown) =>
    answer(response, error instanceof z.ZodError || error instanceof SyntaxError ? 400 : 500, {
      error: { code: 'BAD_REQUEST' },
    }),
  );
});
server.listen(Number(PORT), HOST, () => {
  const address = server.address();
  process.stdout.write(
    `${JSON.stringify({ listening: typeof address === 'object' ? address?.port : PORT })}\n`,
  );
});
