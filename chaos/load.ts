/**
 * Sessions all the time: publishes tasks as two tenants with their own users, and tells the outside world which were accepted.
 * Environment: NATS_URL, PREFIX, WORLD_URL, RUN (beginning of all task ids), PER_SECOND, PASSWORD_<TENANT>, TASKS (stop after so many).
 */
import { connect, headers, type JetStreamClient } from 'nats';

const {
  NATS_URL = 'nats://127.0.0.1:4222',
  PREFIX = 'understudy',
  WORLD_URL = 'http://127.0.0.1:8080',
  RUN = 'run',
  PER_SECOND = '4',
  TASKS = '1000000',
} = process.env;
const tenants = ['acme', 'globex'];
let isStopping = false;
process.on('SIGTERM', () => {
  isStopping = true;
});

const clients = new Map<string, JetStreamClient>();
for (const tenant of tenants) {
  const pass = process.env[`PASSWORD_${tenant.toUpperCase()}`];
  const user = pass
    ? { user: `tenant-${tenant}`, pass, inboxPrefix: `_INBOX_tenant-${tenant}` }
    : {};
  const connection = await connect({
    servers: NATS_URL,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 100,
    waitOnFirstConnect: true,
    ...user,
  });
  clients.set(tenant, connection.jetstream({ timeout: 2_000 }));
}

/** What a session does: reads, pays, computes, tells, records; now and then it works with files or asks a person. */
function scriptOf(number: number, tenant: string): string {
  const calls: { tool: string; arguments?: object }[] = [{ tool: 'pure' }, { tool: 'keyed' }];
  if (number % 12 === 0)
    calls.push({ tool: 'code', arguments: { code: 'return input.n * 2;', input: { n: number } } });
  if (number % 12 === 1)
    calls.push(
      { tool: 'files', arguments: { code: 'date >> notes; wc -l < notes' } },
      { tool: 'files', arguments: { code: 'date >> notes; wc -l < notes' } },
    );
  calls.push({ tool: 'opaque' }, { tool: 'queryable' });
  if (number % 25 === 2) calls.push({ tool: 'guarded' });
  return JSON.stringify({ calls, say: `done for mark-of-${tenant}` });
}

async function untilDone(work: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await work();
      return;
    } catch {
      // Whoever was not told that a task is accepted publishes it again, under the same id.
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }
}

const open = new Set<Promise<void>>();
let number = 0;
while (!isStopping && number < Number(TASKS)) {
  number += 1;
  const task = `${RUN}-${number}`;
  const tenant = tenants[number % tenants.length]!;
  const body = JSON.stringify({ input: scriptOf(number, tenant) });
  const one = (async () => {
    const header = headers();
    header.set('Understudy-Task', task);
    await untilDone(() =>
      clients.get(tenant)!.publish(`${PREFIX}.task.${tenant}.desk`, body, { headers: header }),
    );
    await untilDone(() =>
      fetch(`${WORLD_URL}/accepted`, {
        method: 'POST',
        body: JSON.stringify([{ task, tenant, at: Date.now() }]),
      }),
    );
  })();
  open.add(one);
  void one.finally(() => open.delete(one));
  await new Promise((resolve) => setTimeout(resolve, 1_000 / Number(PER_SECOND)));
}
await Promise.all(open);
process.stdout.write(`${JSON.stringify({ published: number })}\n`);
process.exit(0);
