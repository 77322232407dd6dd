/** Who may begin an effect, over the in-memory start records. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { memoryStarts } from '../../services/adapters/memory/queues.ts';
import { Unavailable } from '../../services/core/errors.ts';
import type { EffectId } from '../../services/core/ids.ts';
import type { RunTool } from '../../services/core/session/effects.ts';
import { failed, type Outcome } from '../../services/core/tools/job.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import { begin, Place, placeMs } from '../../services/executor/place.ts';
import { runWithRetries } from '../../services/executor/tries.ts';
import type { Clock } from '../../services/ports/clock.ts';
import type { ToolRunner } from '../../services/ports/performers.ts';
import { cancelStart, type Holding, placeOf } from '../../services/ports/starts.ts';

const id = 's_1_0' as EffectId;

/** Time that only moves when somebody sleeps. */
function virtualClock(): Clock & { at: number } {
  const clock = {
    at: 1_000,
    now: () => clock.at,
    sleep: async (ms: number) => {
      clock.at += ms;
    },
    every: () => ({ stop: () => undefined }),
    timeLimit: (_ms: number, signal: AbortSignal) => ({
      signal,
      isOver: false,
      again: () => undefined,
      stop: () => undefined,
    }),
  };
  return clock;
}
function world(holding?: Holding) {
  const clock = virtualClock();
  const starts = memoryStarts(clock);
  if (holding) starts.answerHolds('x1', () => holding);
  return { clock, starts };
}

describe('an effect that another has begun', () => {
  test.each<[Holding, string]>([
    ['holding', 'elsewhere'],
    ['slow', 'elsewhere'],
    ['done', 'done'],
    ['unknown', 'run'],
    ['gone', 'run'],
  ])('keyed, and its executor is %s: %s', async (holding, kind) => {
    const { starts, clock } = world(holding);
    await starts.create(id, 'x1', 'keyed');
    expect(await begin('x2', id, 'keyed', { starts, clock })).toMatchObject({ kind });
  });

  test.each<[Holding, string]>([
    ['slow', 'elsewhere'],
    ['done', 'done'],
    ['gone', 'lost'],
  ])('opaque, and its executor is %s: %s', async (holding, kind) => {
    const { starts, clock } = world(holding);
    await starts.create(id, 'x1', 'opaque');
    expect(await begin('x2', id, 'opaque', { starts, clock })).toMatchObject({ kind });
  });

  test('is given up after three executors that died with it in hand', async () => {
    const { starts, clock } = world();
    for (const executor of ['x1', 'x2', 'x3']) {
      expect(await begin(executor, id, 'keyed', { starts, clock })).toMatchObject({ kind: 'run' });
    }
    expect(await begin('x4', id, 'keyed', { starts, clock })).toMatchObject({ kind: 'lost' });
  });
});

describe('an effect that is given up', () => {
  /** One that stood still between its record and its request, and goes on much later. */
  const goesOn = (
    executor: string,
    toolClass: 'keyed' | 'opaque',
    begun: { number: number; since: number },
    { starts, clock }: ReturnType<typeof world>,
  ) => {
    clock.at += 20_000;
    return new Place(executor, id, toolClass, begun, { starts, clock }).whyNot();
  };
  const began = (begun: Awaited<ReturnType<typeof begin>>) =>
    begun as Extract<typeof begun, { kind: 'run' }>;

  test('opaque: who stood still makes no request after it was told', async () => {
    const here = world();
    const first = began(await begin('x1', id, 'opaque', here));
    expect(await begin('x2', id, 'opaque', here)).toMatchObject({ kind: 'lost', first: 'x1' });
    expect(await goesOn('x1', 'opaque', first, here)).toBe('cancelled');
    // A third that is offered a copy says the same.
    expect(await begin('x3', id, 'opaque', here)).toMatchObject({ kind: 'lost', first: 'x1' });
  });

  test('in the hands of three: the third makes no request after it was told', async () => {
    const here = world();
    let third = began(await begin('x1', id, 'keyed', here));
    for (const executor of ['x2', 'x3']) third = began(await begin(executor, id, 'keyed', here));
    expect(await begin('x4', id, 'keyed', here)).toMatchObject({ kind: 'lost' });
    expect(await goesOn('x3', 'keyed', third, here)).toBe('cancelled');
  });

  test('also where the one who is gone had looked again, and has two places', async () => {
    const here = world();
    const first = began(await begin('x1', id, 'opaque', here));
    here.clock.at += 20_000;
    await new Place('x1', id, 'opaque', first, here).whyNot();
    expect(await begin('x2', id, 'opaque', here)).toMatchObject({ kind: 'lost', first: 'x1' });
  });

  test('is not, where another has taken over meanwhile', async () => {
    const here = world();
    const first = began(await begin('x1', id, 'opaque', here));
    here.clock.at += 20_000;
    const place = new Place('x1', id, 'opaque', first, here);
    expect(await place.whyNot()).toBeUndefined();
    here.starts.answerHolds('x1', () => 'holding');
    expect(await begin('x2', id, 'opaque', here)).toEqual({ kind: 'elsewhere' });
  });
});

