/** The spending of a model call: what is not known to be free has been paid, and never more than there is. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { costMicrosOf } from '../../services/core/budget/budget.ts';
import type { CallModel } from '../../services/core/session/effects.ts';
import type { Paid } from '../../services/core/session/messages.ts';
import { isEnded } from '../../services/core/session/record.ts';
import { failed, type Outcome } from '../../services/core/tools/job.ts';
import { askAll, CallSpending } from '../../services/gateway/asking.ts';
import { ModelDoors } from '../../services/gateway/doors.ts';
import { Watched } from '../../services/gateway/watched.ts';
import type { Clock } from '../../services/ports/clock.ts';
import type { Model, ModelAnswer } from '../../services/ports/performers.ts';
import {
  bundleOf,
  call,
  definitionOf,
  replied,
  returned,
  Talk,
  task,
} from '../support/sessions.ts';

const clock = { ...systemClock, sleep: async () => undefined };
const { models } = bundleOf();
const [model] = models;
const effectOf = (more: Partial<CallModel> = {}): CallModel =>
  ({
    kind: 'callModel',
    id: 'e1',
    outputTokensMax: 100,
    tokensReserved: 1_100,
    agent: 'clerk',
    ...more,
  }) as unknown as CallModel;

/** How a provider behaves, and what it bills for a try. */
type Way =
  | 'answers'
  | 'no usage'
  | 'odd usage'
  | 'times out'
  | 'breaks'
  | '503'
  | '429'
  | '500'
  | 'away';
const answer = (
  usage: ModelAnswer['usage'],
  calls: ModelAnswer['calls'] = [],
): Outcome<ModelAnswer> => ({
  ok: true,
  value: { content: 'done', calls, finish: 'stop', usage, model: 'm', latencyMs: 1 },
});
const free = (code: string): Outcome<never> => ({
  ok: false,
  failure: { class: 'transient', code, message: code, hasBegun: false },
});
const ways: readonly Way[] = [
  'answers',
  'no usage',
  'odd usage',
  'times out',
  'breaks',
  '503',
  '429',
  '500',
  'away',
];
const usage = { promptTokens: 900, completionTokens: 60, cachedTokens: 0 };

class Provider {
  ledger: Paid = { tokens: 0, costMicros: 0 };
  readonly #ways: Way[];
  calls: ModelAnswer['calls'] = [];
  constructor(script: readonly Way[]) {
    this.#ways = [...script];
  }
  #bill(tokens = usage.promptTokens + usage.completionTokens): void {
    const completionTokens = Math.min(tokens, 60);
    const prompt = { promptTokens: tokens - completionTokens, completionTokens, cachedTokens: 0 };
    this.ledger = {
      tokens: this.ledger.tokens + tokens,
      costMicros: this.ledger.costMicros + costMicrosOf(model!.price, prompt),
    };
  }
  readonly model = {
    complete: async (): Promise<Outcome<ModelAnswer>> => {
      const way = this.#ways.shift() ?? 'answers';
      if (way === '503' || way === '429' || way === 'away') return free(way);
      this.#bill();
      if (way === 'times out') return failed('transient', 'MODEL_TIMEOUT', 'late');
      if (way === 'breaks' || way === '500') return failed('transient', way, 'broken');
      return answer(way === 'answers' ? usage : undefined, this.calls);
    },
  };
}
const doorsOf = (model: Model, doorClock: Clock = clock) =>
  new ModelDoors({
    model,
    clock: doorClock,
    rates: { take: async () => undefined },
    telemetry: countingTelemetry(),
  });
const never = new AbortController().signal;
const ask = async (provider: Provider, effect: CallModel, triesBefore = 0) => {
  const spending = new CallSpending(effect, models, triesBefore);
  const signal = new AbortController().signal;
  const asked = await askAll(
    {
      effect,
      askedAt: 0,
      prompt: {} as never,
      models,
      spending,
      signal,
      onAsking: () => undefined,
      noteTry: async () => true,
    },
    { model: provider.model, clock, doors: doorsOf(provider.model) },
  );
  return { spending, asked };
};

