/**
 * Drives any XState v5 machine as a pure function, message by message.
 *
 * `transition()` of the package builds a throw-away actor on every call; here one inert scope serves a
 * machine for ever (a test compares the two). Nothing a machine invokes is ever started: an invoke is
 * reported as something wanted, and its result comes back as an event.
 */
import {
  type AnyActorRef,
  type AnyMachineSnapshot,
  type AnyStateMachine,
  createActor,
  type EventObject,
  fromPromise,
  type Snapshot,
} from 'xstate';
import { Defect, type Refused } from '../errors.ts';
import { type FlatTransition, flatTransitionOf } from './flat-machine.ts';

/** What a machine did besides moving: the host turns these into effects and timers. */
export interface MachineAction {
  readonly type: string;
  readonly params: unknown;
  /** False for the name of an action that nothing implements. */
  readonly isImplemented?: boolean;
  /** Of `sendTo`: whom the event is for. */
  readonly target?: 'itself' | 'child' | 'other';
}

/** A transition that was taken, and those that stood beside it. */
export interface Choice {
  readonly event: string;
  readonly chosen: string;
  readonly options: readonly string[];
}

export interface Transitioned {
  readonly snapshot: AnyMachineSnapshot;
  readonly actions: readonly MachineAction[];
  readonly choices: readonly Choice[];
  /** It used what no session has: nothing of the step counts. */
  readonly refusal?: Refused | undefined;
}

interface Transition extends FlatTransition {
  readonly guard?: unknown;
  readonly source: {
    readonly transitions: ReadonlyMap<string, readonly Transition[]>;
    readonly always?: readonly Transition[];
  };
}

export interface MachineDriver {
  readonly machine: AnyStateMachine;
  initial(input: unknown): Transitioned;
  transition(snapshot: AnyMachineSnapshot, event: EventObject): Transitioned;
  /** From stored JSON: value, context, history; children are ours to remember. */
  restore(stored: {
    value: unknown;
    context: unknown;
    status?: string;
    output?: unknown;
    history?: unknown;
    /** Ids of children that it spawned; those that its states invoke are found. */
    children?: readonly string[] | undefined;
    /** Ids of invokes whose children it has stopped. */
    stopped?: readonly string[] | undefined;
    /** Ids of invokes and children that have not ended. */
    waiting?: ReadonlySet<string | undefined>;
    /** Its states in the order in which it entered them. */
    nodes?: readonly string[] | undefined;
  }): AnyMachineSnapshot;
}

/** The logic that stands in for everything a machine invokes: it is never started. */
const inert = fromPromise(async () => undefined);

/** Sources that a machine may invoke: `model`, `tool`, `agent`, `human`. */
export const invokable = ['model', 'tool', 'agent', 'human'] as const;

const choiceOf = (transition: Transition, event: string): Choice => {
  const beside = transition.eventType
    ? transition.source.transitions.get(transition.eventType)
    : transition.source.always;
  return { event, chosen: labelOf(transition), options: labelsOf(beside ?? [transition]) };
};

const stepsMax = 100_000; // eventless transitions for one event: a machine that takes more goes in a circle

/** A machine that never settles would hold its process, and every session in it. */
export function boundSteps(machine: AnyStateMachine): void {
  const bounded = machine as unknown as { options?: { maxIterations?: number } };
  const wanted = bounded.options?.maxIterations ?? stepsMax;
  bounded.options = { ...bounded.options, maxIterations: Math.min(wanted, stepsMax) };
}

/** The machine with logic that is never started in the place of everything it invokes. */
export const inertMachine = (given: AnyStateMachine): AnyStateMachine =>
  given.provide({
    actors: Object.fromEntries(invokable.map((name) => [name, inert])),
  } as never);

/** @param event  of XState's inspection */
export function choicesOf(event: {
  readonly type: string;
  readonly event?: EventObject;
  readonly _transitions?: readonly Transition[];
}): readonly Choice[] {
  if (event.type !== '@xstate.microstep') return [];
  return (event._transitions ?? []).map((one) => choiceOf(one, event.event?.type ?? ''));
}

