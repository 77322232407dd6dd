/** Asks every witness: the streams, the store, the outside world, the counters. The only part of the checker that knows where anything is. */
import { lookup } from 'node:dns/promises';
import { connectNats } from '../../services/adapters/nats/connection.ts';
import { natsControl } from '../../services/adapters/nats/control.ts';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { readAll } from '../../services/adapters/nats/ordered-reader.ts';
import { connectedRedis } from '../../services/adapters/redis/scripts.ts';
import { messageOf } from '../../services/core/errors.ts';
import { shardOf } from '../../services/core/ids.ts';
import { parseRecord } from '../../services/core/session/migrate.ts';
import { parseEvents, type UnderstudyEvent } from '../../services/core/wire/cloud-event.ts';
import { isEndEvent } from '../../services/core/wire/event-end.ts';
import { keysOf } from '../../services/core/wire/keys.ts';
import { type Counters, countedBetween, countsIn } from './counters.ts';
import type { Fault, History, WorldCall } from './history.ts';

export interface Sources {
  readonly natsUrl: string;
  readonly natsUser: string | undefined;
  readonly natsPassword: string | undefined;
  readonly redisUrl: string;
  readonly redisUser: string | undefined;
  readonly redisPassword: string | undefined;
  readonly prefix: string;
  readonly shards: number;
  readonly worldUrl: string;
  /** Name that resolves to all runtimes, or `http://` addresses, comma-separated. */
  readonly runtimes: string;
  /** Beginning of the task ids of this run. */
  readonly run: string;
  readonly faults: readonly Fault[];
  readonly isZombieExpected: boolean;
  /** What runtimes had counted before the load began. */
  readonly before: Counters;
  /** Nothing was done to runtimes or stores: what is counted must be what is told. */
  readonly areCountersJudged: boolean;
  readonly boundMs: number;
  readonly verifyMax: number;
}

interface WorldHistory {
  readonly accepted: readonly {
    readonly task: string;
    readonly tenant: string;
    readonly at: number;
  }[];
  readonly calls: readonly WorldCall[];
  readonly effects: readonly WorldCall[];
  readonly leaks: readonly string[];
}

const restMs = 5_000;

/** After a fault a witness may be slow to answer, or come back in a moment: ask again before there is no verdict at all. */
async function insist<Answer>(question: () => Promise<Answer>, forMs = 60_000): Promise<Answer> {
  for (
    const end = Date.now() + forMs;
    ;
    await new Promise((resolve) => setTimeout(resolve, 1_000))
  ) {
    try {
      return await question();
    } catch (error) {
      if (Date.now() > end) throw error;
    }
  }
}