test.each([
  ['alone: the last try is kept for when a restart is over', false, 'MODEL_UNREACHABLE', 5_000],
  ['with a fallback, which is there at once', true, 'MODEL_UNREACHABLE', 0],
  ['that is there, and answers nonsense', false, 'MODEL_ANSWER_INVALID', 0],
])('a provider whose connections break, %s', async (_what, hasFallback, code, atLeastMs) => {
  const slept: number[] = [];
  const effect = effectOf({ deadlineAt: Date.now() + 600_000 });
  const names = hasFallback ? ['m', 'other'] : ['m'];
  const own = names.map((name) => ({ ...model!, name, attempts: 3, backoffMs: 250 }));
  const broken = {
    complete: async (spec: { name: string }) =>
      spec.name === 'other'
        ? answer(usage)
        : failed('transient', code, 'a connection that was reset'),
  };
  const patient = { ...clock, sleep: async (ms: number) => void slept.push(ms) };
  await askAll(
    {
      effect,
      askedAt: 0,
      prompt: {} as never,
      models: own,
      spending: new CallSpending(effect, own, 0),
      signal: never,
      onAsking: () => undefined,
      noteTry: async () => true,
    },
    { model: broken as never, clock: patient, doors: doorsOf(broken as never) },
  );
  expect(slept).toHaveLength(2);
  expect(slept[0]).toBeLessThan(2_000);
  if (atLeastMs > 0) expect(slept[1]).toBeGreaterThanOrEqual(atLeastMs);
  else expect(slept[1]).toBeLessThan(2_000);
});

test.each([
  ['a fallback is asked at once', 60_000, 600_000, ['m', 'other', 'other'], 1],
  ['a short wait is waited for', 1_000, 600_000, ['m', 'm', 'other', 'other'], 2],
  ['none is waited for beyond the deadline', 1_000, 500, ['m', 'other'], 0],
])('a provider that asks for patience: %s', async (_what, retryAfterMs, leftMs, wanted, waits) => {
  const asked: string[] = [];
  let slept = 0;
  const effect = effectOf({ deadlineAt: 1_000_000 + leftMs });
  const two = ['m', 'other'].map((name) => ({ ...model!, name, attempts: 2 }));
  const provider: Model = {
    complete: async ({ name }) => {
      asked.push(name);
      return {
        ok: false,
        failure: { class: 'transient', code: '429', message: 'later', retryAfterMs },
      };
    },
  };
  const still = {
    ...clock,
    now: () => 1_000_000,
    sleep: async () => {
      slept += 1;
    },
  };
  await askAll(
    {
      effect,
      askedAt: 0,
      prompt: {} as never,
      models: two,
      spending: new CallSpending(effect, two, 0),
      signal: never,
      onAsking: () => undefined,
      noteTry: async () => true,
    },
    { model: provider, clock: still, doors: doorsOf(provider, still) },
  );
  expect(asked).toEqual(wanted);
  expect(slept).toBe(waits);
});