test('executors that live and have handed it back are not counted as dead', async () => {
  const { starts, clock } = world();
  for (const executor of ['x1', 'x2', 'x3', 'x4']) {
    expect(await begin(executor, id, 'keyed', { starts, clock })).toMatchObject({ kind: 'run' });
    if (executor !== 'x1') starts.answerHolds(executor, () => 'unknown');
  }
});

describe('its own record', () => {
  test('that was stored, and nobody could say so, is taken as its own', async () => {
    const { starts, clock } = world();
    const begun = (await begin('x1', id, 'keyed', { starts, clock })) as never;
    let isAway = true;
    const create: typeof starts.create = async (...record) => {
      const created = await starts.create(...record);
      if (isAway) throw new Unavailable('START_UNAVAILABLE', 'the answer was lost');
      return created;
    };
    const place = new Place('x1', id, 'keyed', begun, { starts: { ...starts, create }, clock });
    clock.at += 20_000;
    await expect(place.whyNot()).rejects.toThrow('lost');
    isAway = false;
    expect(await place.whyNot()).toBeUndefined();
    expect(place.number).toBeGreaterThanOrEqual(2);
  });

  test('that was cancelled meanwhile is seen before its first request', async () => {
    const { starts, clock } = world();
    const begun = await begin('x1', id, 'keyed', { starts, clock });
    const place = new Place('x1', id, 'keyed', begun as never, { starts, clock });
    await cancelStart(starts, id, 'keyed');
    const again = await begin('x1', id, 'keyed', { starts, clock }, place);
    const taken = new Place('x1', id, 'keyed', again as never, { starts, clock });
    expect(await taken.whyNot()).toBe('cancelled');
  });

  test.each([false, true])('opaque, and a request was made: %s', async (hasRun) => {
    const { starts, clock } = world();
    const begun = await begin('x1', id, 'opaque', { starts, clock });
    const place = new Place('x1', id, 'opaque', begun as { number: number; since: number }, {
      starts,
      clock,
    });
    clock.at += 20_000;
    await place.whyNot();
    place.mayHaveRun = hasRun;
    const again = await begin('x1', id, 'opaque', { starts, clock }, place);
    expect(again).toMatchObject(hasRun ? { kind: 'lost' } : { kind: 'run', number: 2 });
  });
});

describe('a cancelled effect', () => {
  test('is not begun', async () => {
    const { starts, clock } = world();
    await cancelStart(starts, id, 'keyed');
    expect(await begin('x1', id, 'keyed', { starts, clock })).toMatchObject({ kind: 'cancelled' });
  });

  test('is not taken over', async () => {
    const { starts, clock } = world();
    await begin('x1', id, 'keyed', { starts, clock });
    expect(await cancelStart(starts, id, 'keyed')).toBe('x1');
    expect(await begin('x2', id, 'keyed', { starts, clock })).toEqual({
      kind: 'cancelled',
      first: 'x1',
    });
  });
});

describe('an executor that stood still between its record and its request', () => {
  const standing = async () => {
    const { starts, clock } = world();
    const begun = await begin('x1', id, 'queryable', { starts, clock });
    const number = (begun as { number: number }).number;
    const place = new Place('x1', id, 'queryable', { number, since: clock.at }, { starts, clock });
    expect(await place.whyNot()).toBeUndefined();
    clock.at += 7_000;
    return { starts, clock, place };
  };

  test('asks again also where its first record was stored long before it heard of it', async () => {
    const { starts, clock } = world();
    const slow = {
      ...starts,
      create: async (...record: Parameters<typeof starts.create>) => {
        const created = await starts.create(...record);
        clock.at += 10_000; // the acknowledgement was lost, and the record was read again
        return created;
      },
    };
    const begun = await begin('x1', id, 'opaque', { starts: slow, clock });
    if (begun.kind !== 'run') throw new Error(begun.kind);
    await starts.create(placeOf(id, 2), 'x2', 'opaque');
    const place = new Place('x1', id, 'opaque', begun, { starts, clock });
    expect(await place.whyNot()).toBe('elsewhere');
  });

  test('goes on with a fresh record when nobody has come', async () => {
    const { place, starts, clock } = await standing();
    expect(await place.whyNot()).toBeUndefined();
    starts.answerHolds('x1', () => 'holding');
    expect(await begin('x2', id, 'queryable', { starts, clock })).toEqual({ kind: 'elsewhere' });
  });

  test('gives up its place when another has taken over', async () => {
    const { place, starts } = await standing();
    await starts.create(placeOf(id, 2), 'x2', 'queryable');
    expect(await place.whyNot()).toBe('elsewhere');
  });

  test('gives up its place when it was cancelled', async () => {
    const { place, starts } = await standing();
    await cancelStart(starts, id, 'queryable');
    expect(await place.whyNot()).toBe('cancelled');
  });
});

