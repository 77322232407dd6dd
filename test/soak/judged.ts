/** What the witnesses say: nothing lost, nothing twice, nothing begun after an end, no budget overspent, every fold equal. */
import { setTimeout as sleep } from 'node:timers/promises';
import { natsEvents } from '../../services/adapters/nats/events.ts';
import { isEndEvent } from '../../services/core/wire/event-end.ts';
import type { System } from '../support/system.ts';
import type { Load } from './load.ts';
import { frugalTokensMax } from './soak-system.ts';

export interface Verdict {
  readonly accepted: number;
  readonly effects: number;
  readonly ends: Readonly<Record<string, number>>;
  readonly letters: Readonly<Record<string, number>>;
  readonly halted: number;
  readonly verified: number;
  readonly ledgers: { readonly compared: number; readonly frugalMost: number };
  /** Each promise that was broken, with what broke it. */
  readonly broken: readonly string[];
}

const drainMs = 300_000;
const verifiedMax = 300;

const countBy = (names: Iterable<string>): Record<string, number> => {
  const counts: Record<string, number> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
};

export async function judged(system: System, load: Load): Promise<Verdict> {
  const deadline = Date.now() + drainMs;
  while (load.open().length > 0 && Date.now() < deadline) await sleep(1_000);
  // What would still come twice, or begin after its end, has time to.
  await sleep(20_000);
  const letters = await natsEvents(system.nats).deadLetters(10_000);
  const ends = system.events.filter(isEndEvent);
  const { verified, unequal } = await verifiedOf(system);
  const ledgers = ledgersOf(system, load);
  return {
    accepted: load.accepted.length,
    effects: system.world.effects.length,
    ends: countBy(ends.map(({ data, type }) => data.to || type)),
    letters: countBy(letters.map(({ code }) => code)),
    halted: load.halted.size,
    verified,
    ledgers: { compared: ledgers.compared, frugalMost: ledgers.frugalMost },
    broken: [
      ...load.open().map((task) => `${task}: lost`),
      ...twice(ends.map(({ id }) => id)).map((id) => `${id}: stored twice`),
      ...twice(ends.map(({ data }) => data.task)).map((task) => `${task}: ended twice`),
      ...twice(
        system.world.effects.filter(({ tool }) => tool !== 'pure').map(({ key }) => key),
      ).map((key) => `${key}: took effect twice`),
      ...begunAfterEnd(system, load),
      ...ledgers.broken,
      ...unequal.map((session) => `${session}: its fold is not what is stored`),
    ],
  };
}

const twice = (names: readonly string[]): string[] =>
  Object.entries(countBy(names)).flatMap(([name, count]) => (count > 1 ? [name] : []));

/** Calls that reached the outside world after their session's end was heard, but for those that it names. */
function begunAfterEnd(system: System, { heard }: Load): string[] {
  return system.world.calls.flatMap(({ session, key, tool, at }) => {
    const end = heard.get(session);
    if (!end || at <= end.at || tool === 'pure') return [];
    const isNamed = end.event.data.underWay?.some(({ id }) => id === key);
    return isNamed ? [] : [`${key}: ${tool} was called ${at - end.at} ms after its session's end`];
  });
}

/** What the model has counted beside what the session says that it spent, and what it may. */
function ledgersOf(system: System, load: Load) {
  const broken: string[] = [];
  const agents = new Map(load.accepted.map(({ task, ...more }) => [task, more]));
  let compared = 0;
  let frugalMost = 0;
  for (const { data } of system.events.filter(isEndEvent)) {
    const { task, spent } = data;
    const known = agents.get(task);
    const counted = system.world.ledger.get(task);
    if (!known || !spent || counted === undefined) continue;
    if (known.agent === 'frugal') {
      frugalMost = Math.max(frugalMost, counted);
      if (counted > frugalTokensMax)
        broken.push(`${task}: the model counted ${counted} tokens of ${frugalTokensMax}`);
    }
    if (known.isKeyed) continue;
    compared += 1;
    if (counted > spent.tokens)
      broken.push(`${task}: the model counted ${counted} tokens, told are ${spent.tokens}`);
  }
  return { broken, compared, frugalMost };
}

async function verifiedOf(system: System): Promise<{ verified: number; unequal: string[] }> {
  const sessions = [...new Set(system.events.map(({ data }) => data.session))];
  const step = Math.max(1, sessions.length / verifiedMax);
  const unequal: string[] = [];
  let verified = 0;
  for (let at = 0; at < sessions.length; at += step) {
    const session = sessions[Math.floor(at)] as string;
    const verdict = await system
      .ask<{ isEqual: boolean }>('verify', { session })
      .catch((error: Error) => ({ isEqual: false, refusal: error.message }));
    verified += 1;
    if (!verdict.isEqual) unequal.push(session);
  }
  return { verified, unequal };
}
