import type { ShardId } from '../core/ids.ts';

/** A shard is free again. */
export interface HandOver {
  readonly shard: ShardId;
  /** Who let it go. */
  readonly host: string;
  /** When its last owner stopped to read, epoch ms by that host's clock. */
  readonly silentSince: number;
}

/** Requests of operators and their answers, by verb. Bodies are JSON; the server parses them with zod. */
export type ControlAnswer =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly code: string; readonly message: string };

export interface Control {
  serve(
    handlers: Readonly<Record<string, (body: unknown) => Promise<ControlAnswer>>>,
  ): Promise<{ stop(): Promise<void> }>;
  /** Answer what tenants ask of their tasks: who may ask on a tenant's subject, the broker decides. */
  serveAsk(
    handle: (tenant: string, body: unknown) => Promise<ControlAnswer>,
  ): Promise<{ stop(): Promise<void> }>;
  /** @throws Unavailable when no runtime answers */
  ask(verb: string, body: unknown, waitMs: number): Promise<ControlAnswer>;
  /** Hint that a shard was released: others look at once instead of at their next heartbeat. */
  announceReleased(handOver: HandOver): void;
  /** @param listener  hears which, where the hint says so */
  onReleased(listener: (handOver: HandOver | undefined) => void): void;
}
