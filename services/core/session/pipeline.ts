/**
 * A user's own XState machine as a durable session.
 *
 * `invoke: { src: 'model' | 'tool' | 'agent' | 'human', input }` becomes an effect, its answer comes back
 * as `onDone` or `onError`; `after` becomes a durable timer. Anything else a machine can do stays what it
 * is in XState, and what cannot be made durable (spawned actors, inline logic) is refused by name.
 */

import type { AnyMachineSnapshot } from 'xstate';
import { z } from 'zod';
import { issuesOf, Refused } from '../errors.ts';
import type { AgentName, Revision } from '../ids.ts';
import { sessionIdOf } from '../ids.ts';
import { canonicalText, storable } from '../json.ts';
import { own } from '../keyed.ts';
import { limits } from '../limits.ts';
import { performedWithinMs } from '../tools/tool-spec.ts';
import { approvalHash } from './approvals.ts';
import { behaviourOf } from './behaviour.ts';
import type { PendingEffect, ToldEffect } from './effects.ts';
import { agentInput, humanInput, modelInput, toolInput } from './invoke-inputs.ts';
import { type Acted, readActions, type Spawned } from './machine-actions.ts';
import {
  heardIn,
  historyOf,
  invokable,
  liveInvokes,
  type MachineAction,
  nodesIn,
  type Transitioned,
} from './machine-host.ts';
import { exactly, type Forms, InvokeError } from './machine-state.ts';
import { invokedBy, isInvokable, sourceName } from './machine-walk.ts';
import { askedWithinMs } from './model-call.ts';
import { nextId, type Surroundings } from './plan.ts';
import type { PendingNote, SessionRecord } from './record.ts';
import type { Bundle } from './specs.ts';

export interface PipelineStep {
  readonly value: unknown;
  readonly context: Record<string, unknown>;
  readonly history: SessionRecord['history'];
  readonly status: 'active' | 'completed' | 'failed';
  readonly output: unknown;
  readonly reason?: string | undefined;
  readonly started: readonly { readonly effect: PendingEffect; readonly note: PendingNote }[];
  readonly cancelled: readonly string[];
  readonly timers: Readonly<SessionRecord['timers']>;
  readonly forms?: Forms | undefined;
  readonly children?: readonly string[] | undefined;
  /** Invokes of its states whose children it has stopped. */
  readonly stopped?: readonly string[] | undefined;
  readonly hears?: readonly string[] | undefined;
  readonly nodes?: readonly string[] | undefined;
  readonly told: readonly ToldEffect[];
  readonly snapshot: AnyMachineSnapshot;
}

interface Before {
  readonly pending: SessionRecord['pending'];
  readonly timers: SessionRecord['timers'];
  readonly children?: readonly string[] | undefined;
  readonly stopped?: readonly string[] | undefined;
}

/** Read what a transition did, and turn what it wants into effects and timers. */
export function readTransition(
  moved: Transitioned,
  before: Before,
  around: Surroundings,
): PipelineStep {
  const { snapshot, refusal } = moved;
  if (refusal) throw refusal;
  const isActive = snapshot.status === 'active';
  const invokes = isActive ? liveInvokes(snapshot) : new Set<string>();
  const acted = actedIn(moved, before, around);
  const alive = new Set(isActive ? [...invokes, ...acted.children] : []);
  const cancelled = Object.entries(before.pending)
    .filter(([, { invoke }]) => invoke !== undefined)
    .filter(
      ([, { invoke }]) =>
        !alive.has(invoke!) || acted.spawned.has(invoke!) || acted.stopped.has(invoke!),
    )
    .map(([id]) => id);
  const started = [...acted.spawned]
    .filter(([invoke]) => alive.has(invoke))
    .map(([invoke, { src, input }]) => effectOf(invoke, src, input, around));
  const status = isActive ? 'active' : snapshot.status === 'done' ? 'completed' : 'failed';
  const left = isActive ? acted.timers : {};
  const { context, output } = snapshot as { context: Record<string, unknown>; output: unknown };
  return {
    value: snapshot.value,
    history: historyOf(snapshot),
    status,
    ...(status === 'failed'
      ? { reason: `MACHINE_ERROR: ${reasonOf(snapshot.error)}${placeOf(snapshot)}` }
      : {}),
    cancelled,
    snapshot,
    told: acted.told,
    ...(isActive && acted.children.length > 0 ? { children: acted.children } : {}),
    ...(isActive && behaviourOf(around.bundle) >= 5
      ? { stopped: stoppedIn(acted, before.stopped, invokes) }
      : {}),
    ...(isActive && behaviourOf(around.bundle) >= 4
      ? { hears: heardIn(snapshot), nodes: nodesIn(snapshot) }
      : {}),
    ...asStored({ context, output, timers: left, started }, around),
  };
}

