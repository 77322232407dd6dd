/**
 * Any machine behaves as a session as it does as a plain actor, or is refused by name: machines by
 * number, answered and told the same in both worlds, restored from JSON before every message.
 */
import { expect, test } from 'vitest';
import { Refused } from '../../services/core/errors.ts';
import { chanceOf, machineOf, outside } from '../support/machine-maker.ts';
import { DurableWorld, PlainWorld } from '../support/machine-worlds.ts';

const machines = Number(process.env.MACHINES ?? 400);
const first = Number(process.env.FIRST ?? 1);
const heardMax = 24; // messages that a machine hears

const isNamed = (error: unknown): boolean =>
  error instanceof Refused && /^MACHINE_/.test(error.code);

/** @returns how it went: equal to the end, or refused by name */
async function compare(seed: number): Promise<'equal' | 'refused'> {
  const chance = chanceOf(seed * 7_919);
  const plain = new PlainWorld(machineOf(seed));
  let durable: DurableWorld;
  try {
    durable = new DurableWorld(machineOf(seed));
  } catch (error) {
    if (isNamed(error)) return 'refused';
    throw error;
  }
  const told: string[] = [];
  for (let count = 0; count < heardMax; count += 1) {
    if (/^MACHINE_(?:UNSUPPORTED|NOT_JSON)/.test(durable.record.reason ?? '')) return 'refused';
    const { reason = '' } = durable.record;
    const where = `machine ${seed} after ${told.join(' ') || 'its beginning'} ${reason}`;
    expect(durable.seen, where).toEqual(plain.seen);
    const { open, status } = plain.seen;
    if (status !== 'active') break;
    const kind = chance.below(4);
    if (kind === 0 && open.length > 0) {
      const id = chance.one(open);
      const value = chance.one([1, 'text', { a: [null, true] }, null]);
      told.push(`done:${id}`);
      await plain.done(id, value);
      durable.done(id, value);
    } else if (kind === 1 && open.length > 0) {
      const id = chance.one(open);
      told.push(`fail:${id}`);
      await plain.fail(id, 'boom');
      durable.fail(id, 'boom');
    } else if (kind === 2) {
      const ms = chance.one([5, 10, 25]);
      told.push(`wait:${ms}`);
      await plain.wait(ms);
      durable.wait(ms);
    } else {
      const type = chance.one(outside);
      told.push(type);
      await plain.send({ type });
      durable.send({ type });
    }
  }
  return 'equal';
}

test(`${machines} machines by number are equal in both worlds, or refused by name`, async () => {
  let refused = 0;
  for (let seed = first; seed < first + machines; seed += 1)
    if ((await compare(seed)) === 'refused') refused += 1;
  expect(refused).toBeLessThan(machines / 7);
}, 120_000);
