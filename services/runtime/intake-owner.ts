/**
 * Who takes tasks in: one runtime at a time, under a lease as shards are.
 *
 * T1  Tasks of one keyed session reach its mailbox in the order in which TASKS stored them: one
 *     reader hands them on one after the other, and whoever takes over begins with the first that
 *     nobody has acknowledged.
 *     So do events for one session.
 * T2  A key that cannot be handed on now holds back only itself: what waits for it does not count as
 *     in hand, and beyond a bound it is handed back to the broker, which offers it again in time.
 * T3  A task that is still stored although it lies below the ack floor is read again.
 */
import { Later, messageOf, Unavailable } from '../core/errors.ts';
import type { HostId, ShardId } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import type { Clock } from '../ports/clock.ts';
import type { Lease, Leases } from '../ports/leases.ts';
import type { RawTask, Taking, Tasks } from '../ports/tasks.ts';
import type { Telemetry } from '../ports/telemetry.ts';
import { KeyOrder } from './key-order.ts';

/** Its lease lies beside those of the shards; none has this number. */
const intakeLease = -1 as ShardId;

export interface IntakeOwnerPorts {
  readonly tasks: Tasks;
  readonly leases: Leases;
  readonly telemetry: Telemetry;
  readonly clock: Clock;
}

export interface IntakeHost {
  readonly host: HostId;
  readonly boot: string;
  readonly leaseMs: number;
  /** Tasks that may be in hand now. */
  capacity(): number;
  /** Cut off from the broker: another takes tasks in. */
  isCutOff(): boolean;
  accept(task: RawTask): Promise<void>;
}

const lookMs = 2_000; // how often TASKS is looked at for what was missed
const againMs = 1_000; // a keyed task that cannot be handed on is tried again after this
// Keyed tasks that wait here for those before them; more are handed back to the broker. A task has
// up to a mebibyte.
const waitingOfKeyMax = 16;
const waitingOfTenantMax = 128;
const waitingMax = 512;
const offersPerMs = 2; // how often the broker may offer again what was handed back, all keys together
const offeredWithinMs = 60_000;
const goneAfterMs = 120_000; // what does not come again for so long is not stored any more

/** Tasks of one key stand in one line, and so do events for one session. */
function lineOf({ tenant, agent, session, headers }: RawTask): string | undefined {
  if (session !== undefined) return `${tenant}//${session}`;
  const key = headers['Understudy-Session'];
  return key === undefined ? undefined : `${tenant}/${agent}/${key}`;
}

export class IntakeOwner {
  readonly #ports: IntakeOwnerPorts;
  readonly #host: IntakeHost;
  readonly #timers: { stop(): void }[] = [];
  /** Keys with tasks that are being handed on, or were handed back. */
  readonly #keys = new Map<string, KeyOrder>();
  /** Keyed tasks that wait here, all and by tenant. */
  #waitingCount = 0;
  readonly #waitingOf = new Map<string, number>();
  #handedBackCount = 0;
  #lease: Lease | undefined;
  /** Until then nobody else can have the intake, epoch ms. */
  #heldUntil = 0;
  #taking: Taking | undefined;
  #isTicking = false;
  #isLooking = false;
  #isDraining = false;

  constructor(ports: IntakeOwnerPorts, host: IntakeHost) {
    this.#ports = ports;
    this.#host = host;
  }

