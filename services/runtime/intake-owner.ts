/**
 * Who takes tasks in: one runtime at a time, under a lease as shards are.
 *
 * T1  Tasks of one keyed session reach its mailbox in the order in which TASKS stored them: one
 *     reader hands them on one after the other, and whoever takes over begins with the first that
 *     nobody has acknowledged.
 * T2  A key that cannot be handed on now holds back only itself.
 * T3  A task that is still stored although it lies below the ack floor is read again.
 */
import { messageOf, Unavailable } from '../core/errors.ts';
import type { HostId, ShardId } from '../core/ids.ts';
import { limits } from '../core/limits.ts';
import type { Clock } from '../ports/clock.ts';
import type { Lease, Leases } from '../ports/leases.ts';
import type { RawTask, Taking, Tasks } from '../ports/tasks.ts';
import type { Telemetry } from '../ports/telemetry.ts';

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
const sleepingMax = 1_024; // keyed tasks that wait so do not count as in hand
const againMs = 1_000; // a keyed task that cannot be handed on is tried again after this

export class IntakeOwner {
  readonly #ports: IntakeOwnerPorts;
  readonly #host: IntakeHost;
  readonly #timers: { stop(): void }[] = [];
  /** The last task of each key that is being handed on. */
  readonly #chains = new Map<string, Promise<void>>();
  #lease: Lease | undefined;
  /** Until then nobody else can have the intake, epoch ms. */
  #heldUntil = 0;
  #taking: Taking | undefined;
  #isTicking = false;
  /** Keyed tasks that cannot be handed on now. */
  #sleeping = 0;
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
    this.#taking = tasks.take(
      () => this.#host.capacity() + Math.min(this.#sleeping, sleepingMax),
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
    const key = task.headers['Understudy-Session'];
    if (key === undefined) return this.#host.accept(task);
    const name = `${task.tenant}/${task.agent}/${key}`;
    const before = this.#chains.get(name) ?? Promise.resolve();
    const mine = before.catch(() => undefined).then(() => this.#untilAccepted(task));
    this.#chains.set(name, mine);
    const forget = () => {
      if (this.#chains.get(name) === mine) this.#chains.delete(name);
    };
    mine.then(forget, forget);
    return mine;
  }

  /** If it were handed back, later tasks of its key would overtake it. */
  async #untilAccepted(task: RawTask): Promise<void> {
    for (;;) {
      if (!this.#taking) throw new Unavailable('INTAKE_LOST', 'another takes tasks in now');
      try {
        // After a pause another runtime may have the intake: look at the lease first.
        if (this.#ports.clock.now() > this.#heldUntil)
          throw new Unavailable('INTAKE_UNSURE', 'the lease of the intake is not renewed yet');
        return await this.#host.accept(task);
      } catch (error) {
        this.#ports.telemetry.log('warn', 'a keyed task waits to be handed on', {
          tenant: task.tenant,
          agent: task.agent,
          cause: messageOf(error),
        });
        this.#sleeping += 1;
        await this.#ports.clock.sleep(againMs);
        this.#sleeping -= 1;
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
