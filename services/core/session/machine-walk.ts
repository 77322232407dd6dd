/**
 * What a user's own machine asks for that no host can do durably, found before it runs.
 *
 * The walk reads the machine's structure: invokes, actions, guards and delays of every state. What
 * only a running function shows (`spawn()` in an assign, `enqueueActions`, computed delays) is met
 * by the step, which fails its session before anything of that step leaves (machine-actions.ts).
 */
import type { AnyStateMachine } from 'xstate';
import { issuesOf } from '../errors.ts';
import { own } from '../keyed.ts';
import { invokeInputs } from './invoke-inputs.ts';
import { invokable } from './machine-host.ts';

interface Invoke {
  readonly id: string;
  readonly src: unknown;
  readonly onSnapshot?: unknown;
  readonly input?: unknown;
}

/** A built-in action of XState is a function with a type and its parameters on it. */
interface Builtin {
  readonly type: string;
  readonly resolve: unknown;
  readonly src?: unknown;
  readonly id?: unknown;
  readonly to?: unknown;
  readonly delay?: unknown;
  readonly syncSnapshot?: boolean;
  readonly systemId?: string | undefined;
}

interface Transition {
  readonly actions: readonly unknown[];
  readonly guard?: unknown;
  readonly eventType: string;
}

interface Node {
  readonly path: readonly string[];
  readonly type: string;
  readonly parent?: Node | undefined;
  readonly entry: readonly unknown[];
  readonly exit: readonly unknown[];
  readonly invoke: readonly Invoke[];
  readonly always?: readonly Transition[];
  readonly initial?: { readonly actions: readonly unknown[] } | undefined;
  readonly transitions: ReadonlyMap<string, readonly Transition[]>;
  readonly states: Readonly<Record<string, Node>>;
}

/** Built-in actions that a durable session performs. */
export const performable = [
  'xstate.assign',
  'xstate.raise',
  'xstate.cancel',
  'xstate.enqueueActions',
  'xstate.sendTo',
  'xstate.spawnChild',
  'xstate.stopChild',
  'xstate.emit',
  'xstate.log',
] as const;

export const isPerformable = (type: string): boolean =>
  (performable as readonly string[]).includes(type);

export const isInvokable = (source: unknown): boolean =>
  (invokable as readonly unknown[]).includes(source);

const sources = `a durable machine starts ${invokable.join(', ')} only`;

/** A source as its author wrote it, or a word for what has no name. */
export const sourceName = (source: unknown): string =>
  typeof source === 'string' && !source.startsWith('xstate.invoke.') ? source : 'an inline actor';

/** @returns what cannot be performed, each with the path of its state; empty for a machine that can run */
export function unperformable(machine: AnyStateMachine): string[] {
  const found = new Set<string>();
  for (const node of nodesOf(machine)) {
    const say = (what: string) => found.add(`state ${placeOf(node)} ${what}`);
    for (const invoke of node.invoke) inspectInvoke(invoke, say);
    for (const action of actionsOf(node)) inspectAction(action, machine, say);
  }
  for (const what of sharedIds(machine)) found.add(what);
  return [...found];
}

/** Two children of one id that live at the same time: the end of one would be told as the other's. */
function sharedIds(machine: AnyStateMachine): string[] {
  const seen = new Map<string, Node[]>();
  const found: string[] = [];
  for (const node of nodesOf(machine)) {
    for (const { id } of node.invoke) {
      const others = seen.get(id) ?? [];
      const other = others.find((one) => areTogether(one, node));
      if (other)
        found.push(
          `state ${placeOf(node)} invokes ${id.slice(0, 200)}, and so does state ${placeOf(other)}, which is active with it; give each an id of its own`,
        );
      seen.set(id, [...others, node]);
    }
  }
  return found;
}

/** One within the other, or in two regions of a parallel state. */
function areTogether(one: Node, other: Node): boolean {
  let from: Node | undefined = one;
  const above = new Set<Node>();
  for (; from; from = from.parent) above.add(from);
  let common: Node | undefined = other;
  while (common && !above.has(common)) common = common.parent;
  return common === one || common === other || common?.type === 'parallel';
}

/** @returns whether any state of a machine invokes a child of an id */
export function invokedBy(machine: AnyStateMachine): (id: string) => boolean {
  let ids: ReadonlySet<string> | undefined;
  return (id) => {
    ids ??= new Set([...nodesOf(machine)].flatMap(({ invoke }) => invoke.map((one) => one.id)));
    return ids.has(id);
  };
}

/** @returns guards and delays that nothing implements: a transition that needs one throws */
export function unimplemented(machine: AnyStateMachine): string[] {
  const { guards, delays } = machine.implementations as {
    guards: Record<string, unknown>;
    delays: Record<string, unknown>;
  };
  const found = new Set<string>();
  for (const node of nodesOf(machine)) {
    const say = (what: string) => found.add(`state ${placeOf(node)} ${what}`);
    const named = new Set<string>();
    for (const { guard } of transitionsOf(node)) guardNames(guard, machine, named);
    for (const name of named)
      if (own(guards, name) === undefined) say(`has the guard ${name}, which nothing implements`);
    for (const action of actionsOf(node)) {
      const delay = builtinOf(action, machine)?.delay;
      if (typeof delay === 'string' && own(delays, delay) === undefined)
        say(`waits for the delay ${delay}, which nothing implements`);
    }
  }
  return [...found];
}

/**
 * @returns what stands there and would fail when its state is reached. Told when a machine is loaded:
 *          sessions that exist go on, and may never come there
 */