/** Invokes whose children stay stopped: their states go on, and have not begun them anew. */
const stoppedIn = (
  { stopped, spawned }: Acted,
  before: readonly string[] = [],
  invokes: ReadonlySet<string>,
): string[] =>
  [...new Set([...before, ...stopped])].filter((id) => invokes.has(id) && !spawned.has(id));

/** What the machine did besides moving. Before behaviour 4 what could not be performed went by. */
function actedIn({ actions, snapshot }: Transitioned, before: Before, around: Surroundings): Acted {
  if (behaviourOf(around.bundle) < 4) return actedBefore(actions, before, around);
  const invokes = snapshot.status === 'active' ? liveInvokes(snapshot) : new Set<string>();
  const { timers, children = [], pending } = before;
  return readActions(actions, { timers, children, pending }, around.at, {
    invokes,
    isInvoked: invokedBy(snapshot.machine),
    behaviour: behaviourOf(around.bundle),
  });
}

function actedBefore(
  actions: readonly MachineAction[],
  before: Before,
  around: Surroundings,
): Acted {
  const timers = { ...before.timers };
  const spawned = new Map<string, Spawned>();
  for (const action of actions) {
    if (action.type === 'xstate.spawnChild') {
      const { id, src, input } = action.params as { id: string; src: unknown; input: unknown };
      if (!isInvokable(src)) {
        throw new Refused(
          'MACHINE_UNSUPPORTED',
          `invoke ${id} has the source ${sourceName(src)}; a durable machine invokes ${invokable.join(', ')} only`,
        );
      }
      spawned.set(id, { src: src as string, input });
    } else if (action.type === 'xstate.raise') {
      const { event, id, delay } = action.params as {
        event: { type: string };
        id?: string;
        delay?: number;
      };
      if (delay !== undefined && !Number.isFinite(delay)) {
        throw new Refused(
          'MACHINE_UNSUPPORTED',
          `the delay of ${id ?? event.type} is ${String(delay)}, which is no number of milliseconds`,
        );
      }
      if (delay !== undefined) timers[id ?? event.type] = { dueAt: around.at + delay, event };
    } else if (action.type === 'xstate.cancel') {
      const { params } = action as { params: string | { sendId?: string } };
      // Before behaviour 3 no timer was cancelled: XState names it in an object.
      const id = typeof params === 'string' ? params : params.sendId;
      if (id !== undefined && (typeof params === 'string' || behaviourOf(around.bundle) >= 3))
        delete timers[id];
    }
  }
  return { timers, spawned, children: [], stopped: new Set(), told: [] };
}

/** Where it stood when it failed; empty for one that could not begin. */
function placeOf(snapshot: AnyMachineSnapshot): string {
  const nodes = nodesIn(snapshot) ?? [];
  return nodes.length === 0 ? '' : ` (in state ${JSON.stringify(snapshot.value).slice(0, 300)})`;
}

/** A machine may throw whatever it likes. */
function reasonOf(error: unknown): string {
  if (error instanceof InvokeError) return `${error.code}: ${error.message}`.slice(0, 2_000);
  if (error instanceof Error) return String(error.message).slice(0, 2_000);
  return storable(error ?? 'unknown', 'the error of the machine', false).slice(0, 2_000);
}

type Held = Pick<PipelineStep, 'context' | 'output' | 'timers' | 'started' | 'forms'>;

/**
 * What a machine holds goes into one commit with the work of others: it is written here, once, and
 * only what was written goes on. Values of users run their code when they are written, may come
 * out differently the next time, and may be changed behind our back.
 *
 * @throws Refused (STATE_UNWRITABLE, STATE_TOO_LARGE) for what cannot be stored
 */
