/**
 * The way in to a provider: shut for all calls of all gateways while it wants none, and with as many
 * places and calls a minute as its Model says.
 *
 * W1  A call that finds the door shut, or no place, costs no try and no money: it goes back to the
 *     queue, and others go on.
 * W2  What is waited for ends: at the patience of the Model, and before the deadline of the call.
 */
import { backoffMs } from '../core/backoff.ts';
import { Later } from '../core/errors.ts';
import { limits } from '../core/limits.ts';
import { type ModelSpec, patienceMsOf } from '../core/session/model-spec.ts';
import { type Failure, failed } from '../core/tools/job.ts';
import type { Clock } from '../ports/clock.ts';
import type { Doors, Place, ShutDoor } from '../ports/doors.ts';
import type { Charge, Model, RateLimits } from '../ports/performers.ts';
import type { Telemetry } from '../ports/telemetry.ts';

type Spec = ModelSpec & { readonly name: string };

export interface DoorPorts {
  /** Absent: every gateway has its own. */
  readonly doors?: Doors | undefined;
  readonly model: Model;
  readonly rates: RateLimits;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
}

/** Who asks, and until when it is worth it. */
export interface Asker {
  readonly call: string;
  readonly tokens: number;
  /** Another Model could be asked instead. */
  readonly hasFallback: boolean;
  /** Epoch ms. */
  readonly askedAt: number;
  /** Epoch ms: an answer after it is heard by nobody. */
  readonly deadlineAt: number;
}

const knownMs = 250; // what was seen of a door is believed for so long
const waitMaxMs = 5_000; // between two looks at a provider that is away, if it names no time itself
const quotaMaxMs = 20_000; // the same for one that wants fewer calls
const placeMs = 5_000; // a place whose gateway died is free after this
const paidMs = 60_000; // a minute of a tenant is charged once
const noPlaceMs = 250; // a call that found no place looks again after this, and as much by chance

export class ModelDoors {
  readonly #ports: DoorPorts;
  readonly #known = new Map<string, { shut: ShutDoor | undefined; at: number }>();
  readonly #places = new Map<string, Place>();
  /** Calls that were charged and have not gone in yet, and when, epoch ms; the oldest first. */
  readonly #paid = new Map<string, number>();

  constructor(ports: DoorPorts) {
    this.#ports = ports;
  }

  /**
   * Before a try: waits in the queue, goes in, or gives this Model up.
   *
   * @param charge  its tenant's share of the minute, before the Model's: who has used it up takes
   *                nothing of what others have
   * @returns why it is given up: its patience is over. @throws Later; Unavailable
   */
  async enter(
    spec: Spec,
    asker: Asker,
    charge?: () => Promise<void>,
  ): Promise<Failure | undefined> {
    const door = this.#doorOf(spec);
    const now = this.#ports.clock.now();
    const shut = await this.#look(door);
    if (shut && shut.openAt > now) return this.#wait(spec, asker, shut.openAt - now, shut);
    const full = await this.#hasPlace(spec, asker, door);
    if (full) return full;
    // What is charged for minutes is charged last: who waits for a place has used nothing.
    const leaving = async (error: unknown): Promise<never> => {
      await this.leave(asker);
      throw error;
    };
    if (charge && !this.#hasPaid(asker.call, now)) {
      await charge().catch(leaving);
      this.#paid.set(asker.call, now);
    }
    const isUsedUp = await this.#hasRate(spec, asker, door).catch(leaving);
    if (isUsedUp) await this.leave(asker);
    else this.#paid.delete(asker.call);
    return isUsedUp;
  }

