/** What `doctor` is told: is everything as it should be? */
import type { ShardId } from '../core/ids.ts';
import { jsonStored } from '../core/json.ts';
import { modelPool } from '../core/pools.ts';
import type { SpecProblem } from '../core/session/specs.ts';
import type { ToolQuestion } from '../core/tools/environment-check.ts';
import { type Health, summarySchema } from '../core/wire/control-answers.ts';
import type { Clock } from '../ports/clock.ts';
import type { Effects } from '../ports/effects.ts';
import type { Events } from '../ports/events.ts';
import type { Leases } from '../ports/leases.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { SessionStore } from '../ports/session-store.ts';
import type { Tasks } from '../ports/tasks.ts';
import type { ToolChecks } from '../ports/tool-checks.ts';

export interface HealthPorts {
  readonly store: SessionStore;
  readonly mailbox: Mailbox;
  readonly events: Pick<Events, 'countDeadLetters'>;
  readonly effects: Pick<Effects, 'pools'>;
  readonly tasks: Pick<Tasks, 'state'>;
  readonly checks: Pick<ToolChecks, 'ask'>;
  readonly leases: Leases;
  readonly clock: Clock;
  readonly shards: number;
  /** Of each tool of the agents: its pool, and what it names of its executors' environment. */
  readonly questions: () => readonly ToolQuestion[];
  readonly problems: () => readonly SpecProblem[];
  readonly agents: () => readonly {
    readonly name: string;
    readonly revision: string;
    readonly tools: number;
    /** Its document is broken now: it runs as it did before. */
    readonly isLastGood: boolean;
  }[];
}

const failedMs = 3_600_000; // what failed within the last hour is told

export async function healthOf(ports: HealthPorts): Promise<Health> {
  const { leases, mailbox, store, events, effects, tasks, clock, shards } = ports;
  const questions = ports.questions();
  const all = Array.from({ length: shards }, (_, shard) => shard as ShardId);
  const [owners, bounds, positions, deadLetters, pools, waiting, recent, parked, troubles] =
    await Promise.all([
      leases.owners(shards),
      mailbox.bounds(),
      Promise.all(all.map((shard) => store.lowest(shard))),
      events.countDeadLetters(),
      effects.pools(questions.map(({ pool }) => pool)),
      tasks.state(),
      Promise.all(all.map((shard) => store.recent(shard))),
      countParked(store, all),
      ports.checks.ask(
        questions.filter(({ pool, texts }) => pool === modelPool || texts.length > 0),
      ),
    ]);
  const since = clock.now() - failedMs;
  const failed = recent.flat().filter((text) => {
    const { success, data } = summarySchema.safeParse(jsonStored(text));
    return success && data.status === 'failed' && data.changedAt > since;
  }).length;
  return {
    shards,
    owned: owners.size,
    orphans: all.filter((shard) => !owners.has(shard)),
    hosts: [...new Set(owners.values())].sort(),
    owners: Object.fromEntries(owners),
    mail: bounds,
    oldestMailNeeded: Math.min(
      ...positions.map((needed) => needed?.floor ?? Number.MAX_SAFE_INTEGER),
      bounds.last + 1,
    ),
    deadLetters,
    tasks: waiting,
    parked,
    failed,
    pools: pools.sort((left, right) => (left.pool < right.pool ? -1 : 1)),
    agents: [...ports.agents()],
    problems: [
      ...ports.problems(),
      ...troubles.map(({ kind = 'tool', tool, field, message, isNote }) => ({
        file: `${kind} ${tool}`,
        field,
        message,
        ...(isNote ? { isNote } : {}),
      })),
    ],
  };
}

/** Of a record only its status is looked at. */
async function countParked(store: SessionStore, shards: readonly ShardId[]): Promise<number> {
  let parked = 0;
  for (const shard of shards) {
    for await (const { record } of store.records(shard)) {
      // Most are not, and need no parsing.
      if (!record.includes('"parked"')) continue;
      if ((jsonStored(record) as { status?: unknown } | undefined)?.status === 'parked')
        parked += 1;
    }
  }
  return parked;
}
