/**
 * Tells the stories to the code of today and writes down what is not written yet, in
 * `behaviour-<n>`. What is there is never touched: later code must fold it to the same state.
 *
 * Run with: node test/golden/tell.ts <n>
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { natsArchive } from '../../services/adapters/nats/archive.ts';
import type { ShardId } from '../../services/core/ids.ts';
import type { Message } from '../../services/core/session/messages.ts';
import { call, replied, returned, task, toolFailed } from '../support/sessions.ts';
import { type Story, Teller } from './story.ts';

const by = { actor: 'ann', reason: 'because' };
const keyed = (id: string, input = id) => task(input, { task: id as never, isKeyed: true });
const agentEnded = (effect: string, outcome: 'completed' | 'failed' | 'halted', tokens = 900) =>
  ({
    kind: 'agentEnded',
    effect,
    outcome,
    output: 'from the child',
    spent: { steps: 2, toolCalls: 1, tokens, costMicros: 40 },
  }) as unknown as Message;
const modelFailed = (effect: string, attempts: number, code = 'MODEL_TIMEOUT') =>
  ({
    kind: 'modelFailed',
    effect,
    failure: { class: 'permanent', code, message: 'no' },
    attempts,
  }) as unknown as Message;
const decide = (teller: Teller, kind: 'approve' | 'reject', edited?: string): Message => {
  const approval = teller.one('askHuman') as never;
  const hash = teller.hashOf(approval);
  if (kind === 'reject') return { kind, approval, hash, ...by };
  return { kind, approval, hash, ...by, ...(edited ? { arguments: edited } : {}) };
};
const reply = (teller: Teller, more: Parameters<typeof replied>[1]) =>
  replied(teller.one('callModel'), more);
const heard = (type: string, id: string, from = 'acme') =>
  ({ kind: 'event', id, from, event: { type, at: 5 } }) as unknown as Message;
const orderTools = ['reserve', 'ship', 'cancel'];
const guarded = { approvals: [{ tool: 'pay', when: { argument: 'amount', above: 50 } }] } as never;

const stories: Readonly<Record<string, () => Promise<Teller>>> = {
  answer: async () => {
    const teller = await Teller.of();
    teller.say(task('hello'));
    return teller.say(reply(teller, { content: 'done' }));
  },
  'tools, one batch of results, one unknown': async () => {
    const teller = await Teller.of();
    teller.say(task('hello', { traceparent: `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01` }));
    const calls = [call('look', { a: 1 }, 'c1'), call('pay', { amount: 5 }, 'c2')];
    teller.say(reply(teller, { calls }));
    const [look, pay] = teller.pending('runTool');
    teller.say([returned(look!, { found: true }), toolFailed(pay!, 'unknown')]);
    return teller.say(reply(teller, { content: 'it may have been paid' }));
  },
  'waits for two tools': async () => {
    const teller = await Teller.of();
    teller.say(task('hello'));
    const calls = [call('look', { a: 1 }, 'c1'), call('look', { a: 2 }, 'c2')];
    teller.say(reply(teller, { calls, content: 'let me see' }));
    return teller.say(returned(teller.pending('runTool')[1]!, { found: 2 }));
  },
  'approved with an edit': async () => {
    const teller = await Teller.of(guarded);
    teller.say(task('pay 60'));
    teller.say(reply(teller, { calls: [call('pay', { amount: 60 }), call('look', {}, 'l')] }));
    teller.say(returned(teller.one('runTool')));
    teller.say(decide(teller, 'approve', '{"amount":55}'));
    teller.say(returned(teller.one('runTool'), { paid: 55 }));
    return teller.say(reply(teller, { content: 'paid' }));
  },
  'rejected, and approved for another payload': async () => {
    const teller = await Teller.of(guarded);
    teller.say(task('pay 60'));
    teller.say(reply(teller, { calls: [call('pay', { amount: 60 })] }));
    const other = { ...decide(teller, 'approve'), hash: 'f'.repeat(64) } as Message;
    teller.say(other);
    teller.say(decide(teller, 'reject'));
    return teller.say(reply(teller, { content: 'not paid' }));
  },
  'an approval expires': async () => {
    const teller = await Teller.of(guarded);
    teller.say(task('pay 60', { limits: { wallClockMs: 86_400_000 } }));
    teller.say(reply(teller, { calls: [call('pay', { amount: 60 })] }));
    teller.say({ kind: 'wake' }, 86_399_999);
    return teller.say({ kind: 'wake' }, 10);
  },
  'waits for a person': async () => {
    const teller = await Teller.of(guarded);
    teller.say(task('pay 60'));
    return teller.say(
      reply(teller, {
        calls: [call('pay', { amount: 'sixty' }), call('pay', { amount: 61 }, 'c2')],
      }),
    );
  },
  delegates: async () => {
    const teller = await Teller.of({ agents: ['helper'] } as never);
    teller.say(task('help'));
    teller.say(reply(teller, { calls: [call('delegate', { agent: 'helper', input: 'x' })] }));
    teller.say(agentEnded(teller.one('startAgent'), 'completed'));
    teller.say(reply(teller, { calls: [call('delegate', { agent: 'helper', input: 'y' })] }));
    teller.say(agentEnded(teller.one('startAgent'), 'failed', 20_000));
    teller.say(reply(teller, { calls: [call('delegate', { agent: 'nobody', input: 'y' })] }));
    return teller.say(reply(teller, { content: 'done' }));
  },
  'delegates beside tools, beyond the limit of calls': async () => {
    const teller = await Teller.of({ agents: ['helper'], limits: { toolCallsMax: 5 } } as never);
    teller.say(task('help'));
    const calls = [call('delegate', { agent: 'helper', input: 'x' }), call('look', { a: 1 }, 'l1')];
    teller.say(reply(teller, { calls: [...calls, call('look', { a: 2 }, 'l2')] }));
    teller.say(returned(teller.pending('runTool')[0]!));
    teller.say(agentEnded(teller.one('startAgent'), 'completed'));
    teller.say(returned(teller.pending('runTool')[0]!));
    return teller.say(reply(teller, { content: 'done' }));
  },
  'ends while a child works': async () => {
    const teller = await Teller.of({ limits: { wallClockMs: 60_000 } } as never);
    teller.say(task('help'));
    teller.say(reply(teller, { calls: [call('delegate', { agent: 'helper', input: 'x' })] }));
    return teller.say({ kind: 'wake' }, 60_001);
  },
  'a child, halted by its parent': async () => {
    const teller = await Teller.of();
    const parent = { tenant: 'acme', session: 'boss-1', effect: 'boss-1_2_0' };
    teller.say(task('x', { parent, limits: { stepsMax: 2, tokensMax: 9_000 } } as never));
    teller.say(reply(teller, { calls: [call('look')] }));
    teller.say({ kind: 'halt', actor: 'boss-1', reason: 'the parent no longer waits' });
    return teller.say(returned('clerk-1_2_0'));
  },
  'goes in circles and fails': async () => {
    const teller = await Teller.of({ loop: { sameCallMax: 2, failuresMax: 2, verdict: 'fail' } });
    teller.say(task('x'));
    teller.say(reply(teller, { calls: [call('look', { a: 1 })] }));
    teller.say(returned(teller.one('runTool')));
    return teller.say(reply(teller, { calls: [call('look', { a: 1 }, 'again')] }));
  },
  'is stuck, escalates, goes on': async () => {
    const teller = await Teller.of({
      loop: { sameCallMax: 9, failuresMax: 1, verdict: 'escalate' },
    });
    teller.say(task('x'));
    teller.say(reply(teller, { calls: [call('look', { a: 1 })] }));
    teller.say(toolFailed(teller.one('runTool')));
    teller.say(decide(teller, 'approve'));
    teller.say(reply(teller, { calls: [call('look', { a: 2 })] }));
    teller.say(toolFailed(teller.one('runTool'), 'semantic'));
    return teller.say(decide(teller, 'reject'));
  },
  'answers that cannot be used': async () => {
    const teller = await Teller.of();
    teller.say(task('x'));
    teller.say(reply(teller, { content: ' ' }));
    teller.say(reply(teller, { content: 'half', finish: 'length' }));
    teller.say(reply(teller, { calls: [call('pay', '{')] }));
    teller.say(reply(teller, { calls: [call('nonesuch'), call('pay', '[1]', 'c2')] }));
    return teller.say(reply(teller, { calls: [call('pay', { amount: 'x', more: 1 })] }));
  },
  compacts: async () => {
    const teller = await Teller.of({ contextTokensMax: 1_000 });
    teller.say(task('x'));
    const usage = { promptTokens: 900, completionTokens: 200, cachedTokens: 100 };
    const less = { ...usage, promptTokens: 500 };
    teller.say(reply(teller, { calls: [call('look', { a: 1 })], usage: less }));
    teller.say(returned(teller.one('runTool')));
    teller.say(reply(teller, { calls: [call('look', { a: 2 })], usage }));
    teller.say(returned(teller.one('runTool')));
    teller.say(reply(teller, { content: 'a summary', usage }));
    return teller.say(reply(teller, { content: 'done' }));
  },
  'paused with a result on its way': async () => {
    const teller = await Teller.of();
    teller.say(task('x'));
    teller.say(reply(teller, { calls: [call('look', { a: 1 })] }));
    teller.say({ kind: 'pause', ...by });
    teller.say(returned(teller.one('runTool')), 5_000);
    teller.say({ kind: 'resume', ...by }, 20_000);
    teller.say({ kind: 'pause', ...by });
    teller.say(reply(teller, { content: 'done' }));
    return teller.say({ kind: 'resume', actor: 'bob', reason: '' });
  },
  'is paused': async () => {
    const teller = await Teller.of();
    teller.say(task('x'));
    teller.say({ kind: 'pause', ...by });
    return teller.say(reply(teller, { content: 'kept for later' }));
  },
  'pauses for its model': async () => {
    const teller = await Teller.of({ onModelFailure: 'pause' });
    teller.say(task('x'));
    teller.say(modelFailed(teller.one('callModel'), 4));
    teller.say({ kind: 'resume', ...by }, 60_000);
    teller.say(modelFailed(teller.one('callModel'), 2));
    teller.say({ kind: 'resume', ...by }, 60_000);
    return teller.say(reply(teller, { content: 'at last', attempts: 3 }));
  },
  'fails for its model': async () => {
    const teller = await Teller.of();
    teller.say(task('x'));
    return teller.say(modelFailed(teller.one('callModel'), 4));
  },
  'halted with all kinds open': async () => {
    const teller = await Teller.of({ ...(guarded as object), agents: ['helper'] } as never);
    teller.say(task('x'));
    const calls = [
      call('look'),
      call('pay', { amount: 99 }),
      call('delegate', { agent: 'helper', input: '' }, 'd'),
    ];
    teller.say(reply(teller, { calls }));
    return teller.say({ kind: 'halt', ...by });
  },
  'keyed: three tasks, one repeated, one beside the work': async () => {
    const teller = await Teller.of();
    teller.say(keyed('t1'));
    teller.say(keyed('t2'));
    teller.say(keyed('t1'));
    teller.say(reply(teller, { content: 'one' }));
    teller.say(reply(teller, { calls: [call('look')] }));
    teller.say(keyed('t3'));
    teller.say(returned(teller.one('runTool')));
    teller.say(reply(teller, { content: 'two' }));
    teller.say(reply(teller, { content: 'three' }));
    return teller.say(keyed('t2'), 99_999);
  },
  'keyed: a task fails, the next goes on; limits of each': async () => {
    const teller = await Teller.of({ limits: { stepsMax: 2 } } as never);
    teller.say(task('a', { isKeyed: true, task: 'a' as never, limits: { stepsMax: 1 } }));
    teller.say(keyed('b'));
    teller.say(reply(teller, { calls: [call('look')] }));
    teller.say(returned(teller.one('runTool')));
    return teller.say(reply(teller, { content: 'b is done' }));
  },
  'keyed: halted with tasks that wait': async () => {
    const teller = await Teller.of();
    for (const id of ['a', 'b', 'c']) teller.say(keyed(id));
    teller.say({ kind: 'pause', ...by });
    teller.say(keyed('d'));
    return teller.say({ kind: 'halt', ...by });
  },
  'keyed: halted, and a task that waited comes again': async () => {
    const teller = await Teller.of();
    for (const id of ['a', 'b']) teller.say(keyed(id));
    teller.say({ kind: 'halt', ...by });
    return teller.say(keyed('b'));
  },
  'pauses for its model, which told what its tries cost': async () => {
    const teller = await Teller.of({ onModelFailure: 'pause' } as never);
    teller.say(task('x'));
    const spent = { tokens: 40, costMicros: 4 };
    teller.say({ ...modelFailed(teller.one('callModel'), 2), spent } as Message);
    teller.say({ kind: 'resume', ...by });
    return teller.say(reply(teller, { content: 'done' }));
  },
  'two delegations that wait for a person': async () => {
    const teller = await Teller.of({
      agents: ['helper'],
      approvals: [{ tool: 'delegate' }],
    } as never);
    teller.say(task('x'));
    const calls = ['c1', 'c2'].map((id) => call('delegate', { agent: 'helper', input: 'y' }, id));
    teller.say(reply(teller, { calls }));
    for (const approval of teller.pending('askHuman'))
      teller.say({
        kind: 'approve',
        approval,
        hash: teller.hashOf(approval as never),
        ...by,
      } as never);
    return teller;
  },
  'keyed: more tasks than it keeps': async () => {
    const teller = await Teller.of();
    for (let index = 0; index < 36; index += 1) teller.say(keyed(`t${index}`));
    return teller;
  },
  'a limit of tokens': async () => {
    const teller = await Teller.of({ limits: { tokensMax: 3_000 } } as never);
    teller.say(task('x'));
    const usage = { promptTokens: 1_500, completionTokens: 500, cachedTokens: 0 };
    teller.say(reply(teller, { calls: [call('look')], usage }));
    return teller.say(returned(teller.one('runTool')));
  },
  'a limit of tool calls': async () => {
    const teller = await Teller.of({ limits: { toolCallsMax: 1 } } as never);
    teller.say(task('x'));
    return teller.say(reply(teller, { calls: [call('look'), call('look', { a: 1 }, 'c2')] }));
  },
  'usage above what was reserved': async () => {
    const teller = await Teller.of({ limits: { tokensMax: 20_000 } } as never);
    teller.say(task('x'));
    const usage = { promptTokens: 30_000, completionTokens: 5_000, cachedTokens: 0 };
    teller.say(reply(teller, { calls: [call('look')], usage }));
    return teller.say(returned(teller.one('runTool')));
  },
  'a tool misses its deadline': async () => {
    const teller = await Teller.of();
    teller.say(task('x'));
    teller.say(reply(teller, { calls: [call('look'), call('pay', { amount: 1 })] }));
    teller.say({ kind: 'wake' }, 600_000);
    return teller.say(reply(teller, { content: 'nobody knows' }));
  },
  'order: shipped': async () => {
    const teller = await Teller.of({ machine: 'order.machine.ts' }, orderTools);
    teller.say(task('{"order":"o1"}'));
    teller.say(returned(teller.one('runTool')));
    teller.say({ kind: 'wake' }, 2_000);
    const approval = teller.one('askHuman') as never;
    teller.say({ kind: 'approve', approval, hash: 'x', ...by });
    return teller.say(returned(teller.one('runTool')));
  },
  'order: waits for a person': async () => {
    const teller = await Teller.of({ machine: 'order.machine.ts' }, orderTools);
    teller.say(task('{"order":"o1"}'));
    teller.say(returned(teller.one('runTool')));
    return teller.say({ kind: 'wake' }, 2_000);
  },
  'order: undone, late, halted while it undoes': async () => {
    const teller = await Teller.of({ machine: 'order.machine.ts' }, orderTools);
    teller.say(task('{"order":"o1"}'));
    teller.say(returned(teller.one('runTool')));
    teller.say({ kind: 'wake' }, 2_000);
    teller.say({ kind: 'wake' }, 86_400_000 - 10_000);
    teller.say({ kind: 'reject', approval: teller.one('askHuman') as never, hash: '', ...by });
    return teller.say({ kind: 'halt', ...by });
  },
  'branches: all the way': async () => {
    const teller = await Teller.of({ machine: 'branches.machine.ts' });
    teller.say(task('anything'));
    teller.say(returned(teller.one('runTool'), { side: 'left' }));
    teller.say({ kind: 'pause', ...by });
    teller.say(agentEnded(teller.one('startAgent'), 'completed'), 30_000);
    teller.say({ kind: 'resume', ...by }, 90_000);
    teller.say(reply(teller, { content: 'thought' }));
    const first = teller.one('askHuman') as never;
    teller.say({ kind: 'approve', approval: first, hash: '', ...by, arguments: 'yes' });
    teller.say({ kind: 'wake' }, 5_000);
    return teller.say({
      kind: 'approve',
      approval: teller.one('askHuman') as never,
      hash: '',
      ...by,
    });
  },
  'branches: a child that is too late, a model that fails': async () => {
    const teller = await Teller.of({ machine: 'branches.machine.ts' });
    teller.say(task('anything'));
    teller.say({ kind: 'wake' }, 60_000);
    teller.say(toolFailed(teller.one('runTool'), 'unknown'));
    return teller.say(modelFailed(teller.one('callModel'), 3));
  },
  'listens: events, timers in their order, a child, a payment that fails': async () => {
    const teller = await Teller.of({ machine: 'listens.machine.ts' });
    teller.say(task('{}'));
    teller.say(heard('NOTE', 'e1'));
    teller.say([heard('NOTE', 'e1'), heard('OTHER', 'e2')]);
    teller.say({ kind: 'wake' }, 100);
    teller.say(returned(teller.one('runTool'), { n: 1 }));
    teller.say({ kind: 'wake' }, 500);
    teller.say(heard('PAID', 'e3', 'globex'));
    teller.say(heard('PAID', 'e3'));
    return teller.say(toolFailed(teller.one('runTool')));
  },
  'listens: paused with an event that waits, a child that is stopped': async () => {
    const teller = await Teller.of({ machine: 'listens.machine.ts' });
    teller.say(task('{}'));
    teller.say(heard('STOP', 'e1'));
    teller.say({ kind: 'pause', ...by });
    teller.say([heard('NOTE', 'e2'), heard('PAID', 'e3')]);
    teller.say({ kind: 'resume', ...by }, 5_000);
    return teller.say(returned(teller.one('runTool'), { paid: 5 }));
  },
  'too long, shortened once': async () => {
    const teller = await Teller.of({ contextTokensMax: 2_000 });
    teller.say(task('look at it'));
    teller.say(reply(teller, { calls: [call('look', { a: 1 })] }));
    teller.say(returned(teller.one('runTool'), { text: 'x'.repeat(9_000) }));
    teller.say(reply(teller, { content: 'The task, word for word: look at it' }));
    teller.say(modelFailed(teller.one('callModel'), 1, 'MODEL_CONTEXT_TOO_LONG'));
    teller.say(reply(teller, { content: 'a summary' }));
    return teller.say(modelFailed(teller.one('callModel'), 1, 'MODEL_CONTEXT_TOO_LONG'));
  },
  'branches: keyed, paused with a task that waits': async () => {
    const teller = await Teller.of({ machine: 'branches.machine.ts' });
    teller.say(keyed('t1'));
    teller.say({ kind: 'pause', ...by });
    teller.say([returned(teller.one('runTool')), keyed('t2')]);
    return teller.say({ kind: 'resume', ...by });
  },
  'a machine that stops its own invoke, and leaves another at once': async () => {
    const teller = await Teller.of({ machine: 'stops.machine.ts' });
    teller.say(task('{}'));
    teller.say(heard('SEE', 'e1'));
    teller.say(heard('STOP', 'e2'));
    teller.say(heard('SEE', 'e3'));
    teller.say(heard('NAME', 'e4'));
    teller.say(heard('AGAIN', 'e5'));
    teller.say(heard('SEE', 'e6'));
    return teller.say(heard('GO', 'e7'));
  },
  'fails: nobody handles the error': async () => {
    const teller = await Teller.of({ machine: 'fails.machine.ts' });
    teller.say(task('{}'));
    return teller.say(toolFailed(teller.one('runTool')));
  },
  'fails: misses its deadline': async () => {
    const teller = await Teller.of({ machine: 'fails.machine.ts' });
    teller.say(task('{}'));
    return teller.say({ kind: 'wake' }, 900_000);
  },
};

/** Forty random walks over everything that an agent can hear (seeded, mulberry32). */
async function walk(seed: number): Promise<Teller> {
  let state = seed;
  const random = (count: number): number => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % count;
  };
  const limits = { stepsMax: 9, toolCallsMax: 14, tokensMax: 30_000, costMicrosMax: 60_000 };
  const isKeyed = seed % 3 === 0;
  const teller = await Teller.of({
    ...(guarded as object),
    agents: ['helper'],
    limits: { ...limits, wallClockMs: 3_600_000 },
    onModelFailure: seed % 2 ? 'pause' : 'fail',
    loop: { sameCallMax: 4, failuresMax: 3, verdict: seed % 4 ? 'fail' : 'escalate' },
  } as never);
  const some = (kind: string) => {
    const ids = teller.pending(kind);
    return ids[random(Math.max(1, ids.length))];
  };
  teller.say(isKeyed ? keyed('t0') : task('begin'));
  for (let move = 0; move < 26; move += 1) {
    const [model, tool, child, person] = ['callModel', 'runTool', 'startAgent', 'askHuman'].map(
      some,
    );
    const kind = random(16);
    if (kind < 5 && model) {
      const names = ['look', 'pay', 'pay', 'delegate', 'nonesuch'] as const;
      const calls = Array.from({ length: 1 + random(3) }, (_, index) => {
        const name = names[random(names.length)]!;
        const args =
          name === 'delegate' ? { agent: 'helper', input: 'x' } : { amount: random(100) };
        return call(name, args, `c${move}-${index}`);
      });
      teller.say(replied(model, { calls }));
    } else if (kind === 5 && model) teller.say(replied(model, { content: 'done' }));
    else if (kind === 6 && model) teller.say(modelFailed(model, 1 + random(4)));
    else if (kind < 10 && tool) teller.say(returned(tool, { n: random(1_000) }));
    else if (kind === 10 && tool) teller.say(toolFailed(tool, random(2) ? 'unknown' : 'permanent'));
    else if (kind === 11 && child)
      teller.say(agentEnded(child, random(2) ? 'completed' : 'failed'));
    else if (kind === 12 && person) teller.say(decide(teller, random(3) ? 'approve' : 'reject'));
    else if (kind === 13)
      teller.say({ kind: random(2) ? 'pause' : 'resume', ...by }, random(9_000));
    else if (kind === 14) teller.say({ kind: 'wake' }, random(40_000));
    else if (kind === 15 && isKeyed) teller.say(keyed(`t${random(6)}`));
    else if (kind === 15 && random(4) === 0) teller.say({ kind: 'halt', ...by });
  }
  return teller;
}

