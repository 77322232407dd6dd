/**
 * A short way through a machine of one level: the transition that XState selects, by its guards, and the actions that it names, in order.
 *
 * XState's interpreter is made for nested and parallel states, and makes a dozen sets for each event to find out that there are none. A test
 * walks the default agent both ways and compares. Machines of users always go the long way. See docs/adr/0008.
 */
import type { AnyMachineSnapshot, AnyStateMachine, EventObject } from 'xstate';
import { Defect } from '../errors.ts';

type Arguments = { readonly context: unknown; readonly event: EventObject };
type Named = string | { readonly type: string; readonly params?: unknown };
type Implementation = ((args: Arguments, params: unknown) => unknown) & {
  readonly assignment?: (args: Arguments, params: unknown) => object;
  readonly resolve?: unknown;
};

interface Node {
  readonly key: string;
  readonly type: string;
  readonly entry: readonly unknown[];
  readonly exit: readonly unknown[];
  readonly invoke: readonly unknown[];
  readonly tags: readonly string[];
  readonly always?: readonly unknown[] | undefined;
  readonly after: readonly unknown[];
  readonly states: Readonly<Record<string, Node>>;
  readonly transitions: ReadonlyMap<string, readonly FlatTransition[]>;
}

export interface FlatTransition {
  readonly eventType: string;
  readonly target?: readonly Node[] | undefined;
  readonly actions: readonly Named[];
}

export interface FlatStep<Taken> {
  readonly snapshot: AnyMachineSnapshot;
  readonly taken: Taken;
  readonly actions: readonly { readonly type: string; readonly params: unknown }[];
}

const nameOf = (action: Named): string => (typeof action === 'string' ? action : action.type);

const isPlain = ({ entry, exit, invoke, always, after, tags }: Node): boolean =>
  entry.length === 0 &&
  exit.length === 0 &&
  invoke.length === 0 &&
  !always?.length &&
  after.length === 0 &&
  tags.length === 0;

/**
 * @returns the step, or undefined where the long way is to be gone: no transition, one without a target, or one to a final state
 * @throws Defect when the machine has more than one level, states that do something by themselves, or actions that do more than assign
 */
export function flatTransitionOf(
  machine: AnyStateMachine,
): <Taken extends FlatTransition>(
  snapshot: AnyMachineSnapshot,
  event: EventObject,
) => FlatStep<Taken> | undefined {
  const root = machine.root as unknown as Node;
  const states = Object.values(root.states);
  const implementations = machine.implementations.actions as unknown as Readonly<
    Record<string, Implementation | undefined>
  >;
  const isSupported = (action: unknown): boolean => {
    if (typeof action === 'function') return false; // not named
    const implementation = implementations[nameOf(action as Named)];
    return implementation?.assignment !== undefined || implementation?.resolve === undefined;
  };
  const actions = [root, ...states].flatMap(({ transitions }) =>
    [...transitions.values()].flat().flatMap((transition) => transition.actions),
  );
  const isFlat =
    [root, ...states].every(isPlain) &&
    states.every(({ type }) => type === 'atomic' || type === 'final');
  if (!isFlat || !actions.every(isSupported))
    throw new Defect('MACHINE_NOT_FLAT', `machine ${machine.id} is not flat`);

  return <Taken extends FlatTransition>(snapshot: AnyMachineSnapshot, event: EventObject) => {
    const selected = machine.getTransitionData(
      snapshot as never,
      event as never,
    ) as unknown as readonly Taken[];
    const taken = selected[0];
    const target = taken?.target?.[0];
    if (!taken || target?.type !== 'atomic') return undefined;

    let context = snapshot.context as object;
    const actions: { type: string; params: unknown }[] = [];
    for (const action of taken.actions) {
      const type = nameOf(action);
      const given = typeof action === 'string' ? undefined : action.params;
      const params =
        typeof given === 'function'
          ? (given as (args: Arguments) => unknown)({ context, event })
          : given;
      const implementation = implementations[type];
      if (implementation?.assignment)
        context = { ...context, ...implementation.assignment({ context, event }, params) };
      else actions.push({ type, params });
    }
    const isElsewhere = target.key !== snapshot.value;
    const moved = {
      ...snapshot,
      context,
      ...(isElsewhere ? { value: target.key, _nodes: [root, target] } : {}),
    };
    return { snapshot: moved as unknown as AnyMachineSnapshot, taken, actions };
  };
}
