/** Providers that restart, are full or want fewer calls: waited for in the queue, and that costs nothing. */
import { describe, expect, test } from 'vitest';
import { memoryDoors } from '../../services/adapters/memory/doors.ts';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { memoryEffects } from '../../services/adapters/memory/queues.ts';
import { memoryRateLimits } from '../../services/adapters/memory/rate-limits.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { Later } from '../../services/core/errors.ts';
import type { ShardId } from '../../services/core/ids.ts';
import { limits } from '../../services/core/limits.ts';
import { askedWithinMs } from '../../services/core/session/model-call.ts';
import { modelSpecSchema } from '../../services/core/session/model-spec.ts';
import type { Outcome } from '../../services/core/tools/job.ts';
import { ModelDoors } from '../../services/gateway/doors.ts';
import { startGateway } from '../../services/gateway/worker.ts';
import type { ModelAnswer } from '../../services/ports/performers.ts';
import type { ModelCalls } from '../../services/ports/session-store.ts';
import { eventually } from '../support/eventually.ts';
import { bundleOf } from '../support/sessions.ts';

const answer: Outcome<ModelAnswer> = {
  ok: true,
  value: {
    content: 'done',
    calls: [],
    finish: 'stop',
    usage: { promptTokens: 9, completionTokens: 1, cachedTokens: 0 },
    model: 'm',
    latencyMs: 1,
  },
};
const refusal = (
  code: string,
  retryAfterMs?: number,
  message = `${code} said so`,
): Outcome<never> => ({
  ok: false,
  failure: {
    class: 'transient',
    code,
    message,
    hasBegun: false,
    ...(retryAfterMs ? { retryAfterMs } : {}),
  },
});

interface Told {
  readonly kind: string;
  readonly effect: string;
  readonly reply?: { readonly spent: { readonly tokens: number }; readonly model: string };
  readonly failure?: { readonly code: string; readonly message: string };
}

/** One queue, one store, and as many gateways as are wanted before one provider. */
async function world(
  complete: (name: string, call: number) => Promise<Outcome<ModelAnswer>>,
  models: readonly object[] = [{}],
  gateways = 1,
  doorOf?: () => string,
) {
  const told: Told[] = [];
  const effects = memoryEffects(systemClock);
  const mailbox = memoryMailbox(systemClock);
  const reading = await mailbox.read(0 as ShardId, 0, ({ items }) => {
    for (const item of items) if (item.ok) told.push(item.envelope.message as never);
  });
  const bundle = {
    ...bundleOf(),
    models: models.map((over, index) => ({
      ...modelSpecSchema.parse({
        model: 'x',
        backoffMs: 20,
        attempts: 2,
        price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 },
        ...over,
      }),
      name: index === 0 ? 'm' : `m${index}`,
    })),
  };
  const doors = memoryDoors(systemClock);
  const rates = memoryRateLimits(systemClock);
  const telemetry = countingTelemetry();
  let asked = 0;
  let underWay = 0;
  let most = 0;
  const claims = new Map<string, { holder: string; tries: number }>();
  const taking = await Promise.all(
    Array.from({ length: gateways }, (_, index) =>
      startGateway(`g${index}`, {
        effects,
        calls: callsOf(claims),
        mailbox,
        archive: { bundle: async () => bundle as never },
        model: {
          ...(doorOf ? { doorOf } : {}),
          complete: async ({ name }) => {
            asked += 1;
            underWay += 1;
            most = Math.max(most, underWay);
            try {
              return await complete(name, asked);
            } finally {
              underWay -= 1;
            }
          },
        },
        rates,
        doors,
        tenants: () => new Map(),
        telemetry,
        clock: systemClock,
        shards: 1,
      }),
    ),
  );
  return {
    told,
    doors,
    asked: () => asked,
    most: () => most,
    offer: (id: string, leftMs = askedWithinMs(bundle) + limits.deadlineSlackMs) =>
      effects.offer({
        kind: 'callModel',
        id,
        tenant: 'acme',
        session: 's',
        agent: 'clerk',
        revision: 'r',
        from: 0,
        to: 0,
        purpose: 'turn',
        outputTokensMax: 100,
        tokensReserved: 1_000,
        budget: { tokens: 5_000, costMicros: 5_000 },
        deadlineAt: Date.now() + leftMs,
      } as never),
    stop: async () => {
      for (const one of taking) await one.stop();
      await reading.stop();
    },
  };
}

