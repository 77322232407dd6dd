/** What a gateway does with an answer when the log is away, over the in-memory adapters and a scripted model. */
import { describe, expect, test } from 'vitest';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { memoryEffects } from '../../services/adapters/memory/queues.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { Refused, Unavailable } from '../../services/core/errors.ts';
import type { ShardId } from '../../services/core/ids.ts';
import { limits } from '../../services/core/limits.ts';
import type { CallModel } from '../../services/core/session/effects.ts';
import type { Message } from '../../services/core/session/messages.ts';
import type { Bundle } from '../../services/core/session/specs.ts';
import { failed, type Outcome } from '../../services/core/tools/job.ts';
import { type GatewayPorts, startGateway } from '../../services/gateway/worker.ts';
import type { ModelCalls } from '../../services/ports/session-store.ts';
import { eventually } from '../support/eventually.ts';

const call = {
  kind: 'callModel',
  id: 's_1_0',
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
} as unknown as CallModel;
const model = {
  name: 'm',
  attempts: 1,
  price: { inputMicrosPerMillion: 1, outputMicrosPerMillion: 1 },
};
const bundle = {
  agent: { instructions: '' },
  models: [model],
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

/** A store in which nobody else claims anything. */
const callsOf = (): ModelCalls => ({
  claim: async () => ({ entries: [], triesBefore: 0 }),
  noteTry: async () => 'noted',
  letGo: async () => undefined,
  renew: async () => ({ isOurs: true, tries: 1 }),
});

test('an answer that the log cannot take is told later, and the model is not asked, and paid, again', async () => {
  const effects = memoryEffects(systemClock);
  const mailbox = memoryMailbox(systemClock);
  const told: string[] = [];
  const reading = await mailbox.read(0 as ShardId, 0, ({ items }) => {
    for (const item of items) told.push(item.ok ? item.envelope.message.kind : item.problem);
  });
  let away = 2;
  let asked = 0;
  const taking = await startGateway('g', {
    effects,
    calls: callsOf(),
    mailbox: {
      ...mailbox,
      deliver: (shard, envelope) =>
        away-- > 0
          ? Promise.reject(new Unavailable('NATS_UNAVAILABLE', 'away'))
          : mailbox.deliver(shard, envelope),
    },
    archive: { bundle: async () => bundle },
    model: {
      complete: async () => {
        asked += 1;
        return { ok: true, value: reply };
      },
    },
    rates: { take: async () => undefined },
    tenants: () => new Map(),
    telemetry: countingTelemetry(),
    clock: systemClock,
    shards: 1,
  });
  await effects.offer(call);
  await eventually(() => told.length > 0, 'the answer');
  await taking.stop();
  await reading.stop();
  expect(told).toEqual(['modelReplied']);
  expect(asked).toBe(1);
});

test('a claim is renewed for as long as its call takes, and not a moment longer', async () => {
  const effects = memoryEffects(systemClock);
  const renewed: unknown[][] = [];
  const beats: (() => void)[] = [];
  let isStopped = false;
  let answer: () => void = () => undefined;
  const taking = await startGateway('g', {
    effects,
    calls: {
      ...callsOf(),
      renew: async (...claim) => {
        renewed.push(claim);
        return { isOurs: true, tries: 1 };
      },
    },
    mailbox: memoryMailbox(systemClock),
    archive: { bundle: async () => bundle },
    model: {
      complete: () =>
        new Promise((resolve) => {
          answer = () => resolve({ ok: true, value: reply });
        }),
    },
    rates: { take: async () => undefined },
    tenants: () => new Map(),
    telemetry: countingTelemetry(),
    clock: {
      ...systemClock,
      every(ms, tick) {
        expect(ms).toBe(limits.effectHeartbeatMs);
        beats.push(tick);
        return {
          stop() {
            isStopped = true;
          },
        };
      },
    },
    shards: 1,
  });
  const beat = () => beats[0]!();
  beat();
  expect(renewed).toEqual([]);

  await effects.offer(call);
  await eventually(() => taking.inFlight() === 1);
  await eventually(() => {
    beat();
    return renewed.length > 0;
  });
  expect(renewed[0]).toEqual([0, 's_1_0', 'g', limits.effectAckWaitMs, 1]);

  answer();
  await eventually(() => taking.inFlight() === 0);
  renewed.length = 0;
  beat();
  expect(renewed).toEqual([]);
  await taking.stop();
  expect(isStopped).toBe(true);
});

test('an answer is told with how many more are on the way: calls that are being made, and none that waits before its next try', async () => {
  const effects = memoryEffects(systemClock);
  const mailbox = memoryMailbox(systemClock);
  const told: (number | undefined)[] = [];
  const answers = new Map<string, (outcome: Outcome<typeof reply>) => void>();
  const asked: string[] = [];
  const twoTries = { ...model, attempts: 2, backoffMs: 60_000 };
  const taking = await startGateway('g', {
    effects,
    calls: callsOf(),
    mailbox: {
      ...mailbox,
      deliver: (shard, envelope, company) => {
        told.push(company);
        return mailbox.deliver(shard, envelope);
      },
    },
    archive: { bundle: async () => ({ ...bundle, models: [twoTries] }) as Bundle },
    model: {
      complete: (_spec, { traceparent = '' }) =>
        new Promise((resolve) => {
          asked.push(traceparent);
          answers.set(traceparent, resolve);
        }),
    },
    rates: { take: async () => undefined },
    tenants: () => new Map(),
    telemetry: countingTelemetry(),
    clock: systemClock,
    shards: 1,
  });
  for (const name of ['first', 'second', 'failing', 'last'])
    await effects.offer({ ...call, id: name, traceparent: name } as unknown as CallModel);
  await eventually(() => asked.length === 4);

  answers.get('failing')!(failed('transient', 'MODEL_OVERLOADED', 'busy'));
  await new Promise(setImmediate);
  answers.get('first')!({ ok: true, value: reply });
  await eventually(() => told.length === 1);
  answers.get('second')!({ ok: true, value: reply });
  await eventually(() => told.length === 2);
  answers.get('last')!({ ok: true, value: reply });
  await eventually(() => told.length === 3);
  await taking.stop();

  expect(told).toEqual([2, 1, 0]);
});

/** What the session of one call is told. */
async function toldOf(ports: Partial<GatewayPorts>): Promise<Message> {
  const effects = memoryEffects(systemClock);
  const mailbox = memoryMailbox(systemClock);
  const told: Message[] = [];
  const reading = await mailbox.read(0 as ShardId, 0, ({ items }) => {
    for (const item of items) if (item.ok) told.push(item.envelope.message);
  });
  const taking = await startGateway('g', {
    effects,
    calls: callsOf(),
    mailbox,
    archive: { bundle: async () => bundle },
    model: { complete: async () => ({ ok: true, value: reply }) },
    rates: { take: async () => undefined },
    tenants: () => new Map(),
    telemetry: countingTelemetry(),
    clock: systemClock,
    shards: 1,
    ...ports,
  });
  await effects.offer(call);
  await eventually(() => told.length > 0, 'the answer');
  await taking.stop();
  await reading.stop();
  return told[0]!;
}

test('what another replica may be able to do is left to it', async () => {
  let tries = 0;
  const told = await toldOf({
    archive: {
      bundle: async () => {
        tries += 1;
        if (tries < 3) throw new Refused('BUNDLE_UNREADABLE', 'of the next version');
        return bundle;
      },
    },
  });
  expect([told.kind, tries]).toEqual(['modelReplied', 3]);
});

test('an answer that no message can hold is told as cut off, with what it cost', async () => {
  const usage = { promptTokens: 7, completionTokens: 600_000, cachedTokens: 0 };
  const told = await toldOf({
    model: {
      complete: async () => ({
        ok: true,
        value: { ...reply, usage, content: 'x'.repeat(limits.replyBytesMax + 1) },
      }),
    },
  });
  expect(told).toMatchObject({
    kind: 'modelReplied',
    reply: { content: 'x'.repeat(1_000), calls: [], finish: 'length', usage },
  });
});

test.each([
  ['answered meanwhile', 'settled', []],
  ['in other hands', 'held', []],
  ['its own still', 'noted', ['modelReplied']],
] as const)(
  'a further try is made only of a call that is its own still: %s',
  async (_what, noted, kinds) => {
    let asked = 0;
    const twice = { ...bundle, models: [{ ...model, attempts: 2, backoffMs: 1 }] } as never;
    const effects = memoryEffects(systemClock);
    const mailbox = memoryMailbox(systemClock);
    const told: string[] = [];
    const reading = await mailbox.read(0 as ShardId, 0, ({ items }) => {
      for (const item of items) if (item.ok) told.push(item.envelope.message.kind);
    });
    let isFirst = true;
    let isOver = false;
    const taking = await startGateway('g', {
      effects,
      calls: {
        ...callsOf(),
        // Whoever is offered it next finds it settled.
        claim: async () => {
          isOver ||= !isFirst;
          const claim = isFirst ? { entries: [], triesBefore: 0 } : 'settled';
          isFirst = false;
          return claim;
        },
        noteTry: async () => {
          isOver ||= noted !== 'held';
          return noted;
        },
      },
      mailbox,
      archive: { bundle: async () => twice },
      model: {
        complete: async () => {
          asked += 1;
          return asked === 1
            ? failed('transient', 'MODEL_TIMEOUT', 'late')
            : { ok: true, value: reply };
        },
      },
      rates: { take: async () => undefined },
      tenants: () => new Map(),
      telemetry: countingTelemetry(),
      clock: systemClock,
      shards: 1,
    });
    await effects.offer(call);
    await eventually(() => isOver && told.length === kinds.length, 'the end of it');
    await taking.drain();
    await taking.stop();
    await reading.stop();
    expect(told).toEqual(kinds);
    expect(asked).toBe(noted === 'noted' ? 2 : 1);
  },
);

test('an adapter that fails counts as asked, and is paid for', async () => {
  const told = await toldOf({
    archive: { bundle: async () => ({ ...bundle, behaviour: 3 }) },
    model: { complete: () => Promise.reject(new TypeError('x is undefined')) },
  });
  expect(told).toMatchObject({
    kind: 'modelFailed',
    failure: { code: 'GATEWAY_DEFECT' },
    attempts: 1,
    spent: { tokens: call.tokensReserved },
  });
});

test.each([
  [1, 'refusal', { content: '', finish: 'stop' }],
  [2, 'refusal', { content: '', finish: 'stop' }],
  [3, 'refusal', { content: 'I will not.', finish: 'refusal' }],
  [2, 'content_filter', { content: 'I will not.', finish: 'length' }],
  [3, 'content_filter', { content: 'I will not.', finish: 'content_filter' }],
])('a session of behaviour %i hears of a %s as it can', async (behaviour, finish, heard) => {
  const told = await toldOf({
    archive: { bundle: async () => ({ ...bundle, behaviour }) },
    model: {
      complete: async () => ({ ok: true, value: { ...reply, content: 'I will not.', finish } }),
    },
  });
  expect(told).toMatchObject({ kind: 'modelReplied', reply: heard });
});

test.each([
  [
    'what is refused',
    new Refused('CONVERSATION_POISONED', 'entry 3 does not parse'),
    'CONVERSATION_POISONED',
  ],
  ['a mistake of ours', new TypeError('x is undefined'), 'GATEWAY_DEFECT'],
])('%s ends the call with its reason, and is not tried for ever', async (_what, error, code) => {
  const told = await toldOf({
    calls: { ...callsOf(), claim: () => Promise.reject(error) },
  });
  expect(told).toMatchObject({ kind: 'modelFailed', failure: { class: 'permanent', code } });
});

test('a call that was not made is let go of: whoever is offered it next makes it as a first one', async () => {
  const effects = memoryEffects(systemClock);
  const letGo: string[] = [];
  let isThrottled = true;
  let asked = 0;
  const taking = await startGateway('g', {
    effects,
    calls: {
      ...callsOf(),
      letGo: async (_shard, effect, holder) => void letGo.push(`${effect} ${holder}`),
    },
    mailbox: memoryMailbox(systemClock),
    archive: { bundle: async () => bundle },
    model: {
      complete: async () => {
        asked += 1;
        return { ok: true, value: reply };
      },
    },
    rates: {
      take: async () => (isThrottled ? { what: 'requests', waitMs: 10 } : undefined) as never,
    },
    tenants: () => new Map([['acme', { requestsPerMinute: 1 }]]) as never,
    telemetry: countingTelemetry(),
    clock: systemClock,
    shards: 1,
  });
  await effects.offer({ ...call, tenant: 'acme' as never });
  await eventually(() => letGo.length > 0, 'the claim to be let go of');
  expect(asked).toBe(0);
  // Also where another had begun it: what is taken back is our own note.
  const before = letGo.length;
  await effects.offer({
    ...call,
    id: 's_1_1' as never,
    tenant: 'acme' as never,
    begun: true,
  } as never);
  await eventually(() => letGo.length > before, 'that claim to be let go of');
  isThrottled = false;
  await eventually(() => asked > 0, 'the call to be made');
  await taking.stop();
});

describe('the spending of a call whose claim was lost', () => {
  /** The model answers when it is told to; the answer, as its session hears it. */
  async function answeredWhile(
    calls: Partial<ModelCalls>,
    stoodStillMs = 0,
    { renewsFirst = false } = {},
  ) {
    let now = 1_000_000;
    const beats: (() => void)[] = [];
    let asked = false;
    let answer: () => void = () => undefined;
    const effects = memoryEffects(systemClock);
    const mailbox = memoryMailbox(systemClock);
    const told: { reply?: { spent?: unknown } }[] = [];
    const reading = await mailbox.read(0 as ShardId, 0, ({ items }) => {
      for (const item of items) if (item.ok) told.push(item.envelope.message as never);
    });
    const taking = await startGateway('g', {
      effects,
      calls: { ...callsOf(), ...calls },
      mailbox,
      archive: {
        bundle: async () => {
          if (renewsFirst) for (const beat of beats) beat();
          await new Promise((resolve) => setTimeout(resolve, 10));
          return bundle;
        },
      },
      model: {
        complete: () =>
          new Promise((resolve) => {
            asked = true;
            answer = () => resolve({ ok: true, value: reply });
          }),
      },
      rates: { take: async () => undefined },
      tenants: () => new Map(),
      telemetry: countingTelemetry(),
      clock: {
        ...systemClock,
        now: () => now,
        every: (_ms, tick) => {
          beats.push(tick);
          return { stop: () => undefined };
        },
      },
      shards: 1,
    });
    const effect = { ...call, tokensReserved: 1_000, outputTokensMax: 100 };
    await effects.offer(effect as never);
    await eventually(() => asked, 'the model to be asked');
    now += stoodStillMs;
    if (stoodStillMs === 0) for (const beat of beats) beat();
    await new Promise((resolve) => setTimeout(resolve, 10));
    answer();
    await eventually(() => told.length > 0, 'the answer');
    await taking.stop();
    await reading.stop();
    return told[0]?.reply?.spent;
  }
  // Of the two answers only the first is heard: it carries what the other call may come to.
  const both = { tokens: 2 + 1_000 };
  const one = { tokens: 2 };

  test('includes a try of the gateway that refused its renewal', async () => {
    const renew = async () => ({ isOurs: false, tries: 2 });
    expect(await answeredWhile({ renew })).toMatchObject(both);
  });
  test('includes a try that was made while its gateway stood still', async () => {
    const renew = async () => ({ isOurs: false, tries: 2 });
    expect(await answeredWhile({ renew }, 20_000)).toMatchObject(both);
  });
  test('includes noted tries when the claim is free again', async () => {
    const renew = async () => ({ isOurs: true, tries: 2 });
    expect(await answeredWhile({ renew }, 20_000)).toMatchObject(both);
  });
  test('includes one try when the store is away', async () => {
    const renew = () => Promise.reject(new Unavailable('REDIS_UNAVAILABLE', 'away'));
    expect(await answeredWhile({ renew }, 20_000)).toMatchObject(both);
  });
  test('is its own when nobody else claimed it', async () => {
    expect(await answeredWhile({}, 20_000)).toMatchObject(one);
    expect(await answeredWhile({})).toMatchObject(one);
  });
  test('includes three tries that were noted before its claim', async () => {
    const claim = async () => ({ entries: [], triesBefore: 3 });
    expect(await answeredWhile({ claim })).toMatchObject({ tokens: 2 + 3_000 });
  });

  test('includes that of another, also where it was lost while its bundle was read', async () => {
    let renewals = 0;
    const renew = async () => {
      renewals += 1;
      return renewals === 1 ? { isOurs: false, tries: 2 } : { isOurs: true, tries: 2 };
    };
    expect(await answeredWhile({ renew }, 20_000, { renewsFirst: true })).toMatchObject(both);
  });
});
