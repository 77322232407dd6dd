/**
 * A user's own machine, message by message, equal to a plain actor of it (behaviour 4).
 *
 * As in machine-host.ts nothing that a machine starts is ever started. Beyond that, what plain XState
 * gives a machine is given here too: the children it has, `self.getSnapshot()`, events that it sends
 * to itself, and an end in status `error` when its own code throws. What a session cannot give
 * (a system of actors, listeners, `self.send`) is refused by name when it is touched.
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
import { Defect, Refused } from '../errors.ts';
import {
  boundSteps,
  choicesOf,
  inertMachine,
  invokesIn,
  type MachineAction,
  type MachineDriver,
  type Transitioned,
} from './machine-host.ts';

const inert = fromPromise(async () => undefined);

/** What an actor can do that is heard, or begun, outside of a step. */
const listening = ['send', 'subscribe', 'on', 'start', 'stop', 'getPersistedSnapshot'];

const chainMax = 1_000; // events that a machine sends itself, one after the other, within one message

const unsupported = (what: string) =>
  new Refused('MACHINE_UNSUPPORTED', `the machine uses ${what}, which a durable session has not`);

export function durableDriverOf(given: AnyStateMachine): MachineDriver {
  const machine = inertMachine(given);
  boundSteps(machine);
  let actions: MachineAction[] = [];
  let choices: Transitioned['choices'][number][] = [];
  let refusal: Refused | undefined;
  // Whoever catches what is thrown here, the step is refused all the same.
  const refuse = (what: string) => (): never => {
    refusal ??= unsupported(what);
    throw refusal;
  };

  const refusing = (actor: object, whose: string, names: readonly string[]) => {
    for (const name of names)
      Object.defineProperty(actor, name, { get: refuse(`${whose}.${name}`), set: () => {} });
  };
  const self = createActor(inert) as unknown as AnyActorRef & { _snapshot: unknown };
  /** By systemId: children that have not ended. */
  const named = new Map<string, object>();
  const forgetName = (child: object) => {
    for (const [id, one] of named) if (one === child) named.delete(id);
  };
  const system = Object.create((self as unknown as { system: object }).system) as Record<
    string,
    unknown
  >;
  Object.assign(system, {
    _sendInspectionEvent: (event: Parameters<typeof choicesOf>[0]) =>
      choices.push(...choicesOf(event)),
    // A child of the machine registers with the system; none lives longer than the transition.
    _register: (sessionId: string) => sessionId,
    _unregister: forgetName,
    _set: (id: string, child: object) => {
      const other = named.get(id);
      if (other && other !== child) throw new Error(`Actor with system ID '${id}' already exists.`);
      named.set(id, child);
    },
    get: (id: string) => named.get(id),
    _relay: () => {},
  });
  refusing(system, 'system', ['getAll', 'inspect', 'getSnapshot', 'start']);
  refusing(self, 'self', listening);
  // One driver is every session of its machine: these names would be the same in all of them.
  refusing(self, 'self', ['id', 'sessionId']);
  Object.defineProperty(self, 'system', { value: system });
  const scope = {
    self,
    id: machine.id,
    sessionId: '',
    logger: () => {},
    defer: () => {},
    stopChild: () => {},
    system,
    emit: () => {},
    actionExecutor: ({ type, params, exec }: MachineAction & { exec?: unknown }) => {
      const { actorRef } = (params ?? {}) as { actorRef?: object };
      if (type === 'xstate.spawnChild' && actorRef) keep(actorRef);
      // An actor that is just beginning stops children when it has begun.
      if (type === 'xstate.stopChild' && self._snapshot) forgetName(params as object);
      actions.push({ type, params, isImplemented: exec !== undefined });
    },
  } as never;

  /** Children that a session knows of: invoked, or spawned by an action. */
  const known = new WeakSet<object>();
  const childOf = (id: string, systemId?: string): AnyActorRef => {
    const options = { id, parent: self, systemId } as never;
    const child = createActor(inert, options) as unknown as AnyActorRef;
    keep(child);
    return child;
  };
  const keep = (child: object): void => {
    known.add(child);
    refusing(child, 'a child', [...listening, 'getSnapshot', 'sessionId']);
  };

  /** One event as XState hears it. A throw of the machine's own code is its end, as under a plain actor. */
  const hear = (before: AnyMachineSnapshot | undefined, run: () => AnyMachineSnapshot) => {
    self._snapshot = before;
    const [actionsBefore, choicesBefore] = [actions.length, choices.length];
    let snapshot: AnyMachineSnapshot;
    try {
      snapshot = run();
    } catch (error) {
      // What it logged before it threw has been logged; all else is done after an event, or never.
      const logged = actions.slice(actionsBefore).filter(({ type }) => type === 'xstate.log');
      actions.splice(actionsBefore, actions.length, ...logged);
      choices.length = choicesBefore;
      snapshot = failedSnapshot(machine, before, error);
    }
    for (const [id, child] of Object.entries(snapshot.children))
      if (child && !known.has(child))
        refusal ??= unsupported(`spawn() in an assign (${id.slice(0, 200)}; use spawnChild)`);
    return snapshot;
  };

  const collect = (
    before: AnyMachineSnapshot | undefined,
    run: () => AnyMachineSnapshot,
  ): Transitioned => {
    actions = [];
    choices = [];
    refusal = undefined;
    let snapshot = hear(before, run);
    // An actor that cannot begin does nothing.
    if (!before && snapshot.status === 'error') actions = [];
    if (!before)
      for (const { type, params } of actions)
        if (type === 'xstate.stopChild') forgetName(params as object);
    const waiting = sentToItself(targeted(0));
    const isGoingOn = () => waiting.length > 0 && snapshot.status === 'active' && !refusal;
    for (let count = 0; isGoingOn(); count += 1) {
      if (count === chainMax) {
        const error = new Error(`the machine sent itself more than ${chainMax} events in a row`);
        snapshot = failedSnapshot(machine, snapshot, error);
        break;
      }
      const heard = actions.length;
      const [event, now] = [waiting.shift()!, snapshot];
      snapshot = hear(now, () => transition(now, event));
      waiting.push(...sentToItself(targeted(heard)));
    }
    return { snapshot, actions, choices, refusal };
  };
  /** Whom events are for is known when the whole event has been heard: a child may begin after it. */
  const targeted = (from: number): readonly MachineAction[] => {
    for (let at = from; at < actions.length; at += 1) {
      const action = actions[at]!;
      if (action.type !== 'xstate.sendTo') continue;
      const { to } = (action.params ?? {}) as { to?: { _parent?: unknown } };
      const target = to === self ? 'itself' : to?._parent === self ? 'child' : 'other';
      actions[at] = { ...action, target };
    }
    return actions.slice(from);
  };
  const transition = (snapshot: AnyMachineSnapshot, event: EventObject) =>
    machine.transition(snapshot as never, event as never, scope) as AnyMachineSnapshot;

  return {
    machine,
    initial(input) {
      named.clear();
      return collect(undefined, () => machine.getInitialSnapshot(scope, input as never) as never);
    },
    transition: (snapshot, event) => collect(snapshot, () => transition(snapshot, event)),
    restore: ({
      value,
      context,
      status,
      output,
      history,
      children = [],
      stopped = [],
      waiting,
      nodes,
    }) => {
      named.clear();
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
      standIn(restored, value, nodes);
      const invokes = invokesIn(restored);
      const refs: Record<string, AnyActorRef> = {};
      for (const [id, { systemId }] of invokes)
        if (!stopped.includes(id)) refs[id] = childOf(id, waiting?.has(id) ? systemId : undefined);
      for (const id of children) refs[id] ??= childOf(id);
      (restored as { children: object }).children = refs;
      return restored;
    },
  };
}