function asStored({ context, output, timers, started }: Held, { bundle }: Surroundings): Held {
  if (behaviourOf(bundle) >= 4) return exactlyStored({ context, output, timers, started });
  const isExact = behaviourOf(bundle) >= 2;
  const text = storable(context, 'the context of the machine', isExact);
  if (!text.startsWith('{')) {
    throw new Refused('STATE_UNWRITABLE', 'the context of the machine is not a JSON object');
  }
  const written = <Value>(value: Value, what: string): Value =>
    JSON.parse(storable(value, what, isExact)) as Value;
  const held = {
    context: JSON.parse(text) as Held['context'],
    output: output === undefined ? undefined : written(output, 'the output of the machine'),
    timers: written(timers, 'a timer of the machine'),
    started: started.map(({ effect, note }) => {
      const body = storable(effect, `the input of ${note.invoke}`, isExact);
      mustFitMessage(note, body);
      return { effect: JSON.parse(body) as PendingEffect, note };
    }),
  };
  const bytes = Buffer.byteLength(text);
  if (isExact && bytes > limits.contextBytesMax) {
    throw new Refused(
      'STATE_TOO_LARGE',
      `the context of the machine has ${bytes} bytes; ${limits.contextBytesMax} are allowed`,
    );
  }
  // Sessions that began before go on with the values themselves, also with those that are no JSON.
  return behaviourOf(bundle) >= 3 ? held : { context, output, timers, started: held.started };
}

/**
 * Equal to its JSON form, so that a session has one future; or refused with the field's path.
 *
 * @throws Refused (MACHINE_NOT_JSON, STATE_TOO_LARGE, INVOKE_INPUT)
 */
function exactlyStored({ context, output, timers, started }: Held): Held {
  const held = exactly(context, 'the context of the machine', true);
  if (!held.text.startsWith('{'))
    throw new Refused('MACHINE_NOT_JSON', 'the context of the machine is no object');
  const bytes = Buffer.byteLength(held.text);
  if (bytes > limits.contextBytesMax)
    throw new Refused(
      'STATE_TOO_LARGE',
      `the context of the machine has ${bytes} bytes; ${limits.contextBytesMax} are allowed`,
    );
  return {
    context: held.value as Held['context'],
    ...(Object.keys(held.forms).length > 0 ? { forms: held.forms } : {}),
    output: output === undefined ? undefined : exactly(output, 'the output of the machine').value,
    timers,
    started: started.map(({ effect, note }) => {
      const { value, text } = exactly(effect, `the input of ${note.invoke}`);
      mustFitMessage(note, text);
      return { effect: value as PendingEffect, note };
    }),
  };
}

/** @throws Refused (INVOKE_INPUT) */
function mustFitMessage({ invoke }: PendingNote, body: string): void {
  const bytes = Buffer.byteLength(body);
  if (bytes <= limits.batchBytesMax) return;
  const most = `a message carries ${limits.batchBytesMax}`;
  throw new Refused('INVOKE_INPUT', `the input of ${invoke} has ${bytes} bytes; ${most}`);
}

/** Characters of a question that records keep before behaviour 3; since then they keep it whole. */
export const questionCutLength = 200;

/**
 * Who decides must see all of a question: one that no answer could show is not asked.
 *
 * @throws Refused (INVOKE_INPUT)
 */
function mustFitApproval(invoke: string, question: string): void {
  const bytes = Buffer.byteLength(JSON.stringify(question));
  if (bytes <= limits.answerBytesMax) return;
  const most = `an approval shows ${limits.answerBytesMax}`;
  throw new Refused('INVOKE_INPUT', `the question of ${invoke} has ${bytes} bytes; ${most}`);
}

/** Bound of a prompt's tokens: one for each byte, instructions and framing included (behaviour 2). */
function promptTokensOf(prompt: string, bundle: Bundle): number {
  const bytes = Buffer.byteLength(prompt);
  if (behaviourOf(bundle) < 2) return bytes;
  return bytes + Buffer.byteLength(bundle.agent.instructions) + 64;
}