/** @param isFlat  the machine has one level, and its events may go the short way (flat-machine.ts) */
export function driverOf(given: AnyStateMachine, isFlat = false): MachineDriver {
  const machine = inertMachine(given);
  boundSteps(machine);
  const self = createActor(machine, {
    input: undefined as never,
    inspect: () => {},
  }) as unknown as AnyActorRef;
  let actions: MachineAction[] = [];
  let choices: Choice[] = [];
  const system = Object.create((self as unknown as { system: object }).system) as Record<
    string,
    unknown
  >;
  system._sendInspectionEvent = (event: Parameters<typeof choicesOf>[0]) =>
    choices.push(...choicesOf(event));
  // A child of the machine registers with the system; none lives longer than the transition.
  system._register = (sessionId: string) => sessionId;
  system._unregister = () => {};
  system._set = () => {};
  system._relay = () => {};
  (self as unknown as { system: unknown }).system = system;
  const scope = {
    self,
    id: machine.id,
    sessionId: '',
    logger: () => {},
    defer: () => {},
    stopChild: () => {},
    system,
    emit: () => {},
    actionExecutor: (action: MachineAction) =>
      actions.push({ type: action.type, params: action.params }),
  } as never;

  const flat = isFlat ? flatTransitionOf(machine) : undefined;
  const collect = (run: () => AnyMachineSnapshot): Transitioned => {
    actions = [];
    choices = [];
    const snapshot = run();
    return { snapshot, actions, choices };
  };
  return {
    machine,
    initial: (input) =>
      collect(() => machine.getInitialSnapshot(scope, input as never) as AnyMachineSnapshot),
    transition(snapshot, event) {
      const step = flat?.<Transition>(snapshot, event);
      if (step)
        return {
          snapshot: step.snapshot,
          actions: step.actions,
          choices: [choiceOf(step.taken, event.type)],
        };
      return collect(
        () => machine.transition(snapshot as never, event as never, scope) as AnyMachineSnapshot,
      );
    },
    restore: ({ value, context, status, output, history }) => {
      const restored = machine.restoreSnapshot(
        {
          value,
          context,
          status: status ?? 'active',
          output,
          error: undefined,
          children: {},
          historyValue: history ?? {},
        } as unknown as Snapshot<unknown>,
        scope,
      ) as AnyMachineSnapshot;
      if (!restored.machine)
        throw new Defect('RESTORE', `machine ${machine.id} could not be restored`);
      return restored;
    },
  };
}

const labels = new WeakMap<object, string>();
const labelLists = new WeakMap<object, readonly string[]>();

/** A machine's transitions never change, so neither do their labels. */
function labelsOf(transitions: readonly Transition[]): readonly string[] {
  let list = labelLists.get(transitions);
  if (!list) {
    list = transitions.map(labelOf);
    labelLists.set(transitions, list);
  }
  return list;
}

function labelOf(transition: Transition): string {
  let label = labels.get(transition);
  if (label === undefined) {
    label = spell(transition);
    labels.set(transition, label);
  }
  return label;
}

function spell(transition: Transition): string {
  const target = transition.target?.map((node) => node.key).join('+') ?? 'stay';
  const { guard } = transition;
  const name =
    guard === undefined ? 'otherwise' : typeof guard === 'string' ? guard : guardName(guard);
  return `${name} -> ${target}`;
}

function guardName(guard: unknown): string {
  if (typeof guard === 'function') return guard.name || 'guard';
  if (typeof guard === 'object' && guard !== null && 'type' in guard)
    return String((guard as { type: unknown }).type);
  return 'guard';
}

/** History in a form that survives JSON: state nodes by their ids. */
export function historyOf(
  snapshot: AnyMachineSnapshot,
): Record<string, { id: string }[]> | undefined {
  const history = snapshot.historyValue as Record<string, readonly { id: string }[]>;
  const keys = Object.keys(history);
  if (keys.length === 0) return undefined;
  return Object.fromEntries(keys.map((key) => [key, history[key]!.map(({ id }) => ({ id }))]));
}

interface Invoke {
  readonly id: string;
  readonly systemId?: string | undefined;
}

/** Invokes of the states that a machine is in, by id. */
export function invokesIn(snapshot: AnyMachineSnapshot): Map<string, Invoke> {
  const found = new Map<string, Invoke>();
  const { _nodes: nodes } = snapshot as unknown as {
    readonly _nodes: readonly { readonly invoke: readonly Invoke[] }[];
  };
  for (const { invoke } of nodes) for (const one of invoke) found.set(one.id, one);
  return found;
}

interface StateNode {
  readonly id: string;
  readonly type: string;
}

/**
 * States in the order in which they were entered, by their ids. Of transitions in parallel regions
 * that exclude each other the first one's is taken. Undefined where there is only one region.
 */
export function nodesIn(snapshot: AnyMachineSnapshot): string[] | undefined {
  const { _nodes: nodes } = snapshot as unknown as { readonly _nodes: readonly StateNode[] };
  const leaves = nodes.filter(({ type }) => type === 'atomic' || type === 'final');
  return leaves.length > 1 ? nodes.map(({ id }) => id) : undefined;
}

const hearsMax = 20; // types that are told of one session
const typeLengthMax = 100;

/** Types of events from outside that a machine listens to where it stands. */
export function heardIn(snapshot: AnyMachineSnapshot): string[] {
  const { _nodes: nodes } = snapshot as unknown as {
    readonly _nodes: readonly { readonly transitions: ReadonlyMap<string, unknown> }[];
  };
  const types = new Set(nodes.flatMap(({ transitions }) => [...transitions.keys()]));
  return [...types]
    .filter((type) => type !== '' && !type.startsWith('xstate.'))
    .slice(0, hearsMax)
    .map((type) => type.slice(0, typeLengthMax));
}

/** Ids of the invokes that are alive in a snapshot. */
export const liveInvokes = (snapshot: AnyMachineSnapshot): Set<string> =>
  new Set(invokesIn(snapshot).keys());