  async start(): Promise<void> {
    const { clock } = this.#ports;
    await this.#tick();
    if (this.#isDraining) return;
    this.#timers.push(
      clock.every(limits.heartbeatMs, () => void this.#tick()),
      clock.every(lookMs, () => void this.#look()),
    );
  }

  async drain(): Promise<void> {
    this.#isDraining = true;
    for (const timer of this.#timers) timer.stop();
    await this.#giveUp();
  }

  async #tick(): Promise<void> {
    if (this.#isTicking || this.#isDraining) return;
    this.#isTicking = true;
    try {
      if (this.#host.isCutOff()) await this.#giveUp();
      else if (this.#lease) await this.#renew(this.#lease);
      else await this.#acquire();
    } catch (error) {
      // The store is away: whoever takes the intake meanwhile reads again what we have not
      // acknowledged.
      if (!(error instanceof Unavailable)) throw error;
      const cause = messageOf(error);
      this.#ports.telemetry.log('debug', 'the intake cannot be renewed', { cause });
    } finally {
      this.#isTicking = false;
    }
  }

  async #acquire(): Promise<void> {
    const { host, boot, leaseMs } = this.#host;
    const asked = this.#ports.clock.now();
    const lease = await this.#ports.leases.acquire(intakeLease, host, `${boot}-intake`, leaseMs);
    if (!lease) return;
    if (this.#isDraining) {
      await this.#ports.leases.release(lease).catch(() => undefined);
      return;
    }
    this.#lease = lease;
    this.#heldUntil = asked + leaseMs;
    this.#beginTaking();
  }

  async #renew(lease: Lease): Promise<void> {
    const { host, leaseMs } = this.#host;
    const asked = this.#ports.clock.now();
    if ((await this.#ports.leases.renew(lease, leaseMs)).isOurs) {
      this.#heldUntil = asked + leaseMs;
      return;
    }
    this.#ports.telemetry.log('warn', 'the intake was lost to another', { host });
    if (this.#lease === lease) this.#lease = undefined;
    await this.#stopTaking();
  }

  #beginTaking(): void {
    const { tasks, telemetry } = this.#ports;
    // A new reader is offered all that is not accepted, in order: what is known of keys is stale.
    this.#keys.clear();
    this.#handedBackCount = 0;
    this.#taking = tasks.take(
      () => this.#host.capacity() + this.#waitingCount,
      (task) => this.#inOrder(task),
    );
    telemetry.log('info', 'takes tasks in', { host: this.#host.host });
  }

  async #giveUp(): Promise<void> {
    const lease = this.#lease;
    this.#lease = undefined;
    await this.#stopTaking();
    // Should nobody hear it, the lease expires by itself.
    if (lease) await this.#ports.leases.release(lease).catch(() => undefined);
  }

  async #stopTaking(): Promise<void> {
    const taking = this.#taking;
    this.#taking = undefined;
    await taking?.drain();
  }

  /** Tasks of one key one after the other; all others at once (T1, T2). */
  #inOrder(task: RawTask): Promise<void> {
    const name = lineOf(task);
    if (name === undefined) return this.#host.accept(task);
    const order = this.#keys.get(name) ?? new KeyOrder();
    this.#keys.set(name, order);
    const forget = () => {
      if (order.isEmpty && this.#keys.get(name) === order) this.#keys.delete(name);
    };
    const mine = this.#admit(task, order);
    mine.then(forget, forget);
    return mine;
  }

  async #admit(task: RawTask, order: KeyOrder): Promise<void> {
    const mustWait = order.length > 0;
    const isNext = this.#isNext(task, order);
    if (!isNext || (mustWait && !this.#hasRoom(task, order.length)))
      throw this.#handedBack(task, order);
    this.#counted(order, () => order.readmit(task.sequence));
    order.length += 1;
    const before = order.tail;
    const mine = (async () => {
      if (mustWait) await this.#waiting(task, () => before.catch(() => undefined));
      await this.#untilAccepted(task, order);
    })();
    order.tail = mine;
    try {
      await mine;
      // Another copy of it may have been handed back meanwhile: it does not come again.
      this.#counted(order, () => order.readmit(task.sequence));
    } finally {
      order.length -= 1;
    }
  }

  #isNext({ sequence }: RawTask, order: KeyOrder): boolean {
    const now = this.#ports.clock.now();
    this.#counted(order, () => order.forgetGone(now, goneAfterMs));
    return order.isNext(sequence);
  }

  #counted<Value>(order: KeyOrder, change: () => Value): Value {
    const before = order.handedBack;
    const value = change();
    this.#handedBackCount += order.handedBack - before;
    return value;
  }

  /** @param ofKey  tasks of its key that go in already */
  #hasRoom({ tenant }: RawTask, ofKey: number): boolean {
    return (
      ofKey < waitingOfKeyMax &&
      (this.#waitingOf.get(tenant) ?? 0) < waitingOfTenantMax &&
      this.#waitingCount < waitingMax
    );
  }

  /** It keeps its place in the order of its key, and comes again. */
  #handedBack(task: RawTask, order: KeyOrder): Later {
    const now = this.#ports.clock.now();
    this.#counted(order, () => order.handBack(task.sequence, now));
    const message = 'tasks of its key that came before it are not handed on yet';
    const afterMs = againMs + Math.ceil(this.#handedBackCount / offersPerMs);
    return new Later('KEY_WAITS', message, Math.min(afterMs, offeredWithinMs), false);
  }

  /** While it waits it does not count as in hand: others go past it. */
  async #waiting<Value>({ tenant }: RawTask, wait: () => Promise<Value>): Promise<Value> {
    const count = (by: number) => {
      this.#waitingCount += by;
      const ofTenant = (this.#waitingOf.get(tenant) ?? 0) + by;
      if (ofTenant > 0) this.#waitingOf.set(tenant, ofTenant);
      else this.#waitingOf.delete(tenant);
    };
    count(1);
    try {
      return await wait();
    } finally {
      count(-1);
    }
  }

  /** Others of its key do not overtake it: it stays where it is, or keeps its place in their order. */
  async #untilAccepted(task: RawTask, order: KeyOrder): Promise<void> {
    const { clock, telemetry } = this.#ports;
    for (;;) {
      if (!this.#taking) throw new Unavailable('INTAKE_LOST', 'another takes tasks in now');
      // One before it was handed back.
      if (!this.#isNext(task, order)) throw this.#handedBack(task, order);
      try {
        // After a pause another runtime may have the intake: look at the lease first.
        if (clock.now() > this.#heldUntil)
          throw new Unavailable('INTAKE_UNSURE', 'the lease of the intake is not renewed yet');
        return await this.#host.accept(task);
      } catch (error) {
        telemetry.log('warn', 'a keyed task waits to be handed on', {
          tenant: task.tenant,
          agent: task.agent,
          cause: messageOf(error),
        });
        if (!this.#hasRoom(task, 0)) throw this.#handedBack(task, order);
        await this.#waiting(task, () => clock.sleep(againMs));
      }
    }
  }

  /** A broker that lost its end may hold a task that it takes for acknowledged (T3). */
  async #look(): Promise<void> {
    if (this.#isLooking || !this.#taking || this.#isDraining) return;
    this.#isLooking = true;
    const { tasks, telemetry } = this.#ports;
    try {
      const { stuck } = await tasks.state();
      if (!stuck || !this.#lease) return;
      telemetry.log('error', 'tasks stand behind what was acknowledged; they are read again', {});
      const lease = this.#lease;
      await this.#stopTaking();
      // Its tasks in hand took a while: the intake may be another's now.
      if (this.#lease === lease && !this.#isDraining) this.#beginTaking();
    } catch (error) {
      if (!(error instanceof Unavailable)) throw error;
    } finally {
      this.#isLooking = false;
    }
  }
}
