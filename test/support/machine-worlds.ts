/**
 * One machine in two worlds: a plain actor with a clock that is turned by hand, and a durable
 * session whose record is written as JSON and read again before every message.
 */
import { type AnyStateMachine, createActor, fromPromise } from 'xstate';
import type { AgentName, EffectId, Revision, TaskId } from '../../services/core/ids.ts';
import type { Definition } from '../../services/core/session/draft.ts';
import type { Message } from '../../services/core/session/messages.ts';
import { parseRecord } from '../../services/core/session/migrate.ts';
import type { SessionRecord } from '../../services/core/session/record.ts';
import { step } from '../../services/core/session/step.ts';
import { address, bundleOf } from './sessions.ts';

/** What both worlds are compared by. */
export interface Seen {
  readonly status: string;
  readonly value: unknown;
  readonly context: unknown;
  readonly output: unknown;
  /** Ids of what it waits for. */
  readonly open: readonly string[];
  /** Events of its timers with their due times, in the order in which they fire. */
  readonly timers: readonly string[];
  readonly emitted: readonly unknown[];
  readonly logged: readonly unknown[];
}

interface Timer {
  readonly at: number;
  readonly set: number;
  readonly fire: () => void;
}

interface Open {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/** What JSON would not show: a field that is there and undefined, an error. */
export const shown = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (_key, inner: unknown) => {
      if (inner === undefined) return '(undefined)';
      return inner instanceof Error ? `(error ${inner.message})` : inner;
    }) ?? 'null',
  );

export class PlainWorld {
  readonly actor;
  readonly #open = new Map<string, Open>();
  readonly #timers: Timer[] = [];
  readonly #emitted: unknown[] = [];
  readonly #logged: unknown[] = [];
  #now = 0;
  #set = 0;

