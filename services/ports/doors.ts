/** A provider that wants no calls now: why, since when, and until when nobody asks it. Times are epoch ms. */
export interface ShutDoor {
  readonly openAt: number;
  readonly since: number;
  /** How often it was shut without an answer in between. */
  readonly times: number;
  readonly code: string;
  /** What it did, without the name of the Model. */
  readonly message: string;
}

/** One of the places of a Model that takes only so many calls at once. */
export interface Place {
  readonly door: string;
  readonly index: number;
}

/**
 * The doors of providers, shared by all gateways: a door is a Model's address, name and key.
 *
 * Guarantee: what `shut` resolved for is seen by every gateway that looks, until it opens. No place is
 *            held by two; one whose holder does not stay in time is free again.
 * Errors:    Unavailable.
 */
export interface Doors {
  look(door: string): Promise<ShutDoor | undefined>;
  shut(door: string, why: ShutDoor): Promise<void>;
  open(door: string): Promise<void>;
  /** @returns undefined when all places are taken */
  enter(
    door: string,
    places: number,
    holder: string,
    durationMs: number,
  ): Promise<Place | undefined>;
  stay(place: Place, holder: string, durationMs: number): Promise<void>;
  leave(place: Place, holder: string): Promise<void>;
}
