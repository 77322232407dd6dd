/** No task is forgotten, whatever a session does meanwhile. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { assign, fromPromise, setup } from 'xstate';
import { Refused } from '../../services/core/errors.ts';
import type { Message } from '../../services/core/session/messages.ts';
import { isEnded, type SessionRecord } from '../../services/core/session/record.ts';
import { park, step } from '../../services/core/session/step.ts';
import { address, definitionOf, replied, returned, Talk, task } from '../support/sessions.ts';

const by = { actor: 'ann', reason: '' };
const keyed = (id: string) => task('{}', { isKeyed: true, task: id as never });
const pipeline = setup({
  types: { context: {} as { ok: boolean } },
  actors: { tool: fromPromise<unknown, { tool: string; arguments: object }>(async () => ({})) },
}).createMachine({
  id: 'p',
  version: '1',
  context: { ok: false },
  initial: 'go',
  states: {
    go: {
      invoke: {
        id: 'go',
        src: 'tool',
        input: { tool: 'look', arguments: {} },
        onDone: { target: 'done', actions: assign({ ok: true }) },
      },
    },
    done: { type: 'final' },
  },
});

describe('a paused pipeline with a second task', () => {
  test.each([true, false])('answers both when it is resumed (result first: %s)', (isFirst) => {
    const talk = new Talk({ ...definitionOf(), machine: pipeline });
    talk.say(keyed('task-1'));
    talk.say({ kind: 'pause', ...by });
    const result = returned(talk.pendingOf('runTool'));
    for (const message of isFirst ? [result, keyed('task-2')] : [keyed('task-2'), result]) {
      talk.say(message);
    }
    talk.say({ kind: 'resume', ...by });
    const answered = talk.wants.flatMap((one) => (one.kind === 'reply' ? [one.task] : []));
    expect(answered.sort()).toEqual(['task-1', 'task-2']);
  });
});

describe('a session that stands still', () => {
  test('refuses the task that it has no room for', () => {
    const talk = new Talk();
    talk.say(keyed('task-1'));
    talk.say({ kind: 'pause', ...by });
    for (let index = 0; index < 64; index += 1) talk.say(keyed(`t${index}`));
    expect(() => talk.say(keyed('one-more'))).toThrow(/keeps 64 messages already/);
  });

  test('keeps the result of what is under way, however many tasks it keeps', () => {
    const talk = new Talk();
    talk.say(keyed('task-1'));
    talk.say({ kind: 'pause', ...by });
    for (let index = 0; index < 64; index += 1) talk.say(keyed(`t${index}`));
    talk.say(replied(talk.pendingOf('callModel'), { content: 'done' }));
    expect(talk.record?.deferred).toHaveLength(65);
  });

  test('keeps 256 tasks while its definition is missing, and refuses the next', () => {
    const talk = new Talk();
    talk.say(keyed('task-1'));
    let record = talk.record!;
    const missing = (message: Message, sequence: number) => {
      const position = { incarnation: 0, sequence, index: 0 };
      const why = new Error('no bundle');
      const stepped = park(record, { message, at: 5_000, position }, why, address, true);
      if (stepped.kind === 'applied') record = stepped.record;
    };
    for (let index = 0; index < 256; index += 1) missing(keyed(`t${index}`), 100 + index);
    expect(() => missing(keyed('one-more'), 400)).toThrow(Refused);
    missing(replied(talk.pendingOf('callModel')), 401);
    expect(record.deferred).toHaveLength(257);
  });
});

test('a pause before a park counts as a pause', () => {
  const talk = new Talk(definitionOf({ limits: { wallClockMs: 2 * 3_600_000 } as never }));
  talk.say(task());
  talk.say({ kind: 'pause', ...by });
  const left = talk.record!.timers.wall!.dueAt - talk.at;
  const position = { incarnation: 0, sequence: 2, index: 1 };
  const at = talk.at + 36_000_000;
  const parked = park(
    talk.record!,
    { message: { kind: 'wake' }, at, position },
    new Error('x'),
    address,
  );
  talk.record = (parked as { record: SessionRecord }).record;
  talk.at += 39_600_000;
  talk.say({ kind: 'resume', ...by }, 0);
  expect(talk.record!.timers.wall!.dueAt - talk.at).toBe(left);
});

test("a parent's halt that comes before the task begins the child halted", () => {
  const parent = { tenant: 'acme', session: 'boss-1', effect: 'boss-1_2_0' } as never;
  const boss = new Talk();
  boss.say(task('x'));
  const calls = [{ id: 'd', name: 'delegate', arguments: '{"agent":"helper","input":"y"}' }];
  boss.say(replied(boss.pendingOf('callModel'), { calls }));
  const started = boss.wants.find(({ kind }) => kind === 'startAgent') as { child: string };
  boss.say({ kind: 'halt', ...by });
  const prompt = boss.wants.find(({ kind }) => kind === 'haltChild');
  expect(prompt).toMatchObject({
    child: started.child,
    start: { agent: 'helper', revision: 'h1', parent: { session: 'clerk-1' } },
  });

  const child = { agent: 'helper', revision: 'h1', task: 'clerk-1_2_0', parent } as never;
  const talk = new Talk();
  talk.say({ kind: 'halt', actor: 'clerk-1', reason: '', child });
  expect(talk.record).toMatchObject({ status: 'halted', version: 1, task: 'clerk-1_2_0' });
  expect(talk.wants).toMatchObject([{ kind: 'reply', outcome: 'halted' }]);
  talk.say(task('late', { task: 'clerk-1_2_0' as never, parent }));
  expect(talk.last).toMatchObject({ kind: 'seen', code: 'session-ended' });
  expect(() => new Talk().say({ kind: 'halt', ...by })).toThrow(/does not exist/);
});

const moves = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: fc.record({ kind: fc.constant('task' as const), id: fc.nat(90) }) },
    {
      weight: 9,
      arbitrary: fc.record({
        kind: fc.constantFrom('pause', 'resume', 'park', 'answer', 'call', 'result' as const),
      }),
    },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant('halt' as const) }) },
  ),
  { maxLength: 130 },
);

describe.each(['agent', 'machine'])('every task of a keyed session (%s)', (kind) => {
  test('gets exactly one reply or one refusal, over all interleavings', () => {
    fc.assert(
      fc.property(moves, (script) => {
        const definition =
          kind === 'agent' ? definitionOf() : { ...definitionOf(), machine: pipeline };
        let record: SessionRecord | undefined;
        let sequence = 0;
        const given = new Set<string>();
        const answers = new Map<string, number>();
        const answer = (id: string) => answers.set(id, (answers.get(id) ?? 0) + 1);
        const hear = (message: Message, isParked = false) => {
          sequence += 1;
          const position = { incarnation: 0, sequence, index: 0 };
          const incoming = { message, at: sequence, position };
          if (message.kind === 'task') given.add(message.task);
          try {
            const stored = record && (JSON.parse(JSON.stringify(record)) as SessionRecord);
            const stepped =
              isParked && stored
                ? park(stored, incoming, new Error('no bundle'), address, true)
                : step(stored, incoming, definition, address);
            if (stepped.kind !== 'applied') return;
            record = stepped.record;
            for (const effect of stepped.effects) {
              if (effect.kind === 'reply') answer(effect.task);
            }
          } catch (error) {
            if (!(error instanceof Refused)) throw error;
            if (message.kind === 'task') answer(message.task);
          }
        };
        const pending = (of: string) =>
          Object.entries(record?.pending ?? {}).find(([, note]) => note.kind === of)?.[0];
        hear(keyed('first'));
        for (const move of script) {
          const model = pending('callModel');
          const tool = pending('runTool');
          // A task that was refused may be published again: each here once.
          if (move.kind === 'task') {
            if (!given.has(`t${move.id}`)) hear(keyed(`t${move.id}`));
          } else if (move.kind === 'park') {
            const id = `p${sequence}`;
            hear(keyed(id), true);
          } else if (move.kind === 'answer') {
            if (model) hear(replied(model, { content: 'done' }));
          } else if (move.kind === 'call') {
            const calls = [{ id: 'c', name: 'look', arguments: `{"n":${sequence}}` }];
            if (model) hear(replied(model, { calls }));
          } else if (move.kind === 'result') {
            if (tool) hear(returned(tool));
          } else hear({ kind: move.kind, ...by });
        }
        hear({ kind: 'halt', ...by });
        expect(isEnded(record!)).toBe(true);
        const odd = [...given].filter((id) => answers.get(id) !== 1);
        expect(odd.map((id) => `${id}: ${answers.get(id) ?? 0}`)).toEqual([]);
      }),
      { numRuns: 250 },
    );
  });
});
