/**
 * The broker's time, in every process: what a session counts from (its mail, its deadlines, its
 * wake-ups) is stamped by the broker, and machines disagree.
 *
 * A note is published, and read again with the time at which it was stored. Its difference to the
 * middle of the moments before and after is that of the clocks, to half of the round trip.
 */
import { messageOf } from '../../core/errors.ts';
import { limits } from '../../core/limits.ts';
import type { Clock } from '../../ports/clock.ts';
import { lastMessage, type Nats } from './connection.ts';

export interface BrokerClock extends Clock {
  /** How far this machine is ahead of the broker, ms; below zero: behind. 0 until it is known. */
  aheadMs(): number;
  /** Why this process should not serve; empty when its clock is right. */
  trouble(): string;
  stop(): void;
}

const lookMs = 10_000;
const firstMs = 2_000; // a broker whose streams are not made yet holds nobody up
const noiseMs = 250; // less may be the way there and back on a busy machine

/** @param onTrouble  told why the time cannot be asked, when the cause changes */
export async function brokerClock(
  nats: Nats,
  system: Clock,
  instance: string,
  onTrouble: (cause: string) => void,
): Promise<BrokerClock> {
  let aheadMs = 0;
  let cause = '';
  let isLooking = false;
  const subject = nats.subjects.clock(instance.replaceAll(/[^\w-]/g, '_'));
  const look = async (): Promise<void> => {
    if (isLooking) return;
    isLooking = true;
    try {
      const before = system.now();
      const sequence = await nats.publisher.publish(subject, '');
      const after = system.now();
      const stored = await lastMessage(nats, nats.streams.starts, { seq: sequence });
      // Another of the same name was quicker: the next look will do.
      if (!stored) return;
      const ahead = (before + after) / 2 - stored.at;
      const unsureMs = (after - before) / 2 + noiseMs;
      if (Math.abs(ahead - aheadMs) > unsureMs) aheadMs = Math.abs(ahead) > unsureMs ? ahead : 0;
      cause = '';
    } catch (error) {
      const why = messageOf(error);
      if (why !== cause) onTrouble(why);
      cause = why;
    } finally {
      isLooking = false;
    }
  };
  await Promise.race([look(), system.sleep(firstMs)]);
  const looking = system.every(lookMs, () => void look());
  return {
    ...system,
    now: () => Math.round(system.now() - aheadMs),
    aheadMs: () => aheadMs,
    trouble() {
      if (Math.abs(aheadMs) <= limits.clockDifferenceMs) return '';
      const seconds = (Math.abs(aheadMs) / 1_000).toFixed(1);
      return `the clock of this machine is ${seconds} s ${aheadMs > 0 ? 'ahead of' : 'behind'} the broker's`;
    },
    stop: () => looking.stop(),
  };
}
