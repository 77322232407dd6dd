/** What must hold for any input: found by generation, kept as properties. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  add,
  costMicrosOf,
  exceeded,
  limitsSchema,
  nothing,
} from '../../services/core/budget/budget.ts';
import { placementOf } from '../../services/core/cluster/placement.ts';
import {
  type AgentName,
  type EffectId,
  type HostId,
  type SessionId,
  sessionIdOf,
  shardOf,
  type TenantId,
} from '../../services/core/ids.ts';
import type { Message } from '../../services/core/session/messages.ts';
import { isEnded, stateHashOf } from '../../services/core/session/record.ts';
import { step } from '../../services/core/session/step.ts';
import { capped } from '../../services/core/tools/job.ts';
import { encodeEnvelope, parseMail } from '../../services/core/wire/envelopes.ts';
import {
  address,
  call,
  definitionOf,
  replied,
  returned,
  Talk,
  task,
  toolFailed,
} from '../support/sessions.ts';

/** What may happen next, as a choice that the session's own state gives a meaning to. */
type Move = {
  kind:
    | 'reply'
    | 'calls'
    | 'bad'
    | 'result'
    | 'fail'
    | 'pause'
    | 'resume'
    | 'halt'
    | 'wake'
    | 'repeat'
    | 'approve'
    | 'stale';
  pick: number;
};
const moves = fc.array(
  fc.record({
    kind: fc.constantFrom<Move['kind']>(
      'calls',
      'calls',
      'result',
      'result',
      'result',
      'fail',
      'bad',
      'reply',
      'pause',
      'resume',
      'halt',
      'wake',
      'repeat',
      'approve',
      'stale',
    ),
    pick: fc.nat(1_000),
  }),
  { maxLength: 40 },
);

function messageFor(move: Move, talk: Talk): Message | undefined {
  const by = { actor: 'ann', reason: '' };
  const pick = <Item>(items: readonly Item[]) => items[move.pick % Math.max(1, items.length)];
  const of = (kinds: readonly string[]) =>
    pick(
      Object.entries(talk.record?.pending ?? {})
        .filter(([, note]) => kinds.includes(note.kind))
        .map(([id]) => id),
    );
  switch (move.kind) {
    case 'reply':
    case 'calls':
    case 'bad': {
      const effect = of(['callModel']);
      if (!effect) return undefined;
      if (move.kind === 'reply') return replied(effect, { content: 'done' });
      if (move.kind === 'bad') return replied(effect, { calls: [call('pay', '{')] });
      return replied(effect, {
        calls: Array.from({ length: 1 + (move.pick % 3) }, (_, index) =>
          call(index % 2 ? 'pay' : 'look', { amount: move.pick }, `c${move.pick}-${index}`),
        ),
      });
    }
    case 'result':
    case 'fail': {
      const effect = of(['runTool']);
      return effect
        ? move.kind === 'result'
          ? returned(effect, { n: move.pick })
          : toolFailed(effect, pick(['transient', 'unknown', 'permanent'] as const))
        : undefined;
    }
    case 'approve': {
      const approval = of(['askHuman']);
      return approval
        ? {
            kind: 'approve',
            approval: approval as EffectId,
            hash: talk.context.approvals[approval]?.hash ?? '',
            ...by,
          }
        : undefined;
    }
    case 'pause':
    case 'resume':
      return { kind: move.kind, ...by };
    case 'halt':
      return move.pick % 5 === 0 ? { kind: 'halt', ...by } : undefined;
    case 'wake':
      return { kind: 'wake' };
    case 'repeat':
      return pick(talk.heard)?.message;
    case 'stale':
      return returned(`clerk-1_${move.pick}_0`);
  }
}

const spec = {
  approvals: [{ tool: 'pay', when: { argument: 'amount', above: 500 }, expiresMs: 3_600_000 }],
  limits: {
    stepsMax: 8,
    toolCallsMax: 12,
    tokensMax: 20_000,
    costMicrosMax: 40_000,
    wallClockMs: 3_600_000,
  },
};

