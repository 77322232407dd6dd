/** The eleven invariants of docs/architecture.md, section 9. Pure: a history in, verdicts out, each with the ids that break it. */

import type { UnderstudyEvent } from '../../services/core/wire/cloud-event.ts';
import { isEndEvent } from '../../services/core/wire/event-end.ts';
import { distinct, type History, kindOf } from './history.ts';

export interface Verdict {
  readonly number: number;
  readonly what: string;
  readonly result: 'holds' | 'broken' | 'not judged';
  /** Ids, each with what is wrong with it. */
  readonly broken: readonly string[];
  readonly note?: string;
}

type Judge = (history: History) => { broken: string[]; note?: string; isJudged?: boolean };

const countBy = (names: Iterable<string>): Map<string, number> => {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return counts;
};

/** Effects that sessions asked for: id → tool and session. */
function requested(
  events: readonly UnderstudyEvent[],
): Map<string, { tool: string; session: string }> {
  const asked = new Map<string, { tool: string; session: string }>();
  for (const { data } of events) {
    for (const { id, kind, what } of data.effects)
      if (kind === 'runTool' && id)
        asked.set(id, { tool: (what ?? '').replace(/ \(.*$/, ''), session: data.session });
  }
  return asked;
}

/** How each effect came out, as its session heard it. */
function outcomes(events: readonly UnderstudyEvent[]): Map<string, string> {
  const heard = new Map<string, string>();
  for (const event of events) {
    const { effect, outcome } = event.data.details as { effect?: string; outcome?: string };
    if (effect && outcome && (kindOf(event) === 'tool-returned' || kindOf(event) === 'tool-failed'))
      heard.set(effect, outcome);
  }
  return heard;
}

const isLetter = (event: UnderstudyEvent): boolean => kindOf(event) === 'dead-lettered';

const accounted: Judge = ({ accepted, events, dead, live }) => {
  const broken: string[] = [];
  // As they are stored: an end that is stored twice under one id ended its task twice.
  const ends = countBy(
    events.filter((event) => isEndEvent(event) && !isLetter(event)).map(({ data }) => data.task),
  );
  const letters = countBy(dead.flatMap(({ task }) => task ?? []));
  const living = new Set(live.map(({ task }) => task));
  for (const { task } of accepted) {
    const ended = ends.get(task) ?? 0;
    const letterCount = letters.get(task) ?? 0;
    if (ended > 1) broken.push(`${task}: ended ${ended} times`);
    else if (letterCount > 1) broken.push(`${task}: ${letterCount} dead letters`);
    else if (ended + letterCount > 1) broken.push(`${task}: ended, and is a dead letter`);
    else if (ended === 1 && living.has(task))
      broken.push(`${task}: ended, and a session still has it`);
    else if (ended + letterCount === 0 && !living.has(task))
      broken.push(`${task}: lost: it did not end, is no dead letter, and no session has it`);
  }
  return { broken };
};

/** What only reads may be done again. */
const consequential = ({ world, classes }: Pick<History, 'world' | 'classes'>) =>
  world.effects.filter(({ tool }) => classes[tool] !== 'pure');

const neverTwice: Judge = ({ events, world, classes }) => {
  const broken: string[] = [];
  const asked = requested(events);
  const heard = outcomes(events);
  const effects = consequential({ world, classes });
  const counts = countBy(effects.map(({ key }) => key));
  for (const [key, count] of counts)
    if (count > 1) broken.push(`${key}: took effect ${count} times`);
  for (const { key, tool, session } of effects) {
    const want = asked.get(key);
    if (!want) broken.push(`${key}: ${tool} took effect, and no committed step asked for it`);
    else if (want.session !== session || want.tool !== tool)
      broken.push(
        `${key}: ${tool} of ${session} took effect, and ${want.tool} of ${want.session} was asked for`,
      );
  }
  let unknown = 0;
  for (const [effect, outcome] of heard) {
    const tool = asked.get(effect)?.tool ?? '';
    if (outcome === 'unknown') unknown += 1;
    if (
      outcome === 'ok' &&
      classes[tool] !== undefined &&
      classes[tool] !== 'pure' &&
      !counts.has(effect)
    )
      broken.push(
        `${effect}: ${tool} was said to be done, and the outside world knows nothing of it`,
      );
  }
  return { broken, note: `${effects.length} effects, ${unknown} unknown` };
};

const versions: Judge = ({ events, isZombieExpected, metrics }) => {
  const broken: string[] = [];
  const bySession = new Map<string, Set<number>>();
  for (const event of events)
    if (!isEndEvent(event))
      bySession.set(
        event.data.session,
        (bySession.get(event.data.session) ?? new Set()).add(event.data.version),
      );
  for (const [session, found] of bySession) {
    const last = Math.max(...found);
    if (found.size !== last) broken.push(`${session}: ${found.size} steps are told of ${last}`);
  }
  // The same step told twice must be the same step.
  const told = new Map<string, string>();
  for (const event of events) {
    const text = `${event.type} ${event.data.from} ${event.data.to}`;
    const before = told.get(event.id);
    if (before !== undefined && before !== text)
      broken.push(`${event.id}: told as "${before}" and as "${text}"`);
    told.set(event.id, text);
  }
  if (isZombieExpected && metrics.refusedZombies === 0)
    broken.push('no write of a zombie was refused: the run proved nothing');
  return { broken, note: `${metrics.refusedZombies} zombie writes refused` };
};

const folds: Judge = ({ verified }) => ({
  broken: verified
    .filter(({ isEqual }) => !isEqual)
    .map(
      ({ session, refusal }) =>
        `${session}: ${refusal ?? 'the fold of its mailbox is not what is stored'}`,
    ),
  note: `${verified.length} sessions folded`,
  isJudged: verified.length > 0,
});

const budgets: Judge = ({ events, limits }) => {
  const broken: string[] = [];
  let judged = 0;
  for (const event of events) {
    const { spent, agent, session } = event.data;
    const most = limits[agent];
    if (!spent || !most) continue;
    judged += 1;
    for (const [what, used, max] of [
      ['steps', spent.steps, most.stepsMax],
      ['tool calls', spent.toolCalls, most.toolCallsMax],
      ['tokens', spent.tokens, most.tokensMax],
      ['micro-dollars', spent.costMicros, most.costMicrosMax],
    ] as const) {
      if (used > max) broken.push(`${session}: spent ${used} ${what} of ${max}`);
    }
  }
  return { broken, isJudged: judged > 0, note: `${judged} ends` };
};

const atRest: Judge = ({ store }) => ({
  broken: [
    ...(store.outbox > 0 ? [`${store.outbox} outbox entries are not settled`] : []),
    ...store.overdue.map((session) => `${session}: a timer is overdue`),
    ...store.orphans.map((shard) => `shard ${shard} has no owner`),
  ],
});

const tenants: Judge = ({ events, live, world }) => {
  const broken = world.leaks.map((marks) => `a prompt held the marks of two tenants: ${marks}`);
  const tenantOf = new Map(events.map(({ data }) => [data.session, data.tenant]));
  for (const { data, source } of events)
    if (source.split('/')[1] !== data.tenant)
      broken.push(`${data.session}: an event of ${data.tenant} came from ${source}`);
  for (const { session, tenant, shard, shardByHash } of live) {
    if (shard !== shardByHash)
      broken.push(
        `${session}: lies in shard ${shard}, and its tenant ${tenant} puts it in ${shardByHash}`,
      );
  }
  for (const { session, tenant, tool } of world.calls) {
    const owner = tenantOf.get(session);
    if (owner !== undefined && owner !== tenant)
      broken.push(`${session}: ${tool} was called for ${tenant}, and the session is of ${owner}`);
  }
  return { broken };
};

const approved: Judge = ({ events, world, guarded }) => {
  const approvals = new Set<string>();
  for (const event of events) if (kindOf(event) === 'approved') approvals.add(event.data.session);
  return {
    broken: world.effects
      .filter(({ tool, session }) => guarded.includes(tool) && !approvals.has(session))
      .map(({ key, tool }) => `${key}: ${tool} took effect without an approval`),
    isJudged: guarded.length > 0,
  };
};

const inTime: Judge = ({ accepted, events, live, dead, faults, endedAt, boundMs }) => {
  const healedAt = Math.max(0, ...faults.map((fault) => fault.healedAt));
  if (faults.length === 0) return { broken: [], isJudged: false };
  const done = new Set([
    ...events.filter(isEndEvent).map(({ data }) => data.task),
    ...dead.map(({ task }) => task),
  ]);
  const waiting = new Set(
    live
      .filter(({ waitsFor, status }) => status !== 'active' || waitsFor.includes('askHuman'))
      .map(({ task }) => task),
  );
  const open = accepted.filter(({ task }) => !done.has(task) && !waiting.has(task));
  const tookMs = endedAt - healedAt;
  return {
    broken: [
      ...open.map(({ task }) => `${task}: still running ${tookMs} ms after the last fault healed`),
      ...(open.length === 0 && tookMs > boundMs
        ? [
            `all work was done only ${tookMs} ms after the last fault healed; the bound is ${boundMs}`,
          ]
        : []),
    ],
  };
};

const counters: Judge = ({ metrics }) => {
  const steps = metrics.stepsTold;
  if (!metrics.isComplete)
    return {
      broken: [],
      isJudged: false,
      note: `a runtime was ended or cut off, and its counters with it (${metrics.stepsCommitted} counted, ${steps} told)`,
    };
  return {
    broken:
      steps === metrics.stepsCommitted
        ? []
        : [`${metrics.stepsCommitted} steps are counted, ${steps} are told`],
    note: `${steps} steps`,
  };
};

const didSomething: Judge = ({ accepted, faults, events }) => ({
  broken: [
    ...(accepted.length === 0 ? ['no task was accepted: there was nothing to break'] : []),
    ...(events.length === 0 ? ['nothing happened'] : []),
    ...faults
      .filter(({ isObserved }) => !isObserved)
      .map(({ name }) => `${name}: planned, and nobody saw it happen`),
  ],
  note: `${faults.length} faults`,
});

const judges: readonly (readonly [string, Judge])[] = [
  ['every accepted task ends exactly once, or is visibly waiting or running', accounted],
  ['no effect happens twice, none is invented, what is said to be done is done', neverTwice],
  ['versions have no gap, and no zombie wrote', versions],
  ['folding the mailbox gives the stored state', folds],
  ['nothing is spent beyond its limit', budgets],
  ['at rest the outbox is empty, no timer is overdue, every shard has an owner', atRest],
  ['nothing of one tenant is found at another', tenants],
  ['no guarded effect without an approval', approved],
  ['after the last fault healed, all work finished within the bound', inTime],
  ['the counters say what happened', counters],
  ['every planned fault was seen, and there was work to disturb', didSomething],
];

export function judge(history: History): Verdict[] {
  const once = { ...history, events: distinct(history.events) };
  return judges.map(([what, decide], index) => {
    // Repeats are only of interest to those that compare or count them.
    const isForAll = decide === versions || decide === accounted;
    const { broken, note, isJudged = true } = decide(isForAll ? history : once);
    return {
      number: index + 1,
      what,
      result: broken.length > 0 ? 'broken' : isJudged ? 'holds' : 'not judged',
      broken,
      ...(note ? { note } : {}),
    };
  });
}

export interface Score {
  readonly started: number;
  readonly completed: number;
  readonly failed: number;
  readonly waiting: number;
  readonly deadLettered: number;
  readonly lost: number;
  readonly doubled: number;
  readonly unknown: number;
  readonly refusedZombies: number;
  /** From a fault to the next step of each session that was at work then, ms. */
  readonly resumeP50Ms: number;
  readonly resumeP99Ms: number;
  /** From the last fault healed until all was done, ms. */
  readonly drainMs: number;
}

export function scoreOf(history: History): Score {
  const events = distinct(history.events);
  const ends = events.filter(isEndEvent);
  const of = (kind: string) => ends.filter((event) => kindOf(event) === kind).length;
  const counts = countBy(consequential(history).map(({ key }) => key));
  const resumes = history.faults
    .flatMap(({ at }) => resumesAfter(events, at))
    .sort((left, right) => left - right);
  const percentile = (part: number) =>
    Math.round(resumes[Math.min(resumes.length - 1, Math.floor(resumes.length * part))] ?? 0);
  return {
    started: history.accepted.length,
    completed: of('completed'),
    failed: of('failed') + of('halted'),
    waiting: history.live.length,
    deadLettered: history.dead.length,
    lost: accounted({ ...history, events }).broken.filter((text) => text.includes(': lost:'))
      .length,
    doubled: [...counts.values()].filter((count) => count > 1).length,
    unknown: [...outcomes(events).values()].filter((outcome) => outcome === 'unknown').length,
    refusedZombies: history.metrics.refusedZombies,
    resumeP50Ms: percentile(0.5),
    resumeP99Ms: percentile(0.99),
    drainMs:
      history.faults.length === 0
        ? 0
        : Math.max(
            0,
            history.endedAt - Math.max(0, ...history.faults.map(({ healedAt }) => healedAt)),
          ),
  };
}

/** Of each session that was at work when the fault came: how long until its next step. */
function resumesAfter(events: readonly UnderstudyEvent[], at: number): number[] {
  const bySession = new Map<string, number[]>();
  for (const event of events)
    if (!isEndEvent(event))
      bySession.set(event.data.session, [
        ...(bySession.get(event.data.session) ?? []),
        Date.parse(event.time),
      ]);
  return [...bySession.values()].flatMap((times) => {
    const next = times.filter((time) => time > at).sort((left, right) => left - right)[0];
    return next !== undefined && times.some((time) => time <= at) ? [next - at] : [];
  });
}