export function unfit(machine: AnyStateMachine): string[] {
  const found = new Set<string>();
  for (const node of nodesOf(machine)) {
    const say = (what: string) => found.add(`state ${placeOf(node)} ${what}`);
    for (const invoke of node.invoke) {
      const problem = inputProblem(invoke);
      if (problem) say(`invokes ${String(invoke.src)}, and its input does not fit: ${problem}`);
    }
    for (const action of actionsOf(node)) {
      const { type, id, delay } = builtinOf(action, machine) ?? { type: '' };
      if (typeof delay === 'number' && !Number.isFinite(delay))
        say(`waits for ${delay} ms, which is no time`);
      if (type === 'xstate.spawnChild' && typeof id === 'string' && id in {})
        say(`spawns a child called ${id}, a name that every object has`);
    }
  }
  return [...found];
}

/**
 * @param has  what its agent has: tools and agents by name
 * @returns tools and agents that stand there by name, and that its agent has not
 */
export function unknownNames(
  machine: AnyStateMachine,
  has: { readonly tool: (name: string) => boolean; readonly agent: (name: string) => boolean },
): string[] {
  const found = new Set<string>();
  for (const node of nodesOf(machine))
    for (const { src, input } of node.invoke) {
      if (src !== 'tool' && src !== 'agent') continue;
      const { [src]: name } = (typeof input === 'object' && input !== null ? input : {}) as {
        readonly [kind: string]: unknown;
      };
      if (typeof name === 'string' && !has[src](name))
        found.add(
          `state ${placeOf(node)} asks for the ${src} ${name}, which its agent does not name`,
        );
    }
  return [...found];
}

/** The machine that a module exports: as `default`, or as `machine`. */
export function exportedMachine(module: {
  readonly default?: unknown;
  readonly machine?: unknown;
}): AnyStateMachine | undefined {
  const found = (module.default ?? module.machine) as AnyStateMachine | undefined;
  return found && typeof found.transition === 'function' && found.root ? found : undefined;
}

function* nodesOf(machine: AnyStateMachine): Generator<Node> {
  const left = [machine.root as unknown as Node];
  for (let node = left.pop(); node; node = left.pop()) {
    yield node;
    left.push(...Object.values(node.states).reverse());
  }
}

const placeOf = ({ path }: Node): string => (path.length === 0 ? '(root)' : path.join('.'));

const transitionsOf = (node: Node): readonly Transition[] => [
  ...[...node.transitions.values()].flat(),
  ...(node.always ?? []),
];

const actionsOf = (node: Node): readonly unknown[] => [
  ...node.entry,
  ...node.exit,
  ...(node.initial?.actions ?? []),
  ...transitionsOf(node).flatMap(({ actions }) => actions),
];

function inspectInvoke(invoke: Invoke, say: (what: string) => void): void {
  if (!isInvokable(invoke.src)) say(`invokes ${sourceName(invoke.src)}; ${sources}`);
  if (invoke.onSnapshot !== undefined)
    say(`listens to snapshots of ${invoke.id} (onSnapshot); an effect has only its end`);
}

/** Of an input that stands there; one that is computed is seen when it is. */
function inputProblem({ src, input }: Invoke): string | undefined {
  if (typeof input === 'function' || !isInvokable(src)) return undefined;
  const { success, error } = invokeInputs[src as keyof typeof invokeInputs].safeParse(input);
  return success ? undefined : issuesOf(error);
}

/** What an action is made of, by its name or as it stands there. */
function implementationOf(action: unknown, machine: AnyStateMachine): unknown {
  if (typeof action === 'function') return action;
  const name = nameOf(action);
  return own(machine.implementations.actions as Record<string, unknown>, name);
}

const nameOf = (action: unknown): string =>
  typeof action === 'string' ? action : String((action as { type?: unknown }).type);

function builtinOf(action: unknown, machine: AnyStateMachine): Builtin | undefined {
  const found = implementationOf(action, machine);
  return typeof found === 'function' && 'resolve' in found
    ? (found as unknown as Builtin)
    : undefined;
}

function inspectAction(action: unknown, machine: AnyStateMachine, say: (what: string) => void) {
  const builtin = builtinOf(action, machine);
  if (!builtin) return say(ownAction(action, machine));
  if (!isPerformable(builtin.type)) return say(`has the action ${builtin.type}, which is unknown`);
  if (builtin.type === 'xstate.sendTo' && builtin.to === '#_parent')
    return say('sends to a parent, and a session has none');
  if (builtin.type !== 'xstate.spawnChild') return;
  if (!isInvokable(builtin.src)) say(`spawns ${sourceName(builtin.src)}; ${sources}`);
  if (builtin.id === undefined) say('spawns a child without an id; its end could not be told');
  if (builtin.syncSnapshot)
    say('spawns a child with syncSnapshot; an effect has no snapshots, only its end');
  if (builtin.systemId !== undefined) say('spawns a child with a systemId; only invokes have one');
}

/** Side effects of a machine's own code would happen again at each restore: tools do them once. */
function ownAction(action: unknown, machine: AnyStateMachine): string {
  const name = typeof action === 'function' ? action.name : nameOf(action);
  const spelled = name ? `the action ${name}` : 'an action of its own';
  return implementationOf(action, machine) === undefined
    ? `has ${spelled}, which nothing implements`
    : `has ${spelled}, a function that would never run; invoke a tool instead`;
}

/** The names in a guard, also inside `and`, `or` and `not`, and of guards that are made of others. */
function guardNames(guard: unknown, machine: AnyStateMachine, seen: Set<string>): Set<string> {
  if (typeof guard === 'function') {
    const inner = (guard as { guards?: readonly unknown[] }).guards ?? [];
    for (const one of inner) guardNames(one, machine, seen);
  } else if (guard !== undefined && guard !== null) {
    const name = nameOf(guard);
    if (seen.has(name)) return seen;
    seen.add(name);
    guardNames(own(machine.implementations.guards as never, name), machine, seen);
  }
  return seen;
}