function play(script: readonly Move[]): Talk {
  const talk = new Talk(definitionOf(spec as never));
  talk.say(task());
  for (const move of script) {
    const message = messageFor(move, talk);
    if (message) talk.say(message, move.kind === 'wake' ? move.pick * 1_000 : 1);
  }
  return talk;
}

describe('step', () => {
  test('the fold of what was heard is the state, in one piece or cut anywhere and restored', () => {
    fc.assert(
      fc.property(moves, fc.nat(), (script, cut) => {
        const talk = play(script);
        let record = undefined as Talk['record'];
        let live: unknown;
        talk.heard.forEach((incoming, index) => {
          if (index === cut % (talk.heard.length + 1)) {
            record = record && JSON.parse(JSON.stringify(record));
            live = undefined;
          }
          const stepped = step(record, incoming, talk.definition, address, live as never);
          if (stepped.kind === 'applied') ({ record, live } = stepped);
        });
        expect(stateHashOf(record!)).toBe(stateHashOf(talk.record!));
      }),
      { numRuns: 150 },
    );
  });

  test('hearing everything twice changes nothing', () => {
    fc.assert(
      fc.property(moves, (script) => {
        const talk = play(script);
        for (const incoming of talk.heard)
          expect(step(talk.record, incoming, talk.definition, address).kind).toBe('seen');
      }),
      { numRuns: 60 },
    );
  });

  test('no budget is overspent, reserved calls included', () => {
    fc.assert(
      fc.property(moves, (script) => {
        const { context } = play(script);
        const { limits, spent, reserved } = context;
        const sum = add(spent, reserved);
        expect(sum.steps).toBeLessThanOrEqual(limits.stepsMax);
        expect(sum.toolCalls).toBeLessThanOrEqual(limits.toolCallsMax);
        expect(sum.tokens).toBeLessThanOrEqual(limits.tokensMax);
        expect(sum.costMicros).toBeLessThanOrEqual(limits.costMicrosMax);
      }),
      { numRuns: 150 },
    );
  });

  test('an ended session has nothing pending, told its end once, and used no effect id twice', () => {
    fc.assert(
      fc.property(moves, (script) => {
        const talk = play(script);
        const ids = talk.effects.flatMap((effect) => ('id' in effect ? [effect.id] : []));
        expect(new Set(ids).size).toBe(ids.length);
        const replies = talk.effects.filter(({ kind }) => kind === 'reply').length;
        expect(replies).toBe(isEnded(talk.record!) ? 1 : 0);
        if (isEnded(talk.record!)) expect(talk.record).toMatchObject({ pending: {}, timers: {} });
        else
          expect(talk.pending.length + (talk.record!.status === 'active' ? 0 : 1)).toBeGreaterThan(
            0,
          );
      }),
      { numRuns: 150 },
    );
  });
});

describe('wire', () => {
  test('an envelope survives its encoding, alone and in a batch', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 200 }), fc.jsonValue(), (text, value) => {
        const envelopes = [
          { ...address, message: task(text) },
          { ...address, message: returned('clerk-1_2_0', value) },
        ];
        const parsed = parseMail(`[${envelopes.map(encodeEnvelope).join(',')}]`);
        expect(parsed).toEqual(
          envelopes.map((envelope) => ({
            ok: true,
            envelope: { v: 1, ...(JSON.parse(JSON.stringify(envelope)) as object) },
          })),
        );
      }),
    );
  });

  test('whatever comes, parsing mail answers and never throws; a bad envelope spoils no other', () => {
    const good = encodeEnvelope({ ...address, message: task() });
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (junk) => {
        expect(parseMail(junk).every((item) => item.ok || item.problem.length > 0)).toBe(true);
      }),
    );
    expect(parseMail(`[{"v":1},${good},3]`).map(({ ok }) => ok)).toEqual([false, true, false]);
  });
});

