/**
 * What a user's own machine did in a step, action by action, as timers, children, events and log
 * lines (behaviour 4). What cannot be performed is refused before anything of the step leaves.
 */
import type { AnyActorRef } from 'xstate';
import { Refused } from '../errors.ts';
import { without } from '../keyed.ts';
import { limits } from '../limits.ts';
import type { ToldEffect } from './effects.ts';
import type { MachineAction } from './machine-host.ts';
import { exactly, type Stored } from './machine-state.ts';
import { isInvokable, isPerformable, sourceName } from './machine-walk.ts';
import type { SessionRecord } from './record.ts';

export interface Spawned {
  readonly src: string;
  readonly input: unknown;
}

export interface Acted {
  readonly timers: SessionRecord['timers'];
  /** Invokes and children that began in this step, by id. */
  readonly spawned: ReadonlyMap<string, Spawned>;
  /** Children that it spawned itself (`spawnChild`) and has not stopped. */
  readonly children: readonly string[];
  readonly stopped: ReadonlySet<string>;
  /** Events that it emitted, and lines that it logged. */
  readonly told: readonly ToldEffect[];
}

type Timer = SessionRecord['timers'][string];

const childrenMax = 1_000; // that a machine has spawned and not stopped: their ids stand in its record
const timersMax = 1_000; // of one session

/** What the machine is, and by which rules its session decides. */
interface Ground {
  /** Invokes of the states that it is in now. */
  readonly invokes: ReadonlySet<string>;
  /** Does any of its states invoke a child of this id? */
  readonly isInvoked: (id: string) => boolean;
  readonly behaviour: number;
}

/** @throws Refused (MACHINE_UNSUPPORTED, MACHINE_NOT_JSON) */
export function readActions(
  actions: readonly MachineAction[],
  before: {
    readonly timers: SessionRecord['timers'];
    readonly children: readonly string[];
    readonly pending: SessionRecord['pending'];
  },
  at: number,
  ground: Ground,
): Acted {
  const { invokes, behaviour } = ground;
  const timers = new Timers(before.timers, at);
  const spawned = new Map<string, Spawned>();
  const children = new Set(before.children);
  const living = new Set(Object.values(before.pending).map(({ invoke }) => invoke));
  const stopped = new Set<string>();
  const emitted: Stored[] = [];
  const logged: string[] = [];
  for (const action of actions) {
    mustBePerformable(action);
    switch (action.type) {
      case 'xstate.spawnChild': {
        const child = spawnedOf(action.params, ground);
        // Two of one id: the end of one would be told as the other's.
        if (living.has(child.id) && (behaviour >= 5 || !invokes.has(child.id)))
          throw unsupported(`it starts ${child.id}, and a child of that id lives`);
        living.add(child.id);
        spawned.set(child.id, child);
        if (!invokes.has(child.id)) children.add(child.id);
        break;
      }
      case 'xstate.stopChild': {
        const id = (action.params as { id?: string } | undefined)?.id;
        if (id === undefined) break;
        stopped.add(id);
        living.delete(id);
        spawned.delete(id);
        children.delete(id);
        break;
      }
      case 'xstate.raise': {
        const { event, id, delay } = action.params as Sent;
        if (delay !== undefined) timers.set(event, delay, id);
        break;
      }
      case 'xstate.sendTo': {
        if (action.target === 'other')
          throw unsupported('it sends an event to an actor that is none of its own');
        const { event, id, delay } = action.params as Sent;
        // What it sends to a child goes by, as with a promise; to itself at once was heard.
        if (delay !== undefined && action.target === 'itself') timers.set(event, delay, id);
        else if (delay !== undefined && id !== undefined && behaviour >= 5) timers.rename(id);
        break;
      }
      case 'xstate.cancel':
        timers.cancel((action.params as { sendId: string }).sendId);
        break;
      case 'xstate.emit':
        emitted.push(
          exactly((action.params as { event: unknown }).event, 'an event that it emits'),
        );
        break;
      case 'xstate.log':
        logged.push(loggedOf(action.params as { value: unknown; label?: string }));
        break;
    }
  }
  if (children.size > childrenMax)
    throw unsupported(`it has spawned more than ${childrenMax} children and not stopped them`);
  const bytes = emitted.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);
  if (bytes > limits.emittedBytesMax)
    throw unsupported(
      `it emits ${bytes} bytes of events in one step; ${limits.emittedBytesMax} are allowed`,
    );
  return {
    timers: timers.all,
    spawned,
    children: [...children],
    stopped,
    told: [
      ...emitted.map(({ value }): ToldEffect => ({ kind: 'emit', event: value })),
      ...withinBound(logged).map((line): ToldEffect => ({ kind: 'log', line })),
    ],
  };
}

interface Sent {
  readonly event: { readonly type: string };
  readonly id?: string | undefined;
  readonly delay?: number | undefined;
}

const unsupported = (why: string) => new Refused('MACHINE_UNSUPPORTED', why);

