/** A value as it is stored, and which write it is of. */
export interface Stored {
  readonly value: unknown;
  readonly version: number;
}

/**
 * What people signed in for, kept for all executors of one pool. Values are JSON; who keeps them
 * sees ciphertext.
 *
 * Guarantee: of two writes over the same version one counts.
 * Errors:    Unavailable; Refused (CREDENTIAL_KEY_MISSING) where executors have no key to keep it with.
 */
export interface Credentials {
  /** @returns undefined where there is none, or none that this key opens */
  read(key: string): Promise<Stored | undefined>;
  /**
   * @param version  of what it replaces; 0 for nothing
   * @returns whether it counts
   */
  write(key: string, value: unknown, version: number): Promise<boolean>;
}

/** Ciphertexts by key. */
export interface SealedStore {
  read(key: string): Promise<{ readonly bytes: Uint8Array; readonly version: number } | undefined>;
  write(key: string, bytes: Uint8Array, version: number): Promise<boolean>;
}