/** Baselines as ARCHIVE holds them, base64: of each story its whole past, in one or in two. */
async function baselinesOf(all: readonly Story[]): Promise<object[]> {
  const kept: { subject: string; body: string }[] = [];
  const archive = natsArchive({
    subjects: { archive: (shard: number, session: string) => `archive.${shard}.${session}` },
    streams: {},
    publisher: {
      publish: async (subject: string, body: Uint8Array) => {
        kept.push({ subject, body: Buffer.from(body).toString('base64') });
      },
    },
  } as never);
  const baselines: object[] = [];
  for (const { name, record, mail } of all) {
    const heard = mail.flatMap(({ sequence, at, text }) => {
      const parsed = JSON.parse(text) as { message: unknown } | { message: unknown }[];
      return (Array.isArray(parsed) ? parsed : [parsed]).map(({ message }, index) =>
        JSON.stringify({ message, at, position: { incarnation: 0, sequence, index } }),
      );
    });
    await archive.append(0 as ShardId, record as never, heard);
    baselines.push({ story: name, ...kept.splice(0)[0] });
  }
  return baselines;
}

const folder = join(import.meta.dirname, `behaviour-${Number(process.argv[2])}`);
mkdirSync(folder, { recursive: true });
function write(file: string, content: unknown): void {
  const path = join(folder, file);
  if (existsSync(path)) return void process.stdout.write(`${path} is there, and stays\n`);
  writeFileSync(path, `${JSON.stringify(content, undefined, 1)}\n`);
  process.stdout.write(`${path}\n`);
}
const told: Story[] = [];
for (const [name, tell] of Object.entries(stories)) told.push(await (await tell()).end(name));
write('stories.json', told);
const walks = Array.from({ length: 40 }, async (_, index) =>
  (await walk(1_000 + index)).end(`walk ${index}`, false),
);
write('walks.json', await Promise.all(walks));
write('baselines.json', await baselinesOf(told));
