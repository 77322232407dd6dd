/**
 * A user's own XState machine as a durable session.
 *
 * `invoke: { src: 'model' | 'tool' | 'agent' | 'human', input }` becomes an effect, its answer comes back
 * as `onDone` or `onError`; `after` becomes a durable timer. Anything else a machine can do stays what it
 * is in XState, and what cannot be made durable (spawned actors, inline logic) is refused by name.
 */

import type { AnyMachineSnapshot } from 'xstate';
import { z } from 'zod';
import { Refused } from '../errors.ts';
import type { AgentName, Revision } from '../ids.ts';
import { sessionIdOf } from '../ids.ts';
import { canonicalText, storable } from '../json.ts';
import { own } from '../keyed.ts';
import { limits } from '../limits.ts';
import { performedWithinMs } from '../tools/tool-spec.ts';
import { approvalHash } from './approvals.ts';
import { behaviourOf } from './behaviour.ts';
import type { PendingEffect } from './effects.ts';
import { historyOf, invokable, liveInvokes, type Transitioned } from './machine-host.ts';
import { nextId, type Surroundings } from './plan.ts';
import type { PendingNote, SessionRecord } from './record.ts';
import type { Bundle } from './specs.ts';

const modelInput = z.union([
  z.string(),
  z.object({ prompt: z.string(), outputTokensMax: z.number().int().positive().optional() }),
]);
const toolInput = z.object({
  tool: z.string(),
  arguments: z.record(z.string(), z.unknown()).default({}),
});
const agentInput = z.object({ agent: z.string(), input: z.string() });
const humanInput = z
  .object({ question: z.string(), expiresMs: z.number().positive().optional() })
  .or(z.string());

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
  readonly snapshot: AnyMachineSnapshot;
}

/** Read what a transition did, and turn what it wants into effects and timers. */
export function readTransition(
  moved: Transitioned,
  before: { pending: SessionRecord['pending']; timers: SessionRecord['timers'] },
  around: Surroundings,
): PipelineStep {
  const { snapshot } = moved;
  const timers = { ...before.timers };
  const started: { effect: PendingEffect; note: PendingNote }[] = [];
  const spawned = new Map<string, { src: string; input: unknown }>();
  for (const action of moved.actions) {
    if (action.type === 'xstate.spawnChild') {
      const { id, src, input } = action.params as { id: string; src: unknown; input: unknown };
      if (typeof src !== 'string' || !(invokable as readonly string[]).includes(src)) {
        throw new Refused(
          'MACHINE_UNSUPPORTED',
          `invoke ${id} has the source ${typeof src === 'string' && !src.startsWith('xstate.invoke.') ? src : 'an inline actor'}; a durable machine invokes ${invokable.join(', ')} only`,
        );
      }
      spawned.set(id, { src, input });
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
  const alive = snapshot.status === 'active' ? liveInvokes(snapshot) : new Set<string>();
  const cancelled = Object.entries(before.pending)
    .filter(
      ([, note]) =>
        note.invoke !== undefined && (!alive.has(note.invoke) || spawned.has(note.invoke)),
    )
    .map(([id]) => id);
  for (const [invoke, { src, input }] of spawned) {
    if (alive.has(invoke)) started.push(effectOf(invoke, src, input, around));
  }
  const status =
    snapshot.status === 'active' ? 'active' : snapshot.status === 'done' ? 'completed' : 'failed';
  const left = status === 'active' ? timers : {};
  const { context, output } = snapshot as { context: Record<string, unknown>; output: unknown };
  return {
    value: snapshot.value,
    history: historyOf(snapshot),
    status,
    ...(status === 'failed' ? { reason: `MACHINE_ERROR: ${reasonOf(snapshot.error)}` } : {}),
    cancelled,
    snapshot,
    ...asStored({ context, output, timers: left, started }, around),
  };
}

function reasonOf(error: unknown): string {
  if (error instanceof Error) return String(error.message).slice(0, 2_000);
  return storable(error ?? 'unknown', 'the error of the machine', false).slice(0, 2_000);
}

type Held = Pick<PipelineStep, 'context' | 'output' | 'timers' | 'started'>;

/**
 * What a machine holds goes into one commit with the work of others: it is written here, once, and
 * only what was written goes on. Values of users run their code when they are written, may come
 * out differently the next time, and may be changed behind our back.
 *
 * @throws Refused (STATE_UNWRITABLE, STATE_TOO_LARGE) for what cannot be stored
 */
function asStored({ context, output, timers, started }: Held, { bundle }: Surroundings): Held {
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
      const bytes = Buffer.byteLength(body);
      if (bytes <= limits.batchBytesMax) return { effect: JSON.parse(body) as PendingEffect, note };
      const most = `a message carries ${limits.batchBytesMax}`;
      throw new Refused('INVOKE_INPUT', `the input of ${note.invoke} has ${bytes} bytes; ${most}`);
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
        `invoke ${invoke} of ${src}: its input does not fit: ${z.prettifyError(result.error)}`,
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
        (bundle.models[0]?.timeoutMs ?? limits.modelTimeoutMs) * 4 +
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
