/**
 * Sessions of a shard whose time has come (a timer, a deadline, an expiry): told by a message to themselves, as everything else is.
 *
 * Owns     who was told lately, so that one that is slow to hear is not told each second.
 */
import type { SessionId, ShardId, TenantId } from '../core/ids.ts';
import { parseRecord } from '../core/session/migrate.ts';
import type { Mailbox } from '../ports/mailbox.ts';
import type { SessionStore } from '../ports/session-store.ts';
import type { Residents } from './residents.ts';

const dueMax = 256; // sessions told at once
const againMs = 5_000;

export interface WakesPorts {
  readonly store: Pick<SessionStore, 'due' | 'load'>;
  readonly mailbox: Pick<Mailbox, 'deliver'>;
}

export class Wakes {
  readonly #shard: ShardId;
  readonly #ports: WakesPorts;
  readonly #residents: Residents;
  readonly #told = new Map<SessionId, number>();

  constructor(shard: ShardId, ports: WakesPorts, residents: Residents) {
    this.#shard = shard;
    this.#ports = ports;
    this.#residents = residents;
  }

  /** It has made a step: should it want to be woken again, that is another time. */
  stepped(session: SessionId): void {
    this.#told.delete(session);
  }

  async tellDue(now: number): Promise<void> {
    for (const session of await this.#ports.store.due(this.#shard, now, dueMax)) {
      if (now - (this.#told.get(session) ?? 0) < againMs) continue;
      this.#told.set(session, now);
      const tenant =
        this.#residents.get(session)?.record?.tenant ?? (await this.#tenantOf(session));
      if (tenant)
        await this.#ports.mailbox.deliver(this.#shard, {
          tenant,
          session,
          message: { kind: 'wake' },
        });
    }
  }

  async #tenantOf(session: SessionId): Promise<TenantId | undefined> {
    const text = await this.#ports.store.load(this.#shard, session);
    return text === undefined ? undefined : parseRecord(text).tenant;
  }
}
