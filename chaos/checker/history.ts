/** What really happened, from every witness: plain data, so that a run on processes, in simulation or on a cluster is judged alike. */
import type { UnderstudyEvent } from '../../services/core/wire/cloud-event.ts';

export interface WorldCall {
  readonly tool: string;
  readonly key: string;
  readonly session: string;
  readonly tenant: string;
  readonly at: number;
}

export interface Fault {
  readonly name: string;
  readonly at: number;
  readonly healedAt: number;
  /** Somebody saw it happen: the chaos controller, or a pod that was replaced. */
  readonly isObserved: boolean;
}

export interface History {
  /** Tasks whose publish was acknowledged. */
  readonly accepted: readonly {
    readonly task: string;
    readonly tenant: string;
    readonly at: number;
  }[];
  readonly events: readonly UnderstudyEvent[];
  readonly dead: readonly { readonly task: string | undefined; readonly code: string }[];
  /** Sessions in the store that have not ended. */
  readonly live: readonly {
    readonly session: string;
    readonly tenant: string;
    readonly task: string;
    readonly status: string;
    readonly waitsFor: readonly string[];
    readonly shard: number;
    readonly shardByHash: number;
  }[];
  /** Class of each tool of the outside world. */
  readonly classes: Readonly<Record<string, string>>;
  readonly world: {
    readonly calls: readonly WorldCall[];
    readonly effects: readonly WorldCall[];
    readonly leaks: readonly string[];
  };
  /** Tools that nobody may run without an approval. */
  readonly guarded: readonly string[];
  /** Limits of the agents, and what each ended session came to. */
  readonly limits: Readonly<
    Record<
      string,
      {
        readonly stepsMax: number;
        readonly toolCallsMax: number;
        readonly tokensMax: number;
        readonly costMicrosMax: number;
      }
    >
  >;
  /** `refusal` says why a session could not be folded. */
  readonly verified: readonly {
    readonly session: string;
    readonly isEqual: boolean;
    readonly refusal?: string | undefined;
  }[];
  readonly store: {
    readonly outbox: number;
    readonly overdue: readonly string[];
    readonly orphans: readonly number[];
  };
  readonly metrics: {
    readonly stepsCommitted: number;
    /** Distinct steps of this run in EVENTS. */
    readonly stepsTold: number;
    readonly refusedZombies: number;
    /** False when a process whose counters are needed was ended, or cut off from what it counts. */
    readonly isComplete: boolean;
  };
  readonly faults: readonly Fault[];
  /** The run paused an owner or cut it off, so a zombie must have been refused. */
  readonly isZombieExpected: boolean;
  readonly endedAt: number;
  /** All work must be done so long after the last fault has healed, ms. */
  readonly boundMs: number;
}

export const kindOf = (event: UnderstudyEvent): string =>
  event.type.slice(event.type.lastIndexOf('.') + 1);

/** Events by their id: what was told twice is one. */
export function distinct(events: readonly UnderstudyEvent[]): UnderstudyEvent[] {
  const seen = new Map<string, UnderstudyEvent>();
  for (const event of events) if (!seen.has(event.id)) seen.set(event.id, event);
  return [...seen.values()];
}