/** Wait until all accepted work has ended or visibly waits for a person, or the bound has passed; then ask everybody. */
export async function collect(sources: Sources): Promise<History> {
  const { prefix, shards, run } = sources;
  const nats = await connectNats({
    url: sources.natsUrl,
    name: 'checker',
    prefix,
    user: sources.natsUser,
    password: sources.natsPassword,
  });
  const redis = await connectedRedis(sources.redisUrl, {
    user: sources.redisUser,
    password: sources.redisPassword,
  });
  const control = natsControl(nats);
  const eventsPort = natsEvents(nats);
  const isOurs = (task: string | undefined) => task?.startsWith(`${run}-`) ?? false;

  const readEvents = async () => {
    const events: UnderstudyEvent[] = [];
    await readAll(
      nats,
      { stream: nats.streams.events, filter: nats.subjects.all('event'), afterSequence: 0 },
      (message) => {
        events.push(...parseEvents(message.text()));
      },
    );
    return events;
  };
  const readLive = async () => {
    const live: History['live'][number][] = [];
    for (let shard = 0; shard < shards; shard += 1) {
      for (const text of await redis.hvals(keysOf(prefix, shard).records)) {
        const record = parseRecord(text);
        if (
          record.status === 'completed' ||
          record.status === 'failed' ||
          record.status === 'halted'
        )
          continue;
        live.push({
          session: record.session,
          tenant: record.tenant,
          task: record.task,
          status: record.status,
          waitsFor: Object.values(record.pending).map(({ kind }) => kind),
          shard,
          shardByHash: shardOf(record.tenant, record.session, shards),
        });
      }
    }
    return live;
  };
  const worldHistory = async () =>
    (await (await fetch(`${sources.worldUrl}/history`)).json()) as WorldHistory;

  const witnesses = () =>
    Promise.all([readEvents(), readLive(), eventsPort.deadLetters(100_000), worldHistory()]);

  const healedAt = Math.max(Date.now(), ...sources.faults.map((fault) => fault.healedAt));
  let endedAt = 0;
  for (;;) {
    const [events, live, dead, world] = await insist(witnesses);
    const done = new Set([
      ...events.filter(isEndEvent).map(({ data }) => data.task),
      ...dead.map(({ task }) => task),
    ]);
    const waiting = new Set(
      live.filter(({ waitsFor }) => waitsFor.includes('askHuman')).map(({ task }) => task),
    );
    const open = world.accepted.filter(
      ({ task }) => isOurs(task) && !done.has(task) && !waiting.has(task),
    );
    if (open.length === 0) {
      const last = Math.max(
        0,
        ...events.filter(({ data }) => isOurs(data.task)).map(({ time }) => Date.parse(time)),
      );
      endedAt = Math.max(last, Math.max(0, ...sources.faults.map((fault) => fault.healedAt)));
      break;
    }
    if (Date.now() - healedAt > sources.boundMs) {
      endedAt = Date.now();
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
  // What ended needs a moment until its outbox entry is settled.
  await new Promise((resolve) => setTimeout(resolve, restMs));

  const [all, live, dead, world] = await insist(witnesses);
  const events = all.filter(({ data }) => isOurs(data.task));
  const others = new Set(
    all.filter(({ data }) => !isOurs(data.task)).map(({ data }) => data.session),
  );
  const { isWhole, ...counted } = countedBetween(
    sources.before,
    await insist(() => countersOf(sources.runtimes)),
  );
  const store = await insist(async () => {
    const found = { outbox: 0, overdue: [] as string[], orphans: [] as number[] };
    for (let shard = 0; shard < shards; shard += 1) {
      const keys = keysOf(prefix, shard);
      found.outbox += await redis.hlen(keys.outbox);
      found.overdue.push(...(await redis.zrangebyscore(keys.wakes, '-inf', Date.now() - 15_000)));
      if ((await redis.get(keys.owner)) === null) found.orphans.push(shard);
    }
    return found;
  });
  const ended = [...new Set(events.filter(isEndEvent).map(({ data }) => data.session))];
  const some = [
    ...live.filter(({ task }) => isOurs(task)).map(({ session }) => session),
    ...ended.filter(
      (_, index) => index % Math.max(1, Math.floor(ended.length / sources.verifyMax)) === 0,
    ),
  ];
  const verified: History['verified'][number][] = [];
  for (const session of some.slice(0, sources.verifyMax)) {
    // A question that nobody answers is a finding, not the end of the checker.
    const answer = await control
      .ask('verify', { session }, 20_000)
      .catch((error: unknown) => ({ ok: false as const, message: messageOf(error) }));
    if (answer.ok)
      verified.push({ session, isEqual: (answer.value as { isEqual: boolean }).isEqual });
    else verified.push({ session, isEqual: false, refusal: answer.message });
  }
  await nats.close();
  redis.disconnect();
  return {
    accepted: world.accepted.filter(({ task }) => isOurs(task)),
    events,
    dead: dead.filter(({ task }) => isOurs(task)).map(({ task, code }) => ({ task, code })),
    live: live.filter(({ task }) => isOurs(task)),
    classes: {
      pure: 'pure',
      keyed: 'keyed',
      queryable: 'queryable',
      opaque: 'opaque',
      guarded: 'keyed',
    },
    world: {
      calls: world.calls.filter(({ session }) => !others.has(session)),
      effects: world.effects.filter(({ session }) => !others.has(session)),
      leaks: world.leaks,
    },
    guarded: ['guarded'],
    limits: {
      desk: { stepsMax: 40, toolCallsMax: 100, tokensMax: 500_000, costMicrosMax: 2_000_000 },
    },
    verified,
    store,
    metrics: {
      ...counted,
      stepsTold: new Set(events.filter((event) => !isEndEvent(event)).map(({ id }) => id)).size,
      isComplete: isWhole && sources.areCountersJudged,
    },
    faults: sources.faults,
    isZombieExpected: sources.isZombieExpected,
    endedAt,
    boundMs: sources.boundMs,
  };
}

async function countersOf(runtimes: string): Promise<Counters> {
  const addresses = runtimes.startsWith('http')
    ? runtimes.split(',')
    : (await lookup(runtimes, { all: true, family: 4 })).map(
        ({ address }) => `http://${address}:8080`,
      );
  return Object.fromEntries(
    await Promise.all(
      addresses.map(
        async (address) =>
          [
            new URL(address).hostname,
            countsIn(await (await fetch(`${address}/metrics`)).text()),
          ] as const,
      ),
    ),
  );
}
