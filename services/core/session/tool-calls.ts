/** The calls that a model wants: checked, begun, answered. */

import { z } from 'zod';
import {
  add,
  carve,
  nothing,
  reservationOf,
  type Spending,
  shareOf,
  subtract,
} from '../budget/budget.ts';
import { issuesOf } from '../errors.ts';
import { type AgentName, type Revision, sessionIdOf, sha256 } from '../ids.ts';
import { canonicalText, hasInfinity, inexactNumber, parseJson } from '../json.ts';
import { having, own, without } from '../keyed.ts';
import { limits } from '../limits.ts';
import { isCheckedAtOnce } from '../schema/cost.ts';
import { compiledSchema } from '../schema/json-schema.ts';
import { performedWithinMs } from '../tools/tool-spec.ts';
import type { AgentContext, OpenCall } from './agent-context.ts';
import { behaviourOf } from './behaviour.ts';
import type { Entry } from './conversation.ts';
import type { Effect } from './effects.ts';
import type { ToolCall } from './messages.ts';
import {
  addressOf,
  append,
  closeTurn,
  nextId,
  type Plan,
  type Surroundings,
  toolEntry,
} from './plan.ts';
import type { Bundle } from './specs.ts';

type Checked =
  | {
      readonly ok: true;
      readonly call: ToolCall;
      readonly arguments: Record<string, unknown>;
      readonly signature: string;
    }
  | {
      readonly ok: false;
      readonly call: ToolCall;
      readonly code: string;
      readonly message: string;
    };

const compiled = new WeakMap<object, z.ZodType | null>();
const compiledBefore = new WeakMap<object, z.ZodType | null>();

/**
 * A JSON Schema as a zod schema, compiled once. A schema that zod cannot read checks nothing beyond
 * "an object".
 *
 * @param isAsBefore  as sessions before behaviour 3 read it: a UUID is one of RFC 9562 only
 */
export function validatorOf(schema: Record<string, unknown>, isAsBefore = false): z.ZodType | null {
  const validators = isAsBefore ? compiledBefore : compiled;
  const known = validators.get(schema);
  if (known !== undefined) return known;
  let made: z.ZodType | null;
  try {
    const read = isAsBefore ? schema : withAnyUuid(schema);
    made = z.fromJSONSchema(read as Parameters<typeof z.fromJSONSchema>[0]);
  } catch {
    made = null;
  }
  validators.set(schema, made);
  return made;
}

const anyUuid = '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$';

/** The format means the form; which versions and variants there are is not its business. */
function withAnyUuid(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(withAnyUuid);
  if (typeof schema !== 'object' || schema === null) return schema;
  const mapped = Object.fromEntries(
    Object.entries(schema).map(([name, value]) => [name, withAnyUuid(value)]),
  );
  if (mapped.format !== 'uuid' || mapped.pattern !== undefined) return mapped;
  const { format: _, ...rest } = mapped;
  return { ...rest, pattern: anyUuid };
}

export const delegateTool = 'delegate';

const delegateSchema = z.object({ agent: z.string(), input: z.string() });

/** What was found of arguments that no step checks itself; `problem` is empty where they fit. */
export interface ArgumentsCheck {
  readonly code?: string | undefined;
  readonly problem: string;
}
const fits: ArgumentsCheck = { problem: '' };
/** Of arguments that were checked before. */
export const checkedBefore = fits;

/**
 * What is wrong with arguments, by the schema of their tool.
 *
 * @param found  by a gateway, of what is too costly to be checked here
 */
function argumentsProblem(
  input: Record<string, unknown>,
  parsed: unknown,
  length: number,
  found: ArgumentsCheck | undefined,
): { readonly code: string; readonly problem: string } | undefined {
  if (!isCheckedAtOnce(input, length)) {
    const { code = 'ARGUMENTS_INVALID', problem } = found ?? {
      code: 'ARGUMENTS_TOO_COSTLY',
      problem: 'they are too large to be checked; send less at once',
    };
    return problem === '' ? undefined : { code, problem };
  }
  const compiled = compiledSchema(input);
  const problem = compiled.ok ? compiled.check(parsed) : compiled.problem;
  return problem === undefined ? undefined : { code: 'ARGUMENTS_INVALID', problem };
}

/** Of a bundle whose sessions began before: as zod reads the schema. */
function problemBefore(
  schema: z.ZodType | null,
  parsed: unknown,
): { readonly code: string; readonly problem: string } | undefined {
  const result = schema?.safeParse(parsed);
  if (!result || result.success) return undefined;
  return { code: 'ARGUMENTS_INVALID', problem: issuesOf(result.error) };
}

