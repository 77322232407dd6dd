/** A gateway takes as many calls as its memory has room for: prompts are counted, and the rest waits. */
import { expect, test } from 'vitest';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { memoryEffects } from '../../services/adapters/memory/queues.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import type { ShardId } from '../../services/core/ids.ts';
import type { CallModel } from '../../services/core/session/effects.ts';
import type { Bundle } from '../../services/core/session/specs.ts';
import { PromptRoom, promptBytesOf } from '../../services/gateway/room.ts';
import { startGateway } from '../../services/gateway/worker.ts';
import { eventually } from '../support/eventually.ts';

const bundle = {
  agent: { instructions: '' },
  models: [
    { name: 'm', attempts: 1, price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 } },
  ],
  tools: {},
  agents: {},
} as unknown as Bundle;
const reply = {
  model: 'm',
  content: 'yes',
  calls: [],
  finish: 'stop',
  usage: { promptTokens: 1, completionTokens: 1, cachedTokens: 0 },
  costMicros: 0,
  latencyMs: 1,
};

/** @param lengths  of the prompts, in characters. @returns the most bytes that were asked at once, and how many were asked */
async function asked(lengths: readonly number[], bytesMax: number) {
  const effects = memoryEffects(systemClock);
  const mailbox = memoryMailbox(systemClock);
  const told: string[] = [];
  const reading = await mailbox.read(0 as ShardId, 0, ({ items }) => {
    for (const item of items) told.push(item.ok ? item.envelope.message.kind : item.problem);
  });
  let [now, most, atOnce, mostAtOnce] = [0, 0, 0, 0];
  const taking = await startGateway(
    'g',
    {
      effects,
      calls: {
        claim: async ({ effect }) => {
          const length = lengths[Number(effect.split('_')[1])]!;
          return { entries: [{ role: 'user', content: 'x'.repeat(length) }], triesBefore: 0 };
        },
        noteTry: async () => 'noted',
        letGo: async () => undefined,
        renew: async () => ({ isOurs: true, tries: 1 }),
      },
      mailbox,
      archive: { bundle: async () => bundle },
      model: {
        complete: async (_spec, { entries }) => {
          const bytes = entries.reduce((sum, { content }) => sum + content.length, 0);
          [now, atOnce] = [now + bytes, atOnce + 1];
          [most, mostAtOnce] = [Math.max(most, now), Math.max(mostAtOnce, atOnce)];
          await new Promise((resolve) => setTimeout(resolve, 20));
          [now, atOnce] = [now - bytes, atOnce - 1];
          return { ok: true, value: reply };
        },
      },
      rates: { take: async () => undefined },
      tenants: () => new Map(),
      telemetry: countingTelemetry(),
      clock: systemClock,
      shards: 1,
    },
    undefined,
    bytesMax,
  );
  for (const index of lengths.keys())
    await effects.offer({
      kind: 'callModel',
      id: `s_${index}_0`,
      tenant: 'acme',
      session: 's',
      agent: 'desk',
      revision: 'r',
      deadlineAt: Date.now() + 60_000,
      purpose: 'turn',
      from: 0,
      to: 0,
      outputTokensMax: 10,
      tokensReserved: 10,
    } as unknown as CallModel);
  await eventually(() => told.length === lengths.length, 'all answers');
  await taking.stop();
  await reading.stop();
  return { told: new Set(told), most, mostAtOnce };
}

test('prompts in hand stay within the room and what was being read, and all are answered', async () => {
  const lengths = [600, 600, 5_000, 600, 100, 100, 100, 600];
  const { told, most, mostAtOnce } = await asked(lengths, 1_000);
  expect(told).toEqual(new Set(['modelReplied']));
  // Beside what is in hand no more than those that were being read, and one that is larger than all.
  expect(most).toBeLessThanOrEqual(1_000 + 32 * 5_000);
  expect(mostAtOnce).toBeLessThanOrEqual(lengths.length);
  const many = await asked(Array(200).fill(600), 6_000);
  expect(many.told).toEqual(new Set(['modelReplied']));
  expect(many.most).toBeLessThanOrEqual(6_000 + 32 * 600);
});

test('where there is room, far more than five hundred calls are in hand', async () => {
  const { mostAtOnce } = await asked(Array(1_500).fill(10), 1_000_000);
  expect(mostAtOnce).toBe(1_500);
});

test('of prompts whose size is not known yet only a few are read at once', async () => {
  const room = new PromptRoom(1_000);
  let began = 0;
  const turns = Array.from({ length: 100 }, () => room.turn().then(() => (began += 1)));
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(began).toBe(32);
  for (let n = 0; n < 32; n += 1) room.read(500);
  await new Promise((resolve) => setTimeout(resolve, 5));
  // What was read takes more than there is: nobody reads on until enough of it is gone.
  expect([began, room.isFull]).toEqual([33, true]);
  for (let n = 0; n < 31; n += 1) room.leave(500);
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect([began, room.isFull]).toEqual([64, false]);
  room.leave(500);
  for (let n = 0; n < 68; n += 1) {
    await new Promise((resolve) => setImmediate(resolve));
    room.read(0);
    room.leave(0);
  }
  await Promise.all(turns);
  expect(promptBytesOf(1024 ** 3)).toBe(Math.floor(1024 ** 3 / 12));
});