/** Claims and notes of tries, as the store keeps them. */
function callsOf(claims: Map<string, { holder: string; tries: number }>): ModelCalls {
  return {
    claim: async ({ effect }, holder) => {
      const known = claims.get(effect);
      if (known && known.holder !== '' && known.holder !== holder) return 'held';
      const triesBefore = known?.tries ?? 0;
      claims.set(effect, { holder, tries: triesBefore + 1 });
      return { entries: [], triesBefore };
    },
    noteTry: async (_shard, effect) => {
      claims.get(effect)!.tries += 1;
      return 'noted';
    },
    letGo: async (_shard, effect, _holder, free = 1) => {
      const known = claims.get(effect)!;
      claims.set(effect, { holder: '', tries: Math.max(0, known.tries - free) });
    },
    renew: async () => ({ isOurs: true, tries: 1 }),
  };
}

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test.each(['MODEL_UNREACHABLE', 'MODEL_OVERLOADED'])(
  '%s is waited out, however many tries its Model allows, and costs nothing',
  async (code) => {
    let isThere = false;
    const w = await world(async () => (isThere ? answer : refusal(code)));
    for (let index = 0; index < 5; index += 1) await w.offer(`e${index}`);
    await eventually(() => w.asked() >= 4, 'some looks');
    expect(w.told).toEqual([]);
    isThere = true;
    await eventually(() => w.told.length === 5, 'all answers');
    expect(w.told.map(({ reply }) => reply?.spent.tokens)).toEqual([10, 10, 10, 10, 10]);
    await w.stop();
  },
);

test('a quota of so many calls in a window is obeyed by all gateways, and fails nobody', async () => {
  let windowAt = 0;
  let inWindow = 0;
  let refused = 0;
  const w = await world(
    async () => {
      const now = Date.now();
      if (now - windowAt > 300) [windowAt, inWindow] = [now, 0];
      inWindow += 1;
      if (inWindow <= 5) return answer;
      refused += 1;
      return refusal('MODEL_RATE_LIMITED', 300 - (now - windowAt));
    },
    [{}],
    2,
  );
  for (let index = 0; index < 20; index += 1) await w.offer(`e${index}`);
  await eventually(() => w.told.length === 20, 'all answers');
  expect(w.told.filter(({ kind }) => kind !== 'modelReplied')).toEqual([]);
  expect(w.told.map(({ reply }) => reply?.spent.tokens)).toEqual(Array(20).fill(10));
  expect(refused).toBeLessThan(40);
  await w.stop();
});

test('the wait ends: at the patience of its Model, with the reason of the provider', async () => {
  const w = await world(async () => refusal('MODEL_OVERLOADED'), [{ patienceMs: 150 }]);
  await w.offer('e');
  await eventually(() => w.told.length === 1, 'the end');
  expect(w.told[0]).toMatchObject({
    kind: 'modelFailed',
    failure: { code: 'MODEL_OVERLOADED', message: expect.stringContaining('said so') },
  });
  await w.stop();
});

test('of each call for itself, with the name of its own Model', async () => {
  let isAway = true;
  const w = await world(
    async () => (isAway ? refusal('MODEL_OVERLOADED') : answer),
    [{ patienceMs: 1_200 }],
  );
  await w.offer('e1');
  await eventually(() => w.told.length === 1, 'the end of the first');
  await w.offer('e2');
  setTimeout(() => {
    isAway = false;
  }, 50);
  await eventually(() => w.told.length === 2, 'the second');
  expect(w.told.map(({ kind }) => kind)).toEqual(['modelFailed', 'modelReplied']);
  await w.stop();
});

test('a door that was shut by another Model is told with the name of who asks', async () => {
  const w = await world(
    async (name) => refusal('MODEL_OVERLOADED', 0, `model ${name} answered 503: no`),
    [{ patienceMs: 100, fallback: 'm1' }, { patienceMs: 200 }],
    1,
    () => 'one door',
  );
  await w.offer('e');
  await eventually(() => w.told.length === 1, 'the end');
  expect(w.told[0]?.failure?.message).toMatch(/^model m1 answered 503: no/);
  await w.stop();
});

test('and before the deadline of its call', async () => {
  const w = await world(async () => refusal('MODEL_OVERLOADED', 2_000));
  await w.offer('e', 31_000);
  await eventually(() => w.told.length === 1, 'the end');
  expect(w.told[0]?.failure?.code).toBe('MODEL_OVERLOADED');
  expect(w.asked()).toBe(1);
  await w.stop();
});

test('a fallback is asked when the patience with the first is over, and not before', async () => {
  const w = await world(
    async (name) => (name === 'm' ? refusal('MODEL_OVERLOADED') : answer),
    [{ patienceMs: 200, fallback: 'm1' }, {}],
  );
  const from = Date.now();
  await w.offer('e');
  await eventually(() => w.told.length === 1, 'the answer');
  expect(w.told[0]?.kind).toBe('modelReplied');
  expect(Date.now() - from).toBeGreaterThan(150);
  // The door is shut for all: the next call does not ask it first.
  const before = w.asked();
  await w.offer('e2');
  await eventually(() => w.told.length === 2, 'the second answer');
  expect(w.asked()).toBeLessThanOrEqual(before + 2);
  await w.stop();
});