interface StateNode {
  readonly id: string;
  readonly tags: readonly string[];
}

/** The states that it was in, as they were entered, and the names of parallel ones in their order. */
function standIn(
  restored: AnyMachineSnapshot,
  value: unknown,
  nodes: readonly string[] | undefined,
): void {
  if (!nodes) return;
  const own = restored as unknown as { _nodes: StateNode[]; value: unknown; tags: Set<string> };
  const { idMap } = restored.machine as unknown as { idMap: ReadonlyMap<string, StateNode> };
  own._nodes = nodes.map((id) => {
    const node = idMap.get(id);
    if (!node) throw new Defect('RESTORE', `machine ${restored.machine.id} has no state ${id}`);
    return node;
  });
  own.tags = new Set(own._nodes.flatMap(({ tags }) => tags));
  own.value = value;
}

/** Events that a machine sends to itself at once: it hears them after this one, in their order. */
const sentToItself = (actions: readonly MachineAction[]): EventObject[] =>
  actions.flatMap(({ target, params }) => {
    if (target !== 'itself') return [];
    const { event, delay } = params as { event: EventObject; delay?: unknown };
    return typeof delay === 'number' ? [] : [event];
  });

/** As a plain actor leaves it: where it stood, in status `error`. */
const failedSnapshot = (
  machine: AnyStateMachine,
  before: AnyMachineSnapshot | undefined,
  error: unknown,
): AnyMachineSnapshot =>
  ({
    machine,
    value: 'idle',
    context: {},
    historyValue: {},
    _nodes: [],
    children: {},
    ...before,
    status: 'error',
    output: undefined,
    error,
  }) as unknown as AnyMachineSnapshot;