describe('a queryable tool of a slow service', () => {
  const spec = toolSpecSchema.parse({
    description: 'slow',
    class: 'queryable',
    timeoutMs: 1_000,
    retry: { attempts: 4, backoffMs: 100, backoffMaxMs: 400 },
    run: { kind: 'builtin', name: 'slow' },
  });
  const effect = {
    kind: 'runTool',
    id,
    tool: 'slow',
    arguments: {},
    deadlineAt: 10_000_000,
  } as unknown as RunTool;

  /** A service whose effect of each request comes so long after it; the query tells what has come. */
  async function runAgainst(delays: readonly number[], deadAfter: number | undefined) {
    const { starts, clock } = world();
    const effects: number[] = [];
    let requests = 0;
    const request = async () => {
      effects.push(clock.at + (delays[requests++] ?? 0));
    };
    const happened = () => effects.filter((at) => at <= clock.at);
    const runner: ToolRunner = {
      kind: 'builtin',
      run: async (): Promise<Outcome<unknown>> => {
        await request();
        const takes = effects.at(-1)! - clock.at;
        clock.at += Math.min(takes, spec.timeoutMs);
        if (takes < spec.timeoutMs) return { ok: true, value: 'done' };
        return failed('transient', 'HTTP_BROKEN', 'it broke off');
      },
      query: async () => (happened().length > 0 ? { ok: true, value: 'done' } : 'never'),
    };
    // An executor that began it, made its request, and died so long after it.
    if (deadAfter !== undefined) {
      await begin('x1', id, 'queryable', { starts, clock });
      await request();
      clock.at += deadAfter;
    }
    const begun = await begin('x2', id, 'queryable', { starts, clock });
    const number = (begun as { number: number }).number;
    const place = new Place('x2', id, 'queryable', { number, since: clock.at }, { starts, clock });
    const tried = await runWithRetries(
      {
        effect,
        spec,
        place,
        begunBefore: deadAfter === undefined ? undefined : clock.at + placeMs,
        signal: new AbortController().signal,
        onRun: () => undefined,
      },
      { runners: [runner], clock },
    );
    clock.at += 1_000_000;
    return { tried, effects: happened().length };
  }

  test('is done once, whenever its effect comes within its bound', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 0, max: 1_999 }), { minLength: 1, maxLength: 6 }),
        fc.option(fc.integer({ min: 0, max: 3_000 }), { nil: undefined }),
        async (delays, deadAfter) => {
          const { tried, effects } = await runAgainst(delays, deadAfter);
          expect(effects).toBe(1);
          expect(tried).toMatchObject({ outcome: { ok: true } });
        },
      ),
      { numRuns: 500 },
    );
  });

  test('nor is it, where its request left late in a try that was cut off', async () => {
    const { starts, clock } = world();
    const query = { url: 'http://x/q', settledAfterMs: 1_000 };
    const run = { kind: 'http', url: 'http://x/', query };
    const patient = toolSpecSchema.parse({ ...spec, timeoutMs: 3_500, run });
    const effects: number[] = [];
    const runner = {
      kind: 'http',
      run: async () => {
        clock.at += 3_000; // the connection takes its time
        effects.push(clock.at + 900);
        clock.at += 500;
        return failed('transient', 'TOOL_TIMEOUT', 'it took too long');
      },
      query: async () =>
        effects.some((at) => at <= clock.at) ? { ok: true as const, value: 1 } : 'never',
    } as unknown as ToolRunner;
    const begun = await begin('x1', id, 'queryable', { starts, clock });
    const signal = new AbortController().signal;
    await runWithRetries(
      {
        effect,
        spec: patient,
        place: new Place('x1', id, 'queryable', begun as never, { starts, clock }),
        begunBefore: undefined,
        signal,
        onRun: () => undefined,
      },
      { runners: [runner], clock },
    );
    expect(effects).toHaveLength(1);
  });

  test('each further try asks the records again, however young its place', async () => {
    const { starts, clock } = world();
    const begun = (await begin('x1', id, 'queryable', { starts, clock })) as never;
    const place = new Place('x1', id, 'queryable', begun, { starts, clock });
    expect(await place.whyNot()).toBeUndefined();
    await begin('x2', id, 'queryable', { starts, clock });
    clock.at += 10;
    expect(await place.whyNot(true)).toBe('elsewhere');
  });

  test('the question is not believed while the request may still take effect', async () => {
    expect((await runAgainst([1_500], undefined)).effects).toBe(1);
    expect((await runAgainst([1_900], 10)).effects).toBe(1);
  });

  test('after an abort there is no further try and no question', async () => {
    const { starts, clock } = world();
    const stopped = new AbortController();
    const asked: string[] = [];
    const runner: ToolRunner = {
      kind: 'builtin',
      run: async () => {
        asked.push('run');
        stopped.abort();
        return failed('transient', 'HTTP_BROKEN', 'aborted');
      },
      query: async () => {
        asked.push('query');
        return 'never';
      },
    };
    const place = new Place(
      'x1',
      id,
      'queryable',
      { number: 1, since: clock.at },
      { starts, clock },
    );
    const { signal } = stopped;
    await runWithRetries(
      { effect, spec, place, begunBefore: undefined, signal, onRun: () => undefined },
      { runners: [runner], clock },
    );
    expect(asked).toEqual(['run']);
  });
});