export function checkCall(call: ToolCall, bundle: Bundle, found?: ArgumentsCheck): Checked {
  let parsed: unknown;
  try {
    parsed = parseJson(call.arguments === '' ? '{}' : call.arguments);
  } catch (error) {
    return {
      ok: false,
      call,
      code: 'ARGUMENTS_NOT_JSON',
      message: `the arguments of ${call.name} are no JSON that can be read: ${(error as Error).message.slice(0, 120)}`,
    };
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    return {
      ok: false,
      call,
      code: 'ARGUMENTS_NOT_OBJECT',
      message: `the arguments of ${call.name} must be a JSON object`,
    };
  }
  if (hasInfinity(parsed)) {
    return {
      ok: false,
      call,
      code: 'ARGUMENTS_INVALID',
      message: `the arguments of ${call.name} hold a number that is too large`,
    };
  }
  const inexact = behaviourOf(bundle) >= 3 ? inexactNumber(call.arguments) : undefined;
  if (inexact !== undefined) {
    return {
      ok: false,
      call,
      code: 'ARGUMENTS_INVALID',
      message: `the number ${inexact} in the arguments of ${call.name} cannot be kept exact: write it as text`,
    };
  }
  const delegates = isDelegation(call.name, bundle);
  const tool = own(bundle.tools, call.name);
  if (!delegates && !tool) {
    return {
      ok: false,
      call,
      code: 'TOOL_UNKNOWN',
      message: `there is no tool ${call.name}; there are: ${toolNamesOf(bundle).join(', ')}`,
    };
  }
  const behaviour = behaviourOf(bundle);
  const wrong =
    delegates || behaviour < 4
      ? problemBefore(delegates ? delegateSchema : validatorOf(tool!.input, behaviour < 3), parsed)
      : argumentsProblem(tool!.input, parsed, call.arguments.length, found);
  if (wrong) {
    const message = `the arguments of ${call.name} are refused: ${wrong.problem}`;
    return { ok: false, call, code: wrong.code, message };
  }
  if (delegates && !own(bundle.agents, (parsed as { agent: string }).agent)) {
    return {
      ok: false,
      call,
      code: 'AGENT_UNKNOWN',
      message: `cannot delegate to ${(parsed as { agent: string }).agent}; there are: ${Object.keys(bundle.agents).join(', ')}`,
    };
  }
  return {
    ok: true,
    call,
    arguments: parsed as Record<string, unknown>,
    signature: sha256(`${call.name}\n${canonicalText(parsed)}`).slice(0, 16),
  };
}

export const toolNamesOf = (bundle: Bundle): string[] => [
  ...Object.keys(bundle.tools),
  ...(Object.keys(bundle.agents).length > 0 ? [delegateTool] : []),
];

/** Children that one turn begins together, and what they share. */
export interface Children {
  readonly count: number;
  readonly left: Spending;
}

export const isDelegation = (name: string, bundle: Bundle): boolean =>
  name === delegateTool && Object.keys(bundle.agents).length > 0;

/** Turn one checked call into the effect that performs it. */
export function startCall(
  context: AgentContext,
  around: Surroundings,
  checked: Extract<Checked, { ok: true }>,
  children?: Children,
): { context: AgentContext; effect: Effect } | { refusal: string } {
  const { call, arguments: args } = checked;
  const id = nextId(around);
  const { bundle } = around;
  const tool = own(bundle.tools, call.name);
  if (tool) {
    const tries = performedWithinMs(tool, behaviourOf(bundle));
    const open: OpenCall = { call: call.id, tool: call.name };
    return {
      context: { ...context, calls: having(context.calls, id, open) },
      effect: {
        kind: 'runTool',
        id,
        ...addressOf(around, tries + limits.deadlineSlackMs),
        tool: call.name,
        class: tool.class,
        pool: tool.pool,
        arguments: args,
      },
    };
  }
  const { agent, input } = args as { agent: AgentName; input: string };
  const target = own(bundle.agents, agent)!;
  const share = children
    ? shareOf(children.left, children.count, target.limits)
    : carve(context.limits, context.spent, context.reserved, target.limits);
  if (share.stepsMax < 1 || share.tokensMax < 1 || share.costMicrosMax < 1)
    return { refusal: 'no budget is left to delegate' };
  const child = sessionIdOf(around.tenant, agent, id);
  const reserved = reservationOf(share);
  return {
    context: {
      ...context,
      reserved: add(context.reserved, reserved),
      calls: having(context.calls, id, {
        call: call.id,
        tool: `${delegateTool}:${agent}`,
        reserved,
        child,
      }),
    },
    effect: {
      kind: 'startAgent',
      id,
      ...addressOf(around, share.wallClockMs + limits.deadlineSlackMs),
      child,
      childAgent: agent,
      childRevision: target.revision as Revision,
      input,
      limits: share,
    },
  };
}

export const notRun = (calls: readonly ToolCall[], reason: string): Entry[] =>
  calls.map((call) =>
    toolEntry(call.id, call.name, {
      error: { class: 'permanent', code: 'NOT_RUN', message: `not run: ${reason}` },
    }),
  );

/** Answer what is still open with "not run", so that the conversation can go on. */
export function closeOpenCalls(context: AgentContext): { context: AgentContext; entries: Entry[] } {
  const open = [
    ...Object.values(context.calls),
    ...Object.values(context.approvals).filter(({ kind }) => kind === 'tool'),
  ];
  const entries = notRun(
    open.map(({ call, tool }) => ({ id: call, name: tool, arguments: '' })),
    'the task ended first',
  );
  return {
    context: append({ ...context, calls: {}, approvals: {}, reserved: nothing }, entries),
    entries,
  };
}

/** A call came back: well, badly, or from a child that spent part of our budget. */
export function planResult(
  before: AgentContext,
  effect: string,
  content: unknown,
  isOk: boolean,
  spent: Spending = nothing,
): Plan {
  const open = before.calls[effect];
  if (!open) return { context: before, entries: [], effects: [] };
  const entry = toolEntry(open.call, open.tool, content);
  const reserved = open.reserved ? subtract(before.reserved, open.reserved) : before.reserved;
  const context = append(
    {
      ...before,
      calls: without(before.calls, effect),
      reserved,
      spent: add(before.spent, spent),
      succeeded: before.succeeded + (isOk ? 1 : 0),
    },
    [entry],
  );
  return closeTurn({ context, entries: [entry], effects: [] });
}