describe('placement', () => {
  const hosts = fc
    .uniqueArray(fc.stringMatching(/^[a-z]{1,8}-[0-9]{1,3}$/), { minLength: 1, maxLength: 9 })
    .map((names) => names as HostId[]);

  test('every shard has one host, none has much more than its share, and order does not matter', () => {
    fc.assert(
      fc.property(hosts, fc.integer({ min: 1, max: 64 }), (names, shards) => {
        const placement = placementOf(names, shards);
        expect(placement.size).toBe(shards);
        const most = Math.max(
          ...names.map((name) => [...placement.values()].filter((host) => host === name).length),
        );
        expect(most).toBeLessThanOrEqual(Math.ceil((shards / names.length) * 1.25));
        expect(placementOf([...names].reverse(), shards)).toEqual(placement);
      }),
    );
  });

  test('when a host dies, most shards of the others stay where they are', () => {
    const names = ['a', 'b', 'c', 'd'] as HostId[];
    const before = placementOf(names, 64);
    const after = placementOf(names.slice(1), 64);
    const moved = [...before].filter(
      ([shard, host]) => host !== 'a' && after.get(shard) !== host,
    ).length;

    expect(moved).toBeLessThanOrEqual(10);
  });

  test('sessions spread evenly over shards', () => {
    const counts = new Array<number>(16).fill(0);
    for (let index = 0; index < 16_000; index += 1)
      counts[
        shardOf(
          'acme' as TenantId,
          sessionIdOf('acme' as TenantId, 'desk' as AgentName, `t${index}`),
          16,
        )
      ]! += 1;

    expect(Math.min(...counts)).toBeGreaterThan(800);
    expect(Math.max(...counts)).toBeLessThan(1_200);
  });

  test('two tenants never share a session id', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), (id) => {
        const of = (tenant: string): SessionId =>
          sessionIdOf(tenant as TenantId, 'desk' as AgentName, id);
        expect(of('a')).not.toBe(of('b'));
        expect(of('a')).toBe(of('a'));
      }),
    );
  });
});

describe('budget', () => {
  const price = {
    inputMicrosPerMillion: 250_000,
    outputMicrosPerMillion: 2_000_000,
    cachedMicrosPerMillion: 25_000,
  };

  test('a cost is a whole number, never less than the exact one, and less than one micro-dollar more', () => {
    fc.assert(
      fc.property(
        fc.nat(2_000_000),
        fc.nat(100_000),
        fc.nat(2_000_000),
        (promptTokens, completionTokens, cachedTokens) => {
          const cost = costMicrosOf(price, { promptTokens, completionTokens, cachedTokens });
          const cached = Math.min(cachedTokens, promptTokens);
          const exact =
            ((promptTokens - cached) * 250_000 + cached * 25_000 + completionTokens * 2_000_000) /
            1e6;
          expect(Number.isInteger(cost)).toBe(true);
          expect(cost).toBeGreaterThanOrEqual(exact);
          expect(cost).toBeLessThan(exact + 1);
        },
      ),
    );
  });

  test('what fits under every limit is allowed, one more is not', () => {
    const limits = limitsSchema.parse({ stepsMax: 2 });
    expect(
      exceeded(limits, { ...nothing, steps: 1 }, nothing, { ...nothing, steps: 1 }),
    ).toBeUndefined();
    expect(
      exceeded(
        limits,
        { ...nothing, steps: 1 },
        { ...nothing, steps: 1 },
        { ...nothing, steps: 1 },
      ),
    ).toBe('steps');
  });

  test('a capped result is within its limit, and says when it is a part', () => {
    fc.assert(
      fc.property(
        fc.string({ maxLength: 3_000, unit: 'grapheme' }),
        fc.integer({ min: 10, max: 1_000 }),
        (text, max) => {
          const { value, truncated, bytes } = capped(text, max);
          expect(truncated).toBe(bytes > max);
          if (truncated)
            expect(Buffer.byteLength((value as { kept: string }).kept)).toBeLessThanOrEqual(max);
          else expect(value).toBe(text);
        },
      ),
    );
  });
});