  constructor(machine: AnyStateMachine) {
    const answered = fromPromise(
      ({ self, signal }) =>
        new Promise((resolve, reject) => {
          const open = { resolve, reject };
          this.#open.set(self.id, open);
          signal.addEventListener('abort', () => {
            if (this.#open.get(self.id) === open) this.#open.delete(self.id);
          });
        }),
    );
    const clock = {
      setTimeout: (fire: () => void, ms: number) => {
        this.#set += 1;
        const timer = { at: this.#now + ms, set: this.#set, fire };
        this.#timers.push(timer);
        return timer;
      },
      clearTimeout: (timer: Timer) => {
        const at = this.#timers.indexOf(timer);
        if (at >= 0) this.#timers.splice(at, 1);
      },
    };
    const actors = { model: answered, tool: answered, agent: answered, human: answered };
    this.actor = createActor(machine.provide({ actors } as never), {
      clock: clock as never,
      input: {} as never,
      logger: (...words: unknown[]) => this.#logged.push(words.join(': ')),
    });
    this.actor.on('*', (event: unknown) => this.#emitted.push(event));
    this.actor.subscribe({ error: () => undefined });
    this.actor.start();
  }

  async send(event: { type: string }): Promise<void> {
    this.actor.send(event);
    await settled();
  }
  async done(id: string, value: unknown): Promise<void> {
    this.#take(id)?.resolve(value);
    await settled();
  }
  async fail(id: string, message: string): Promise<void> {
    this.#take(id)?.reject(new Error(message));
    await settled();
  }
  async wait(ms: number): Promise<void> {
    const until = this.#now + ms;
    for (let timer = this.#due(until); timer; timer = this.#due(until)) {
      this.#timers.splice(this.#timers.indexOf(timer), 1);
      this.#now = timer.at;
      timer.fire();
    }
    this.#now = until;
    await settled();
  }
  #due(until: number) {
    const due = this.#timers.filter(({ at }) => at <= until);
    return due.sort((left, right) => left.at - right.at || left.set - right.set)[0];
  }
  #take(id: string): Open | undefined {
    const open = this.#open.get(id);
    this.#open.delete(id);
    return open;
  }

  get seen(): Seen {
    const snapshot = this.actor.getSnapshot() as {
      status: string;
      value: unknown;
      context: unknown;
      output: unknown;
    };
    const status =
      { done: 'completed', error: 'failed', active: 'active' }[snapshot.status] ?? snapshot.status;
    const isActive = status === 'active';
    return {
      status,
      value: status === 'failed' ? undefined : snapshot.value,
      context: shown(snapshot.context),
      output: status === 'completed' ? shown(snapshot.output ?? null) : undefined,
      open: isActive ? [...this.#open.keys()].sort() : [],
      timers: isActive
        ? [...this.#timers]
            .sort((left, right) => left.at - right.at || left.set - right.set)
            .map(({ at }) => String(at))
        : [],
      emitted: shown(this.#emitted) as unknown[],
      logged: this.#logged,
    };
  }
}

const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

export class DurableWorld {
  text: string | undefined;
  readonly emitted: unknown[] = [];
  readonly logged: string[] = [];
  #at = 0;
  #sequence = 0;
  readonly #definition: Definition;

  constructor(machine: AnyStateMachine) {
    const limits = { stepsMax: 100_000, toolCallsMax: 100_000, tokensMax: 1e9 } as never;
    this.#definition = { bundle: bundleOf({ limits }), machine };
    this.#say({
      kind: 'task',
      task: 't' as TaskId,
      agent: 'clerk' as AgentName,
      revision: 'r' as Revision,
      input: '{}',
      isKeyed: false,
    });
  }
  get record(): SessionRecord {
    return parseRecord(this.text!);
  }
  #say(message: Message): void {
    this.#sequence += 1;
    const stepped = step(
      this.text ? this.record : undefined,
      { message, at: this.#at, position: { incarnation: 0, sequence: this.#sequence, index: 0 } },
      this.#definition,
      address,
    );
    if (stepped.kind !== 'applied') return;
    this.text = JSON.stringify(stepped.record);
    for (const effect of stepped.effects) {
      if (effect.kind === 'emit') this.emitted.push(effect.event);
      if (effect.kind === 'log') this.logged.push(effect.line);
    }
  }
  send(event: { type: string }): void {
    const { tenant } = address;
    if (this.record.status !== 'active') return;
    this.#say({ kind: 'event', id: `e${this.#sequence}`, from: tenant, event });
  }
  done(id: string, value: unknown): void {
    const effect = this.#effectOf(id);
    if (!effect) return;
    const how = { bytes: 1, truncated: false, latencyMs: 1, attempts: 1, executor: 'x' };
    this.#say({ kind: 'toolReturned', effect, value, ...how });
  }
  fail(id: string, message: string): void {
    const effect = this.#effectOf(id);
    if (!effect) return;
    const failure = { class: 'permanent' as const, code: 'NO', message };
    this.#say({ kind: 'toolFailed', effect, failure, latencyMs: 1, attempts: 1, executor: 'x' });
  }
  wait(ms: number): void {
    const until = this.#at + ms;
    for (;;) {
      const { timers, status } = this.record;
      const next = Math.min(...Object.values(timers).map(({ dueAt }) => dueAt));
      if (status !== 'active' || !(next <= until)) break;
      this.#at = Math.max(this.#at, next);
      this.#say({ kind: 'wake' });
    }
    this.#at = until;
  }
  #effectOf(id: string): EffectId | undefined {
    const found = Object.entries(this.record.pending).find(([, { invoke }]) => invoke === id);
    return found?.[0] as EffectId | undefined;
  }

  get seen(): Seen {
    const { status, value, context, output, pending, timers, forms } = this.record;
    const { wall: _, ...own } = timers;
    return {
      status,
      value: status === 'failed' ? undefined : value,
      context: withForms(context, forms),
      output: status === 'completed' ? jsonOr(output) : undefined,
      open: Object.values(pending)
        .map(({ invoke }) => invoke ?? '')
        .sort(),
      timers: Object.values(own)
        .sort((left, right) => left.dueAt - right.dueAt || (left.order ?? 0) - (right.order ?? 0))
        .map(({ dueAt }) => String(dueAt)),
      emitted: this.emitted,
      logged: this.logged,
    };
  }
}

/** As `shown` shows it in the plain world. */
function withForms(context: unknown, forms: SessionRecord['forms'] = {}): unknown {
  const copy = structuredClone(context) as Record<string, unknown>;
  for (const [pointer, form] of Object.entries(forms)) {
    const keys = pointer.split('/').slice(1);
    const last = keys.pop()!;
    let holder = copy;
    for (const key of keys) holder = holder[key] as Record<string, unknown>;
    const { message } = (holder[last] ?? {}) as { message?: string };
    holder[last] = form === 'undefined' ? '(undefined)' : `(error ${message})`;
  }
  return copy;
}

const jsonOr = (output: unknown): unknown => {
  if (output === undefined) return null;
  try {
    return JSON.parse(output as string);
  } catch {
    return output;
  }
};