/** What `enqueueActions` asked for is known only now. */
function mustBePerformable({ type, params, isImplemented }: MachineAction): void {
  // A function under the name of a built-in action comes without what that is made of.
  const isBuiltin =
    type === 'xstate.stopChild' ||
    (isPerformable(type) && !isSilent(type) && typeof params === 'object' && params !== null);
  if (isBuiltin) return;
  throw unsupported(
    isImplemented
      ? `the action ${type} is a function, which would never run; invoke a tool instead`
      : `nothing implements the action ${type}`,
  );
}

/** Built-in actions that ask nothing of a host. */
const isSilent = (type: string): boolean =>
  type === 'xstate.assign' || type === 'xstate.enqueueActions';

/** @throws Refused for what is no effect, or could not be told apart from others */
function spawnedOf(
  params: unknown,
  { invokes, isInvoked, behaviour }: Ground,
): Spawned & { readonly id: string } {
  const { id, src, input, actorRef, systemId } = params as {
    readonly id: unknown;
    readonly src: unknown;
    readonly input: unknown;
    readonly systemId?: string;
    readonly actorRef?: AnyActorRef & { readonly _syncSnapshot?: boolean };
  };
  const name = sourceName(src);
  if (!isInvokable(src))
    throw unsupported(`it starts ${name}; a durable machine starts model, tool, agent, human only`);
  if (id === undefined || !actorRef)
    throw unsupported(`it spawns ${name} without an id; its end could not be told`);
  // A state may be left within the step that entered it.
  const isOfState = invokes.has(actorRef.id) || (behaviour >= 5 && isInvoked(actorRef.id));
  if (systemId !== undefined && !isOfState)
    throw unsupported(`it gives the child ${actorRef.id} a systemId; only invokes have one`);
  if (behaviour >= 5 && actorRef.id in {})
    throw unsupported(`it spawns ${actorRef.id}, a name that every object has`);
  if (actorRef._syncSnapshot)
    throw unsupported(`it listens to snapshots of ${actorRef.id}; an effect has only its end`);
  return { id: actorRef.id, src: src as string, input };
}

/** A log line is for people: what JSON cannot write is spelled, and nothing is refused for it. */
function loggedOf({ value, label }: { readonly value: unknown; readonly label?: string }): string {
  let text: string;
  try {
    text = typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value));
  } catch {
    text = '(what JSON cannot write)';
  }
  return label ? `${String(label)}: ${text}` : text;
}

/** What is beyond the bound is counted. */
function withinBound(lines: readonly string[]): readonly string[] {
  let left: number = limits.loggedLengthMax;
  const kept: string[] = [];
  for (const line of lines) {
    if (left <= 0) return [...kept, `(${lines.length - kept.length} more lines)`];
    kept.push(line.slice(0, left));
    left -= line.length;
  }
  return kept;
}

/**
 * Timers of a machine, each under a key of its own: two of one name are two. Those that are due
 * together fire in the order in which they were set. As with XState's clock a name means the last
 * that was set under it, and means nothing once one of that name has fired (see `fired`).
 */
class Timers {
  readonly #timers: Record<string, Timer>;
  readonly #at: number;
  #last: number;

  constructor(before: SessionRecord['timers'], at: number) {
    this.#timers = { ...before };
    this.#at = at;
    this.#last = Math.max(0, ...Object.values(before).map(({ order }) => order ?? 0));
  }

  get all(): SessionRecord['timers'] {
    return this.#timers;
  }

  set(event: { readonly type: string }, delay: number, id: string | undefined): void {
    if (typeof delay !== 'number' || !Number.isFinite(delay))
      throw unsupported(
        `the delay of ${id ?? event.type} is ${String(delay)}, which is no number of milliseconds`,
      );
    if (Object.keys(this.#timers).length >= timersMax)
      throw unsupported(`it waits for more than ${timersMax} timers`);
    this.#last += 1;
    if (id !== undefined) forget(this.#timers, id);
    const { value, forms } = exactly(event, `the event of the timer ${id ?? event.type}`, true);
    this.#timers[`${id ?? event.type}#${this.#last}`] = {
      dueAt: this.#at + delay,
      event: value,
      ...(Object.keys(forms).length > 0 ? { forms } : {}),
      order: this.#last,
      ...(id === undefined ? {} : { id }),
    };
  }

  /** Something that is no timer of the session is sent under this name: it means that from now on. */
  rename(id: string): void {
    forget(this.#timers, id);
  }

  cancel(id: string): void {
    for (const [key, timer] of Object.entries(this.#timers))
      if (timer.id === id && !timer.isUnnamed) delete this.#timers[key];
  }
}

function forget(timers: Record<string, Timer>, id: string): void {
  for (const [key, timer] of Object.entries(timers))
    if (timer.id === id) timers[key] = { ...timer, isUnnamed: true };
}

/** What is left when one has fired: no other of its name can be cancelled any more. */
export function fired(timers: SessionRecord['timers'], key: string): SessionRecord['timers'] {
  const id = timers[key]?.id;
  const left = without(timers, key);
  if (id === undefined) return left;
  const named = { ...left };
  forget(named, id);
  return named;
}
