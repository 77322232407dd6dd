/**
 * Whose sandbox this is. One session, once: a compare-and-set in one process needs no store.
 *
 * K1  The first claim wins; every other is refused, for ever. A sandbox is never handed on: its pod is deleted.
 * K2  Nothing is done without the token of the claim. It is in this process's memory and in its holder's, nowhere else.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';

export interface Claim {
  readonly token: string;
  readonly tenant: string;
  readonly session: string;
}

export class Claims {
  #claim: Claim | undefined;
  #heardAt = Date.now();

  /** @returns the token, or undefined when it is somebody's already */
  take(tenant: string, session: string): string | undefined {
    if (this.#claim) return undefined;
    this.#claim = { token: randomBytes(24).toString('base64url'), tenant, session };
    this.heard();
    return this.#claim.token;
  }

  isHolder(authorization: string | undefined): boolean {
    if (!this.#claim || authorization === undefined) return false;
    const given = Buffer.from(authorization);
    const wanted = Buffer.from(`Bearer ${this.#claim.token}`);
    return given.length === wanted.length && timingSafeEqual(given, wanted);
  }

  heard(): void {
    this.#heardAt = Date.now();
  }

  get isClaimed(): boolean {
    return this.#claim !== undefined;
  }

  /** Since its holder was heard last, ms. */
  get idleMs(): number {
    return Date.now() - this.#heardAt;
  }
}
