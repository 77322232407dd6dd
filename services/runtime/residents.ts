/**
 * Who is in a shard's memory, and who has ended lately.
 *
 * Owns     the shard's actors from activation to passivation.
 */
import type { SessionId } from '../core/ids.ts';
import { Recent } from '../core/recent.ts';
import type { Known } from '../core/session/record.ts';
import type { Actor } from './actor.ts';

const endedKept = 4_096;

export class Residents {
  readonly #actors = new Map<SessionId, Actor>();
  /** Sessions that ended and were archived, with what they had taken in. */
  readonly #ended = new Recent<SessionId, Known>(endedKept);

  get size(): number {
    return this.#actors.size;
  }
  get(session: SessionId): Actor | undefined {
    return this.#actors.get(session);
  }
  add(actor: Actor): void {
    this.#actors.set(actor.session, actor);
  }
  all(): Iterable<Actor> {
    return this.#actors.values();
  }
  /** @returns undefined for a session that did not end, or not lately */
  knownOfEnded(session: SessionId): Known | undefined {
    return this.#ended.get(session);
  }

  /** Put away. Its state is stored, or it has none. */
  forget(actor: Actor): void {
    this.#actors.delete(actor.session);
    if (actor.isGone) this.#ended.set(actor.session, actor.known);
  }

  clear(): void {
    this.#actors.clear();
  }
}
