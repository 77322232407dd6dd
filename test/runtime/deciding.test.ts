/** Operators who act at the same time: each is told what became of it. */
import { afterEach, describe, expect, test, vi } from 'vitest';
import { parseSpecs } from '../../services/adapters/files/spec-parser.ts';
import { systemClock } from '../../services/adapters/observability/clock.ts';
import { currentBehaviour } from '../../services/core/session/behaviour.ts';
import type { SpecDocument } from '../../services/core/session/specs.ts';
import { catalogOf } from '../../services/core/session/specs.ts';
import type { ApprovalSummary } from '../../services/core/session/summary.ts';
import { startInMemory } from '../../services/local/in-memory.ts';
import type { ControlAnswer } from '../../services/ports/control.ts';
import { eventually } from '../support/eventually.ts';

const yaml = `
apiVersion: understudy.dev/v1
kind: Agent
metadata: { name: desk }
spec: { model: first, tools: [echo], approvals: [{ tool: echo }] }
---
apiVersion: understudy.dev/v1
kind: Tool
metadata: { name: echo }
spec: { description: echo, class: pure, input: { type: object }, run: { kind: builtin, name: echo } }
---
apiVersion: understudy.dev/v1
kind: Model
metadata: { name: first }
spec: { model: a, price: { inputMicrosPerMillion: 10, outputMicrosPerMillion: 10 } }
---
apiVersion: understudy.dev/v1
kind: Tenant
metadata: { name: acme }
spec: {}
`;
const call = { id: 'c', name: 'echo', arguments: '{"n":1}' };

let running: Awaited<ReturnType<typeof startInMemory>> | undefined;
afterEach(async () => {
  await running?.stop();
  running = undefined;
});

/** @param behaviour  of the session's bundle */
async function waitingSession(behaviour = currentBehaviour) {
  const documents = parseSpecs(yaml, 'a.yaml').map(({ document }) => ({
    document: document as SpecDocument,
    file: 'a.yaml',
  }));
  const { catalog, problems } = catalogOf(documents);
  const agents = new Map(
    [...catalog.agents].map(([name, { bundle, revision }]) => [
      name,
      { revision, bundle: { ...bundle, behaviour } },
    ]),
  );
  const loaded = {
    catalog: { ...catalog, agents },
    problems,
    lastGood: new Set<string>(),
    unsure: { names: new Set<string>(), isAny: false },
  };
  running = await startInMemory({
    specs: ['.'],
    model: {
      complete: async (_spec, { entries }) => {
        const isLast = entries.some(({ role }) => role === 'tool');
        return {
          ok: true,
          value: {
            content: isLast ? 'done' : '',
            calls: isLast ? [] : [call],
            finish: isLast ? 'stop' : 'tool_calls',
            usage: { promptTokens: 10, completionTokens: 5, cachedTokens: 0 },
            model: 'x',
            latencyMs: 1,
          },
        };
      },
    },
    clock: systemClock,
    shards: 1,
    documents: { load: async () => loaded, follow: () => ({ stop: () => undefined }) },
  });
  const { control, tasks, mailbox } = running;
  const ask = (verb: string, body: object) => control.ask(verb, body, 5_000);
  await tasks.publish('acme', 'desk', '{"input":"x"}', { 'Understudy-Task': 't' });
  const approval = await eventually(async () => {
    const answer = await ask('approvals', {});
    return answer.ok ? (answer.value as ApprovalSummary[])[0] : undefined;
  });
  const { session, hash } = approval;
  return {
    mailbox,
    approval,
    approve: (actor: string, reason = '') => ask('approve', { session, actor, hash, reason }),
    reject: (actor: string, reason = '') => ask('reject', { session, actor, reason }),
    act: (verb: 'pause' | 'resume' | 'halt', actor = 'ann') => ask(verb, { session, actor }),
    inspect: async () => {
      const answer = await ask('inspect', { session });
      return (answer as { value: { record: { decisions: object[] } } }).value.record;
    },
  };
}

const codeOf = (answer: ControlAnswer) => (answer.ok ? 'ok' : answer.code);
const messageOf = (answer: ControlAnswer) => (answer.ok ? '' : answer.message);

describe.each([1, 2])('an approval of a session of behaviour %i', (behaviour) => {
  test('is decided once; whoever came second is told by whom', async () => {
    const { approve, reject } = await waitingSession(behaviour);
    const [approved, rejected] = await Promise.all([approve('ann'), reject('bob', 'fraud')]);
    expect([codeOf(approved), codeOf(rejected)]).toEqual(['ok', 'APPROVAL_DECIDED']);
    expect(messageOf(rejected)).toMatch(/first by ann, who approved it/);
  });
});

test('two approvals by two persons count once, and the record names who is told so', async () => {
  const { approve, inspect } = await waitingSession();
  const [ann, bob] = await Promise.all([approve('ann'), approve('bob')]);
  expect([codeOf(ann), codeOf(bob)]).toEqual(['ok', 'APPROVAL_DECIDED']);
  expect((await inspect()).decisions).toMatchObject([{ decision: 'approve', actor: 'ann' }]);
});

test('a paused session keeps the first decision, and the second is refused', async () => {
  const { approve, reject, act } = await waitingSession();
  await act('pause');
  const [rejected, approved] = await Promise.all([reject('bob', 'fraud'), approve('ann')]);
  expect([codeOf(rejected), codeOf(approved)]).toEqual(['ok', 'APPROVAL_DECIDED']);
  expect(messageOf(approved)).toMatch(/bob, who rejected it: fraud/);
});

test('an approval that a halt closed first is told as closed', async () => {
  const { approve, act } = await waitingSession();
  const [halted, approved] = await Promise.all([act('halt'), approve('bob')]);
  expect([codeOf(halted), codeOf(approved)]).toEqual(['ok', 'APPROVAL_UNKNOWN']);
  expect(messageOf(approved)).toMatch(/the session is halted now \(halted by ann\)/);
});

test('of a pause and a halt at once the pause is told that the session is halted', async () => {
  const { act } = await waitingSession();
  const [halted, paused] = await Promise.all([act('halt'), act('pause', 'bob')]);
  expect([codeOf(halted), codeOf(paused)]).toEqual(['ok', 'NOT_NOW']);
  expect(messageOf(paused)).toMatch(/is halted now \(halted by ann\)/);
});

test('of a halt and a resume at once the resume is told that the session is halted', async () => {
  const { act } = await waitingSession();
  await act('pause');
  const [halted, resumed] = await Promise.all([act('halt'), act('resume', 'bob')]);
  expect([codeOf(halted), codeOf(resumed)]).toEqual(['ok', 'NOT_NOW']);
});

test.each(['reject', 'halt'] as const)(
  'a %s that its session does not hear within 3 s is told as not heard yet',
  async (verb) => {
    const { reject, act, mailbox } = await waitingSession();
    const silent = vi.spyOn(mailbox, 'deliver').mockResolvedValue(undefined);
    const answered = verb === 'reject' ? await reject('ann') : await act(verb);
    silent.mockRestore();
    expect(codeOf(answered)).toBe('NOT_HEARD_YET');
  },
);