function effectOf(
  invoke: string,
  src: string,
  input: unknown,
  around: Surroundings,
): { effect: PendingEffect; note: PendingNote } {
  const { bundle } = around;
  const id = nextId(around);
  const common = {
    id,
    tenant: around.tenant,
    session: around.session,
    agent: around.agent,
    revision: around.revision,
    ...(around.traceparent ? { traceparent: around.traceparent } : {}),
  };
  const parse = <Shape>(schema: z.ZodType<Shape>): Shape => {
    const result = schema.safeParse(input);
    if (!result.success)
      throw new Refused(
        'INVOKE_INPUT',
        `invoke ${invoke} of ${src}: its input does not fit: ${
          behaviourOf(bundle) >= 4 ? issuesOf(result.error) : z.prettifyError(result.error)
        }`,
      );
    return result.data;
  };
  const withNote = (
    effect: PendingEffect,
    what: string,
  ): { effect: PendingEffect; note: PendingNote } => ({
    effect,
    note: {
      kind: effect.kind,
      what,
      invoke,
      since: around.at,
      deadlineAt: effect.deadlineAt,
      ...(effect.kind === 'runTool' ? { pool: effect.pool } : {}),
      ...(effect.kind === 'startAgent' ? { child: effect.child } : {}),
    },
  });
  switch (src) {
    case 'model': {
      const wanted = parse(modelInput);
      const prompt = typeof wanted === 'string' ? wanted : wanted.prompt;
      const outputTokensMax =
        (typeof wanted === 'string' ? undefined : wanted.outputTokensMax) ??
        bundle.agent.outputTokensMax;
      const deadlineAt =
        around.at +
        (behaviourOf(bundle) >= 4
          ? askedWithinMs(bundle)
          : (bundle.models[0]?.timeoutMs ?? limits.modelTimeoutMs) * 4) +
        limits.deadlineSlackMs;
      return withNote(
        {
          kind: 'callModel',
          ...common,
          deadlineAt,
          from: 0,
          to: 0,
          purpose: 'input',
          prompt,
          outputTokensMax,
          tokensReserved: promptTokensOf(prompt, bundle) + outputTokensMax,
        },
        bundle.models[0]?.name ?? 'model',
      );
    }
    case 'tool': {
      const wanted = parse(toolInput);
      const tool = own(bundle.tools, wanted.tool);
      if (!tool)
        throw new Refused(
          'TOOL_UNKNOWN',
          `invoke ${invoke}: agent ${around.agent} has no tool ${wanted.tool}`,
        );
      const deadlineAt =
        around.at + performedWithinMs(tool, behaviourOf(bundle)) + limits.deadlineSlackMs;
      return withNote(
        {
          kind: 'runTool',
          ...common,
          deadlineAt,
          tool: wanted.tool,
          class: tool.class,
          pool: tool.pool,
          arguments: wanted.arguments,
        },
        wanted.tool,
      );
    }
    case 'agent': {
      const wanted = parse(agentInput);
      const target = own(bundle.agents, wanted.agent);
      if (!target)
        throw new Refused(
          'AGENT_UNKNOWN',
          `invoke ${invoke}: agent ${around.agent} may not delegate to ${wanted.agent}`,
        );
      const childAgent = wanted.agent as AgentName;
      const child = sessionIdOf(around.tenant, childAgent, id);
      const deadlineAt = around.at + target.limits.wallClockMs + limits.deadlineSlackMs;
      return withNote(
        {
          kind: 'startAgent',
          ...common,
          deadlineAt,
          child,
          childAgent,
          childRevision: target.revision as Revision,
          input: wanted.input,
          limits: target.limits,
        },
        wanted.agent,
      );
    }
    default: {
      const wanted = parse(humanInput);
      const question = typeof wanted === 'string' ? wanted : wanted.question;
      const expiresMs =
        (typeof wanted === 'string' ? undefined : wanted.expiresMs) ?? limits.approvalExpiryMs;
      const deadlineAt = around.at + expiresMs;
      const beginning = question.slice(0, questionCutLength);
      const isWhole = behaviourOf(bundle) >= 3;
      if (isWhole) mustFitApproval(invoke, question);
      return withNote(
        {
          kind: 'askHuman',
          ...common,
          deadlineAt,
          tool: beginning,
          hash: approvalHash('human', canonicalText(question), deadlineAt),
        },
        isWhole ? question : beginning,
      );
    }
  }
}
