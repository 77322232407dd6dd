import type { SeenCode } from '../core/session/seen.ts';

/** What there is to say, in our own words. One adapter turns it into metrics and log lines. No prompt, no tool output, no secret. */
export type Fields = Readonly<Record<string, string | number | boolean | undefined>>;

export interface Telemetry {
  received(count: number): void;
  stepped(seconds: number, kind: string): void;
  committed(sessions: number, steps: number, seconds: number): void;
  released(kind: string, count: number): void;
  performed(kind: 'model' | 'tool', what: string, outcome: string, seconds: number): void;
  ended(outcome: string): void;
  accepted(): void;
  refused(door: string, code: string, fields: Fields): void;
  deadLettered(code: string, fields: Fields): void;
  fenced(fields: Fields): void;
  tookOver(shard: number, seconds: number, fields: Fields): void;
  /** A shard works again, so long after its last owner let it go. */
  handedOver(seconds: number): void;
  gaveUp(shard: number, why: string): void;
  seen(why: SeenCode): void;
  spent(model: string, promptTokens: number, completionTokens: number, costMicros: number): void;
  limited(limit: string): void;
  startRefused(toolClass: string): void;
  /** An effect was not begun: nobody waits for it any more, for this reason. */
  dropped(reason: 'deadline' | 'cancelled' | 'done'): void;
  /** A sandbox was claimed after so long. */
  claimed(seconds: number): void;
  /** So many effects wait for their tenant to have room in a pool's queue. */
  effectsWaiting(pool: string, count: number): void;
  gauge(
    name:
      | 'actors'
      | 'shards'
      | 'outbox'
      | 'backlog'
      | 'inFlight'
      | 'clockAhead'
      | 'sandboxesFree'
      | 'sandboxesClaimed',
    value: number,
  ): void;
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string, fields?: Fields): void;
}