  /** It waits for its Model's minute, and has had its tenant's: it is not charged at each look. */
  #hasPaid(call: string, now: number): boolean {
    for (const [one, at] of this.#paid) {
      if (now - at < paidMs) break;
      this.#paid.delete(one);
    }
    return this.#paid.has(call);
  }

  /** After a try, whatever came of it. */
  async leave({ call }: Pick<Asker, 'call'>): Promise<void> {
    const place = this.#places.get(call);
    if (!place) return;
    this.#places.delete(call);
    // Should nobody hear it, the place is free when its time is over.
    await this.#ports.doors?.leave(place, call).catch(() => undefined);
  }

  /** Places are kept while their calls are under way. */
  stay(): void {
    for (const [call, place] of this.#places)
      this.#ports.doors?.stay(place, call, placeMs).catch(() => undefined);
  }

  /** It answered, well or badly: it is there. */
  async answered(spec: Spec): Promise<void> {
    const door = this.#doorOf(spec);
    if (!this.#known.get(door)?.shut) return;
    this.#known.set(door, { shut: undefined, at: this.#ports.clock.now() });
    await this.#ports.doors?.open(door).catch(() => undefined);
  }

  /**
   * It wants no calls now, and took no money for saying so: nobody asks it for a while.
   *
   * @returns that it is given up: its patience is over. @throws Later
   */
  async refused(spec: Spec, asker: Asker, failure: Failure): Promise<Failure | undefined> {
    const { clock, telemetry, doors } = this.#ports;
    const door = this.#doorOf(spec);
    const now = clock.now();
    const before = await this.#look(door).catch(() => undefined);
    const isQuota = failure.code === 'MODEL_RATE_LIMITED';
    // Calls that were under way together are refused together: that is one refusal.
    const isShut = before !== undefined && before.openAt > now;
    const waitMs = isShut
      ? (failure.retryAfterMs ?? 0)
      : backoffMs({
          baseMs: spec.backoffMs,
          maxMs: isQuota ? quotaMaxMs : waitMaxMs,
          attempt: Math.min(before?.times ?? 0, 16),
          retryAfterMs: Math.max(failure.retryAfterMs ?? 0, spec.backoffMs / 2),
          chance: Math.random(),
        });
    const { code, message } = failure;
    const shut: ShutDoor = {
      openAt: Math.max(before?.openAt ?? 0, now + waitMs),
      since: before?.since ?? now,
      times: (before?.times ?? 0) + (isShut ? 0 : 1),
      code,
      message: withoutName(message, spec).slice(0, 1_000),
    };
    this.#known.set(door, { shut, at: now });
    if (!isShut)
      telemetry.log('warn', 'a model wants no calls now', {
        model: spec.name,
        code,
        reason: message.slice(0, 400),
        waitMs: Math.round(waitMs),
      });
    // Who does not hear of it is refused, too.
    await doors?.shut(door, shut).catch(() => undefined);
    return this.#wait(spec, asker, shut.openAt - now, shut);
  }

  /** @throws Later while it is worth the wait */
  #wait(spec: Spec, asker: Asker, waitMs: number, shut: ShutDoor): Failure {
    const { askedAt, deadlineAt, hasFallback } = asker;
    const now = this.#ports.clock.now();
    // Each call is as patient as its Model; where another can be asked, nobody waits for one that
    // has been away so long already.
    const since = hasFallback ? shut.since : Math.max(shut.since, askedAt);
    const patientUntil = since + patienceMsOf(spec, hasFallback);
    const until = Math.min(patientUntil, deadlineAt - limits.deadlineSlackMs);
    const { code } = shut;
    const message = `model ${spec.name} ${shut.message}`;
    // All that wait for one door must not come back at the same moment.
    const chanceMs = Math.random() * Math.min(Math.max(waitMs, 100), 2_000);
    if (now + waitMs < until) throw new Later('MODEL_LATER', message, waitMs + chanceMs, false);
    return failed('transient', code, message).failure;
  }

  async #hasRate(spec: Spec, asker: Asker, door: string): Promise<Failure | undefined> {
    const { requestsPerMinute, tokensPerMinute } = spec;
    const charges: Charge[] = [
      ...(requestsPerMinute === undefined
        ? []
        : [{ what: 'requests' as const, points: 1, perMinute: requestsPerMinute }]),
      ...(tokensPerMinute === undefined
        ? []
        : [{ what: 'tokens' as const, points: asker.tokens, perMinute: tokensPerMinute }]),
    ];
    if (charges.length === 0) return undefined;
    const refusal = await this.#ports.rates.take(`model-${door}`, charges);
    if (!refusal) return undefined;
    return this.#wait(spec, asker, Math.min(refusal.waitMs, waitMaxMs), {
      openAt: 0,
      since: asker.hasFallback ? asker.askedAt : this.#ports.clock.now(),
      times: 0,
      code: 'MODEL_RATE_LIMITED',
      message: `has used its ${refusal.what} for this minute`,
    });
  }

  async #hasPlace(spec: Spec, asker: Asker, door: string): Promise<Failure | undefined> {
    const { doors, clock } = this.#ports;
    if (spec.concurrency === undefined || !doors) return undefined;
    const place = await doors.enter(door, spec.concurrency, asker.call, placeMs);
    if (place) {
      this.#places.set(asker.call, place);
      return undefined;
    }
    return this.#wait(spec, asker, noPlaceMs, {
      openAt: 0,
      since: asker.hasFallback ? asker.askedAt : clock.now(),
      times: 0,
      code: 'MODEL_BUSY',
      message: `takes ${spec.concurrency} calls at once, and has them`,
    });
  }

  /** A Model that nobody could ask anyway has a door of its own name. */
  #doorOf(spec: Spec): string {
    return this.#ports.model.doorOf?.(spec) ?? `name-${spec.name}`;
  }

  async #look(door: string): Promise<ShutDoor | undefined> {
    const { doors, clock } = this.#ports;
    const known = this.#known.get(door);
    if (!doors || (known && clock.now() - known.at < knownMs)) return known?.shut;
    const seen = { shut: await doors.look(door), at: clock.now() };
    this.#known.set(door, seen);
    return seen.shut;
  }
}

/** Several Models may have one door: what is told of it has the name of the one that is asked. */
function withoutName(message: string, { name }: Spec): string {
  const prefix = `model ${name} `;
  return message.startsWith(prefix) ? message.slice(prefix.length) : message;
}