test('a Model with so many places has never more calls, over all gateways', async () => {
  const w = await world(
    async () => {
      await pause(20);
      return answer;
    },
    [{ concurrency: 2 }],
    2,
  );
  for (let index = 0; index < 12; index += 1) await w.offer(`e${index}`);
  await eventually(() => w.told.length === 12, 'all answers');
  expect(w.told.every(({ kind }) => kind === 'modelReplied')).toBe(true);
  expect(w.most()).toBe(2);
  await w.stop();
});

test('a Model with so many calls a minute lets the others wait, at no cost', async () => {
  const w = await world(async () => answer, [{ requestsPerMinute: 3 }]);
  for (let index = 0; index < 6; index += 1) await w.offer(`e${index}`);
  await eventually(() => w.told.length === 3, 'three answers');
  await pause(300);
  expect(w.told).toHaveLength(3);
  expect(w.asked()).toBe(3);
  await w.stop();
});

test("a call that waits for a place has used nothing of the minute, its tenant's or its Model's", async () => {
  const w = await world(
    async () => {
      await pause(400);
      return answer;
    },
    [{ concurrency: 1, requestsPerMinute: 3 }],
    2,
  );
  for (let index = 0; index < 3; index += 1) await w.offer(`e${index}`);
  await eventually(() => w.told.length === 3, 'all answers');
  expect(w.told.every(({ kind }) => kind === 'modelReplied')).toBe(true);
  await w.stop();
});

test("a tenant that has used up its minute takes nothing of its Model's", async () => {
  const spec = { ...modelSpecSchema.parse({ model: 'x', requestsPerMinute: 5 }), name: 'm' };
  const taken: string[] = [];
  const doors = new ModelDoors({
    model: { complete: async () => answer },
    rates: { take: async (name) => void taken.push(name) },
    telemetry: countingTelemetry(),
    clock: systemClock,
  });
  const asker = {
    call: 'e',
    tokens: 1,
    askedAt: 0,
    deadlineAt: Date.now() + 1e6,
    hasFallback: false,
  };
  const throttled = async () => Promise.reject(new Later('THROTTLED', 'later', 1, false));
  for (let look = 0; look < 3; look += 1)
    await expect(doors.enter(spec, asker, throttled)).rejects.toThrow('later');
  expect(taken).toEqual([]);
  // Who waits for the Model's minute is charged its own once.
  let charged = 0;
  const full = new ModelDoors({
    model: { complete: async () => answer },
    rates: { take: async () => ({ what: 'requests', waitMs: 1_000 }) },
    telemetry: countingTelemetry(),
    clock: systemClock,
  });
  for (let look = 0; look < 3; look += 1)
    await expect(
      full.enter(spec, asker, async () => {
        charged += 1;
      }),
    ).rejects.toThrow('has used its requests');
  expect(charged).toBe(1);
});

test.each([
  ['that waits for the next minute', {}, 1],
  ['that went to another Model', { patienceMs: 0, fallback: 'm1' }, 2],
])('a call %s holds no place', async (_which, more, answers) => {
  const w = await world(
    async () => answer,
    [{ concurrency: 1, requestsPerMinute: 1, ...more }, {}],
  );
  await w.offer('e1');
  await eventually(() => w.told.length === 1, 'the first answer');
  await w.offer('e2');
  await pause(200);
  expect(w.told).toHaveLength(answers);
  // A place that nobody left is free after five seconds; the one who waits looks now and then.
  const looks = [];
  for (let look = 0; look < 20; look += 1) {
    looks.push(await w.doors.enter('name-m', 1, 'another', 1));
    await pause(50);
  }
  expect(looks.filter((place) => place !== undefined).length).toBeGreaterThan(10);
  await w.stop();
});

describe('what may have been paid for', () => {
  test('is tried so often as its Model says, and told, also where it was refused in between', async () => {
    const late: Outcome<never> = {
      ok: false,
      failure: { class: 'transient', code: 'MODEL_TIMEOUT', message: 'late' },
    };
    const w = await world(async (_name, call) =>
      call === 1 ? late : call < 4 ? refusal('MODEL_OVERLOADED') : answer,
    );
    await w.offer('e');
    await eventually(() => w.told.length === 1, 'the answer');
    // The try that timed out, at its bound, and the answer.
    expect(w.told[0]).toMatchObject({ kind: 'modelReplied', reply: { spent: { tokens: 1_010 } } });
    await w.stop();
  });
});
