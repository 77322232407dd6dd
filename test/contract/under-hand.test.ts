/** What the NATS adapters see while things move under their hands, and what they keep. */
import { connect, createServer, type Socket } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectNats, type Nats } from '../../services/adapters/nats/connection.ts';
import { EndWriters } from '../../services/adapters/nats/ends.ts';
import { natsTasks } from '../../services/adapters/nats/tasks.ts';
import type { UnderstudyEvent } from '../../services/core/wire/cloud-event.ts';
import { eventually } from '../support/eventually.ts';
import { type Servers, startServers } from '../support/servers.ts';
import { isUnit } from '../support/unit.ts';

let servers: Servers | undefined;
let nats: Nats;
beforeAll(async () => {
  if (isUnit) return;
  servers = await startServers();
  nats = servers.connections.nats;
});
afterAll(() => servers?.stop());

test.skipIf(isUnit)('tasks that are taken while one looks are not taken for stuck', async () => {
  const tasks = natsTasks(nats);
  let isTaking = false;
  const taking = tasks.take(
    () => (isTaking ? 100 : 0),
    async () => undefined,
  );
  await tasks.publish('acme', 'desk', '{}', {});
  await eventually(async () => (await tasks.state()).isTaken);
  let answers = 0;
  const { requests } = nats;
  const moving = {
    ...nats,
    requests: {
      ask: async (subject: string, body: string, timeoutMs: number) => {
        const answer = await requests.ask(subject, body, timeoutMs);
        // Its names, then the two questions whose answers are compared.
        answers += 1;
        if (answers !== 2) return answer;
        isTaking = true;
        await eventually(async () => {
          const { state } = JSON.parse(
            await requests.ask(`$JS.API.STREAM.INFO.${nats.streams.tasks}`, '', 1_000),
          ) as { state: { messages: number } };
          return state.messages === 0;
        }, 'the task to be taken');
        isTaking = false;
        await natsTasks(nats).publish('acme', 'desk', '{}', {});
        return answer;
      },
    },
  } as unknown as Nats;

  expect(await natsTasks(moving).state()).toEqual({ waiting: 1, stuck: false, isTaken: true });
  isTaking = true;
  await taking.drain();
});

test.skipIf(isUnit)('writers of ends are bounded, however many agents are named', async () => {
  const writers = new EndWriters(nats);
  const subject = (number: number) => nats.subjects.ends('acme', `agent-${number}`, '0');
  const endOf = (number: number) =>
    ({
      id: `agent-${number}-1-end0`,
      time: new Date().toISOString(),
      data: { tenant: 'acme', agent: `agent-${number}`, session: `s-${number}`, task: 't' },
    }) as UnderstudyEvent;
  const all = Array.from({ length: 300 }, (_, number) => number);
  // All at once: none of them may be forgotten while it writes.
  const told = await Promise.all(
    all.map((number) => writers.of(subject(number)).tell(endOf(number))),
  );
  expect(told.every((isNew) => isNew)).toBe(true);
  writers.of(subject(0));
  expect(writers.size).toBe(256);
  // One that was forgotten reads what it had told.
  expect(await writers.of(subject(1)).tell(endOf(1))).toBe(false);
});

test.skipIf(isUnit)(
  'tasks of a key stay in order though a connection is cut while they are on their way',
  async () => {
    const proxy = await lossyProxy(Number(new URL(servers!.nats.url).port));
    const cut = await connectNats({ url: `nats://127.0.0.1:${proxy.port}`, name: 'runtime' });
    const heard: string[] = [];
    const taking = natsTasks(cut).take(
      () => 256,
      async ({ headers, body }) => {
        if (headers['Understudy-Session'] === 'chat' && !heard.includes(body)) heard.push(body);
      },
    );
    const publish = (from: number, to: number) =>
      Array.from({ length: to - from }, (_, one) => from + one).reduce(
        (before, number) =>
          before.then(() =>
            natsTasks(nats).publish('acme', 'desk', `t${number}`, { 'Understudy-Session': 'chat' }),
          ),
        Promise.resolve(),
      );
    await publish(0, 5);
    await eventually(() => heard.length === 5, 'the first tasks');
    proxy.isLosing = true;
    await publish(5, 8);
    await new Promise((resolve) => setTimeout(resolve, 200));
    proxy.cut();
    await new Promise((resolve) => setTimeout(resolve, 500));
    await publish(8, 12);
    await eventually(() => heard.length >= 12, 'all tasks');
    expect(heard).toEqual(Array.from({ length: 12 }, (_, number) => `t${number}`));
    await taking.drain();
    await cut.close();
    proxy.close();
  },
);

/** A proxy that can swallow what the server sends, and cut all connections. */
async function lossyProxy(to: number) {
  const sockets = new Set<Socket>();
  const proxy = {
    port: 0,
    isLosing: false,
    cut() {
      for (const socket of sockets) socket.destroy();
      proxy.isLosing = false;
    },
    close() {
      proxy.cut();
      server.close();
    },
  };
  const server = createServer((near) => {
    const far = connect(to, '127.0.0.1');
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one.on('data', (chunk) => {
        if (one === near || !proxy.isLosing) other.write(chunk);
      });
      one.on('error', () => other.destroy());
      one.on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  proxy.port = (server.address() as { port: number }).port;
  return proxy;
}