describe('the spending', () => {
  test('a try that timed out costs the most that it could come to', async () => {
    const { spending, asked } = await ask(new Provider(['times out', 'answers']), effectOf());
    expect(asked.outcome.ok).toBe(true);
    expect(spending.paid.tokens).toBe(1_100 + 960);
  });

  test('a connection that was never made and a complete refusal are free', async () => {
    for (const way of ['away', '503', '429'] as const) {
      const { spending } = await ask(new Provider([way]), effectOf());
      expect(spending.paid).toEqual({ tokens: 0, costMicros: 0 });
      expect(spending.freeAttempts).toBe(1);
    }
  });

  test('an answer without usage costs the bound', async () => {
    const { spending, asked } = await ask(new Provider(['no usage']), effectOf());
    expect(spending.paid.tokens).toBe(1_100);
    expect(asked.outcome).toMatchObject({ ok: true, value: { usage: { promptTokens: 1_000 } } });
  });

  test('a gateway that died in the call has cost its bound', async () => {
    const { spending } = await ask(new Provider(['answers']), effectOf(), 1);
    expect(spending.paid.tokens).toBe(1_100 + 960);
  });

  test('gateways that die one after the other, each in any of its tries, are all counted', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 6 }),
        fc.array(fc.constantFrom(...ways), { maxLength: 6 }),
        fc.integer({ min: 1_100, max: 12_000 }),
        async (deaths, script, tokens) => {
          const effect = effectOf({ budget: { tokens, costMicros: 10_000_000 } });
          let noted = 0;
          let billed = 0;
          for (const diesIn of deaths) {
            // It notes each try before it makes it, is billed, and dies before it tells anybody.
            const killed = new Error('killed');
            const dying = new Provider(Array.from({ length: diesIn }, () => 'times out' as const));
            const note = () => {
              noted += 1;
            };
            const spending = new CallSpending(effect, models, noted);
            note();
            let tries = 0;
            const model = {
              complete: async () => {
                tries += 1;
                const outcome = await dying.model.complete();
                if (tries === diesIn) throw killed;
                return outcome;
              },
            };
            const asking = {
              effect,
              askedAt: 0,
              prompt: {} as never,
              models,
              spending,
              signal: never,
            };
            const noteTry = async () => {
              note();
              return true;
            };
            const hooks = { onAsking: () => undefined, noteTry };
            await askAll({ ...asking, ...hooks }, { model, clock, doors: doorsOf(model) }).catch(
              (error) => {
                if (error !== killed) throw error;
              },
            );
            billed += dying.ledger.tokens;
          }
          const provider = new Provider(script);
          const { spending } = await ask(provider, effect, noted);
          expect(billed + provider.ledger.tokens).toBeLessThanOrEqual(spending.paid.tokens);
          expect(spending.paid.tokens).toBeLessThanOrEqual(tokens);
        },
      ),
      { numRuns: 300 },
    );
  });

  test('no further try is made when the budget does not cover it', async () => {
    const budget = { tokens: 2_000, costMicros: 1_000_000 };
    const provider = new Provider(['times out', 'answers']);
    const { spending, asked } = await ask(provider, effectOf({ budget }));
    expect(spending.attempts).toBe(1);
    expect(asked.outcome).toMatchObject({
      ok: false,
      failure: { message: expect.stringContaining('budget does not cover another') },
    });
  });

  test("covers the provider's ledger and stays within the budget, whatever happens", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom(...ways), { maxLength: 6 }),
        fc.integer({ min: 1_100, max: 6_000 }),
        async (script, tokens) => {
          const provider = new Provider(script);
          const effect = effectOf({ budget: { tokens, costMicros: 10_000_000 } });
          const { spending } = await ask(provider, effect);
          expect(provider.ledger.tokens).toBeLessThanOrEqual(spending.paid.tokens);
          expect(provider.ledger.costMicros).toBeLessThanOrEqual(spending.paid.costMicros);
          expect(spending.paid.tokens).toBeLessThanOrEqual(tokens);
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('a session and the ledger of its provider', () => {
  const limits = {
    stepsMax: 30,
    toolCallsMax: 40,
    tokensMax: 30_000,
    costMicrosMax: 60_000,
    wallClockMs: 9e9,
  };
  const spec = { limits, onModelFailure: 'pause', agents: ['helper'], loop: { sameCallMax: 99 } };

  test('the ledger stays below what is counted, and that below the limits, at every moment', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.record({
            script: fc.array(fc.constantFrom(...ways), { maxLength: 4 }),
            isDead: fc.boolean(),
            calls: fc.nat(3),
            childSpends: fc.boolean(),
          }),
          { minLength: 1, maxLength: 12 },
        ),
        async (rounds) => {
          const talk = new Talk(definitionOf(spec as never));
          talk.say(task());
          let ledger: Paid = { tokens: 0, costMicros: 0 };
          const owe = (paid: Paid) => {
            ledger = {
              tokens: ledger.tokens + paid.tokens,
              costMicros: ledger.costMicros + paid.costMicros,
            };
          };
          const check = () => {
            const { spent, reserved } = talk.context;
            expect(ledger.tokens).toBeLessThanOrEqual(spent.tokens + reserved.tokens);
            expect(ledger.costMicros).toBeLessThanOrEqual(spent.costMicros + reserved.costMicros);
            expect(spent.tokens + reserved.tokens).toBeLessThanOrEqual(limits.tokensMax);
            expect(spent.costMicros + reserved.costMicros).toBeLessThanOrEqual(
              limits.costMicrosMax,
            );
            expect(spent.toolCalls + reserved.toolCalls).toBeLessThanOrEqual(limits.toolCallsMax);
          };
          for (const { script, isDead, calls, childSpends } of rounds) {
            if (isEnded(talk.record!)) break;
            const wanted = talk.effects.findLast(({ kind }) => kind === 'callModel') as CallModel;
            if (!talk.record!.pending[wanted.id]) break;
            const provider = new Provider(script);
            provider.calls = Array.from({ length: calls }, (_, index) =>
              index === 0
                ? call('delegate', { agent: 'helper', input: 'x' }, `d${talk.at}`)
                : call('look', { n: talk.at + index }, `l${talk.at}-${index}`),
            );
            // A gateway that was killed in a try: the provider billed it, and nobody told.
            if (isDead) {
              const killed = new Provider(['times out']);
              await killed.model.complete();
              owe(killed.ledger);
            }
            const { spending, asked } = await ask(provider, wanted, Number(isDead));
            owe(provider.ledger);
            check();
            if (asked.outcome.ok) {
              const { usage: counted, ...reply } = asked.outcome.value;
              talk.say(
                replied(wanted.id, {
                  ...reply,
                  usage: counted,
                  attempts: spending.attempts,
                  spent: spending.paid,
                }),
              );
            } else {
              const { failure } = asked.outcome;
              talk.say({
                kind: 'modelFailed',
                effect: wanted.id,
                failure,
                attempts: spending.attempts,
                spent: spending.paid,
              });
            }
            check();
            for (const effect of talk.wants) {
              if (effect.kind === 'runTool') talk.say(returned(effect.id));
              if (effect.kind !== 'startAgent') continue;
              const { tokensMax: tokens, costMicrosMax: costMicros } = effect.limits;
              if (childSpends) owe({ tokens, costMicros });
              check();
              talk.say({
                kind: 'agentEnded',
                effect: effect.id,
                outcome: 'completed',
                output: '',
                spent: childSpends
                  ? { steps: 1, toolCalls: 0, tokens, costMicros }
                  : { steps: 0, toolCalls: 0, tokens: 0, costMicros: 0 },
              });
              check();
            }
            if (talk.record!.status === 'paused')
              talk.say({ kind: 'resume', actor: 'a', reason: '' });
            if (!isEnded(talk.record!)) check();
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});

test('watchers are told which attempt a piece belongs to, where it begins and how it ended', async () => {
  const pieces: string[] = [];
  const effect = effectOf({ tenant: 'acme', session: 's' } as never);
  const watched = new Watched(({ call: of, attempt, part, text, end }) => {
    pieces.push([of, attempt, part, text, end].filter((one) => one !== undefined).join(' '));
  }, effect);
  let tries = 0;
  const half: Model = {
    complete: async (_spec, _prompt, { onText }) => {
      tries += 1;
      onText?.('Once ');
      if (tries === 1) return failed('transient', 'MODEL_STREAM_BROKEN', 'broken');
      onText?.('upon');
      return answer(usage);
    },
  };
  // Another gateway made one try before this one.
  const spending = new CallSpending(effect, models, 1);
  const hooks = { onAsking: () => undefined, noteTry: async () => true, watched };
  await askAll(
    { effect, askedAt: 0, prompt: {} as never, models, spending, signal: never, ...hooks },
    { model: half, clock, doors: doorsOf(half) },
  );
  expect(pieces).toEqual([
    'e1 2 begin ',
    'e1 2 text Once ',
    'e1 2 end  dropped',
    'e1 3 begin ',
    'e1 3 text Once ',
    'e1 3 text upon',
    'e1 3 end  answered',
  ]);
});
