/** What an executor tells a session when the tries of a call go wrong, over the in-memory adapters and a scripted tool. */
import { describe, expect, test } from 'vitest';
import { memoryMailbox } from '../../services/adapters/memory/mailbox.ts';
import { memoryEffects, memoryStarts } from '../../services/adapters/memory/queues.ts';
import { countingTelemetry } from '../../services/adapters/memory/telemetry.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { Unavailable } from '../../services/core/errors.ts';
import type { EffectId, Revision, ShardId } from '../../services/core/ids.ts';
import type { RunTool } from '../../services/core/session/effects.ts';
import type { Message } from '../../services/core/session/messages.ts';
import type { Bundle } from '../../services/core/session/specs.ts';
import type { Failure, Outcome } from '../../services/core/tools/job.ts';
import { type ToolSpec, toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import { startExecutor } from '../../services/executor/worker.ts';
import type { ToolRunner } from '../../services/ports/performers.ts';
import { placeOf } from '../../services/ports/starts.ts';
import { eventually } from '../support/eventually.ts';

const done: Outcome<unknown> = { ok: true, value: 'done' };
const fails = (
  failureClass: Failure['class'],
  hasBegun?: boolean,
  retryAfterMs?: number,
): Outcome<unknown> => ({
  ok: false,
  failure: {
    class: failureClass,
    code: 'T',
    message: 'it failed',
    ...(hasBegun === undefined ? {} : { hasBegun }),
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  },
});
const brokeOff = fails('transient');
/** More patience than the session has. */
const muchLater = fails('transient', false, 86_400_000);
const neverLeft = fails('transient', false);
const refused = fails('semantic');
const forbidden = fails('permanent');
/** JSON that is well-formed, and deeper than a stack. */
const nested: Outcome<unknown> = {
  ok: true,
  value: JSON.parse('['.repeat(5_000) + ']'.repeat(5_000)),
};
const noJson: Outcome<unknown> = { ok: true, value: 1n };

interface Case {
  readonly class: ToolSpec['class'];
  /** What the tries give, in order; the last is given again. An error is thrown. */
  readonly tries: readonly (Outcome<unknown> | Error)[];
  /** What asking gives; an error is thrown. */
  readonly asked?: Outcome<unknown> | 'never' | Error;
  readonly output?: object;
  /** An executor that is gone had begun it. */
  readonly isTakenOver?: boolean;
  /** Its session cancels it in the try of this number. */
  readonly cancelAfter?: number;
  /** So often the log cannot take the outcome. */
  readonly logAway?: number;
  /** What looking for its bundle throws. */
  readonly bundleIs?: Error;
  /** So many executors fell silent with it in hand. */
  readonly lost?: number;
  /** Executors that are gone and had begun it, in order. */
  readonly begunBy?: readonly string[];
  /** What its session says to who asks; by default it waits. */
  readonly isWanted?: boolean;
  readonly patienceMs?: number;
  /** So many copies are offered, one after the other. */
  readonly copies?: number;
  /** The start records cannot be asked at this call, and the first takes so long, ms. */
  readonly startsAwayAt?: number;
  readonly firstStartMs?: number;
}

let lastRuns = 0;

async function resultOf({
  class: toolClass,
  tries,
  asked,
  output,
  isTakenOver,
  cancelAfter,
  logAway = 0,
  bundleIs,
  lost,
  begunBy = [],
  isWanted,
  patienceMs,
  copies = 1,
  startsAwayAt,
  firstStartMs = 0,
}: Case): Promise<{ told: Message; runs: number }> {
  const id = 's_1_0' as EffectId;
  const spec = toolSpecSchema.parse({
    description: 'scripted',
    class: toolClass,
    // A doubtful request of a queryable tool is settled after twice that.
    ...(toolClass === 'queryable' ? { timeoutMs: 20 } : {}),
    retry: { attempts: 3, backoffMs: 1, backoffMaxMs: 1 },
    run: { kind: 'builtin', name: 'scripted' },
    ...(output ? { output } : {}),
  });
  let runs = 0;
  lastRuns = 0;
  const runner: ToolRunner = {
    kind: 'builtin',
    run: async () => {
      const given = tries[Math.min(runs++, tries.length - 1)] ?? done;
      lastRuns = runs;
      if (runs === cancelAfter) effects.cancel('tools', [id]);
      if (given instanceof Error) throw given;
      return given;
    },
    query: async () => {
      if (asked instanceof Error) throw asked;
      return asked;
    },
  };
  const effects = memoryEffects(systemClock);
  const mailbox = memoryMailbox(systemClock);
  let away = logAway;
  const starts = memoryStarts(systemClock);
  if (isTakenOver) await starts.create(id, 'gone', toolClass);
  for (const [index, executor] of begunBy.entries())
    await starts.create(placeOf(id, index + 1), executor, toolClass);
  if (isWanted !== undefined) starts.answerWanted(async () => isWanted);
  let creations = 0;
  const told: Message[] = [];
  const reading = await mailbox.read(0 as ShardId, 0, ({ items }) => {
    for (const item of items) if (item.ok) told.push(item.envelope.message);
  });
  const taking = await startExecutor('x', 'tools', {
    effects,
    starts: {
      ...starts,
      async create(...record) {
        creations += 1;
        const number = creations;
        if (number === startsAwayAt) throw new Unavailable('START_UNAVAILABLE', 'away');
        const created = await starts.create(...record);
        if (number === 1 && firstStartMs > 0) await systemClock.sleep(firstStartMs);
        return created;
      },
    },
    mailbox: {
      ...mailbox,
      deliver: (shard, envelope) =>
        away-- > 0
          ? Promise.reject(new Unavailable('NATS_UNAVAILABLE', 'away'))
          : mailbox.deliver(shard, envelope),
    },
    archive: {
      bundle: async () => {
        if (bundleIs) throw bundleIs;
        return { tools: { scripted: spec } } as unknown as Bundle;
      },
    },
    runners: [runner],
    telemetry: countingTelemetry(),
    clock: systemClock,
    shards: 1,
  });
  const effect = {
    kind: 'runTool',
    id,
    tenant: 'acme',
    session: 's',
    agent: 'desk',
    revision: 'r' as Revision,
    deadlineAt: Date.now() + 60_000,
    tool: 'scripted',
    class: toolClass,
    pool: 'tools',
    arguments: {},
    ...(lost ? { lost } : {}),
  };
  await effects.offer(effect as unknown as RunTool);
  const [message] = await eventually(
    () => (told.length > 0 ? told : undefined),
    'the result',
    patienceMs ?? (cancelAfter ? 1_000 : undefined),
  );
  for (let copy = 1; copy < copies; copy += 1) {
    await effects.offer(effect as unknown as RunTool);
    await systemClock.sleep(30);
  }
  await taking.stop();
  await reading.stop();
  return { told: message!, runs };
}

const unknown = { kind: 'toolFailed', failure: { class: 'unknown' } };
const failedAs = (failureClass: string) => ({
  kind: 'toolFailed',
  failure: { class: failureClass },
});

describe('what a session is told', () => {
  test.each<[string, Case, object, number]>([
    ['keyed: all tries broke off', { class: 'keyed', tries: [brokeOff] }, unknown, 3],
    [
      'keyed: one broke off, and the last never left',
      { class: 'keyed', tries: [brokeOff, neverLeft] },
      unknown,
      3,
    ],
    [
      'keyed: one broke off, and then it was forbidden',
      { class: 'keyed', tries: [brokeOff, forbidden] },
      unknown,
      2,
    ],
    [
      'keyed: one broke off, and then it was refused',
      { class: 'keyed', tries: [brokeOff, refused] },
      unknown,
      2,
    ],
    [
      'keyed: one broke off, and then it worked',
      { class: 'keyed', tries: [brokeOff, done] },
      { kind: 'toolReturned' },
      2,
    ],
    ['keyed: none ever left', { class: 'keyed', tries: [neverLeft] }, failedAs('transient'), 3],
    ['keyed: refused at once', { class: 'keyed', tries: [refused] }, failedAs('semantic'), 1],
    [
      'keyed: begun by one that is gone, then none ever left',
      { class: 'keyed', tries: [neverLeft], isTakenOver: true },
      unknown,
      3,
    ],
    [
      'keyed: it answered what its schema does not allow',
      { class: 'keyed', tries: [done], output: { type: 'object' } },
      unknown,
      1,
    ],
    ['pure: all tries broke off', { class: 'pure', tries: [brokeOff] }, failedAs('transient'), 3],
    [
      'pure: it answered what its schema does not allow',
      { class: 'pure', tries: [done], output: { type: 'object' } },
      failedAs('permanent'),
      1,
    ],
    [
      'pure: it is to be asked after the deadline of its session',
      { class: 'pure', tries: [muchLater] },
      failedAs('transient'),
      1,
    ],
    [
      'pure: it answered what is nested too deep',
      { class: 'pure', tries: [nested] },
      failedAs('permanent'),
      1,
    ],
    [
      'opaque: it answered what is nested too deep',
      { class: 'opaque', tries: [nested] },
      unknown,
      1,
    ],
    [
      'opaque: it answered what is nested too deep for its schema',
      {
        class: 'opaque',
        tries: [nested],
        output: {
          $ref: '#/$defs/tree',
          $defs: { tree: { type: 'array', items: { $ref: '#/$defs/tree' } } },
        },
      },
      unknown,
      1,
    ],
    ['keyed: it answered what is no JSON', { class: 'keyed', tries: [noJson] }, unknown, 1],
    [
      'queryable: it broke off, happened, and says so in other words than its schema',
      { class: 'queryable', tries: [brokeOff], asked: done, output: { type: 'object' } },
      { kind: 'toolReturned' },
      1,
    ],
    [
      'queryable: it broke off, happened, and says so nested too deep',
      { class: 'queryable', tries: [brokeOff], asked: nested },
      unknown,
      1,
    ],
    [
      'queryable: it broke off, and asking crashes',
      { class: 'queryable', tries: [brokeOff], asked: new TypeError('broken') },
      unknown,
      1,
    ],
    ['opaque: it broke off', { class: 'opaque', tries: [brokeOff] }, unknown, 1],
    [
      'opaque: never left, and then it broke off',
      { class: 'opaque', tries: [neverLeft, brokeOff] },
      unknown,
      2,
    ],
    [
      'opaque: it worked, and the log was away when it was to be told',
      { class: 'opaque', tries: [done], logAway: 2 },
      { kind: 'toolReturned' },
      1,
    ],
    ['opaque: never left', { class: 'opaque', tries: [neverLeft] }, failedAs('transient'), 3],
    [
      'queryable: it broke off and happened',
      { class: 'queryable', tries: [brokeOff], asked: done },
      { kind: 'toolReturned' },
      1,
    ],
    [
      'queryable: it broke off and never happened',
      { class: 'queryable', tries: [brokeOff], asked: 'never' },
      failedAs('transient'),
      3,
    ],
    [
      'queryable: it broke off and cannot be asked',
      { class: 'queryable', tries: [brokeOff] },
      unknown,
      1,
    ],
  ])('%s', async (_what, given, told, runs) => {
    const result = await resultOf(given);
    expect(result.told).toMatchObject(told);
    expect(result.runs).toBe(runs);
  });

  test.each<ToolSpec['class']>(['opaque', 'keyed', 'pure'])(
    'a mistake of ours before the call of an %s tool has begun leaves no doubt',
    async (toolClass) => {
      const { told, runs } = await resultOf({
        class: toolClass,
        tries: [done],
        bundleIs: new TypeError('broken'),
      });
      expect(told).toMatchObject({
        kind: 'toolFailed',
        failure: { class: 'permanent', code: 'EXECUTOR_DEFECT' },
      });
      expect(runs).toBe(0);
    },
  );

  test('what is cancelled between two tries is not tried again, and nobody is told', async () => {
    const cancelled = await resultOf({ class: 'keyed', tries: [brokeOff], cancelAfter: 1 }).catch(
      (error: Error) => error.message,
    );
    expect(cancelled).toContain('the result');
    expect(lastRuns).toBe(1);
  });

  test.each(['keyed', 'queryable', 'pure'] as const)(
    '%s, in the hands of three executors that fell silent: it is not given to another',
    async (toolClass) => {
      const begunBy = toolClass === 'pure' ? [] : ['x1', 'x2', 'x3'];
      const { told, runs } = await resultOf({ class: toolClass, tries: [done], lost: 3, begunBy });
      expect(told).toMatchObject({ failure: { class: 'unknown', code: 'EXECUTOR_LOST' } });
      expect(runs).toBe(0);
    },
  );

  test.each(['keyed', 'queryable', 'opaque'] as const)(
    '%s that lay beside what killed three executors, and was not begun, is run',
    async (toolClass) => {
      const { told, runs } = await resultOf({ class: toolClass, tries: [done], lost: 3 });
      expect([told.kind, runs]).toEqual(['toolReturned', 1]);
      const given = await resultOf({ class: toolClass, tries: [done], lost: 9 });
      expect(given.told).toMatchObject({
        failure: { class: 'permanent', code: 'EXECUTOR_LOST', hasBegun: false },
      });
      expect(given.runs).toBe(0);
    },
  );

  test.each(['keyed', 'queryable', 'workspace'] as const)(
    '%s that one who is gone had begun, and that is answered, is not run again',
    async (toolClass) => {
      const given = { class: toolClass, tries: [done], asked: 'never', begunBy: ['x1'] } as const;
      await expect(resultOf({ ...given, isWanted: false, patienceMs: 500 })).rejects.toThrow();
      expect(lastRuns).toBe(0);
      expect((await resultOf({ ...given, isWanted: true })).runs).toBe(1);
    },
  );

  test('a copy of what it has performed itself is dropped, also when its ack was lost', async () => {
    const { runs } = await resultOf({ class: 'keyed', tries: [done], copies: 3 });
    expect(runs).toBe(1);
  });

  test('what comes back to it before it made a request is no doubt of its own', async () => {
    const { told, runs } = await resultOf({
      class: 'opaque',
      tries: [done],
      startsAwayAt: 2,
      firstStartMs: 1_600,
    });
    expect([told.kind, runs]).toEqual(['toolReturned', 1]);
  });

  test('a tool that crashes in our own hands may have taken effect', async () => {
    expect((await resultOf({ class: 'opaque', tries: [new Error('broken')] })).told).toMatchObject({
      failure: { class: 'unknown', code: 'TOOL_CRASHED' },
    });
  });
});
