/** Tasks of every kind from two tenants, and an operator who halts some: what was accepted is written down here. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { UnderstudyEvent } from '../../services/core/wire/cloud-event.ts';
import { isEndEvent } from '../../services/core/wire/event-end.ts';
import { type System, script } from '../support/system.ts';

export interface Accepted {
  readonly task: string;
  readonly agent: string;
  /** Several tasks of one key share a session, and what it spends. */
  readonly isKeyed: boolean;
}

const kinds: readonly (readonly string[])[] = [
  ['pure'],
  ['keyed'],
  ['queryable'],
  ['opaque'],
  ['keyed', 'opaque', 'queryable'],
  ['queryable', 'queryable'],
];
const pick = <Value>(all: readonly Value[]): Value =>
  all[Math.floor(Math.random() * all.length)] as Value;

export class Load {
  readonly accepted: Accepted[] = [];
  /** Sessions of which a halt was asked. */
  readonly halted = new Set<string>();
  /** When the end of a session's task was heard of here, epoch ms; and the event. */
  readonly heard = new Map<string, { readonly at: number; readonly event: UnderstudyEvent }>();
  readonly #system: System;
  #looked = 0;

  constructor(system: System) {
    this.#system = system;
    setInterval(() => this.#hear(), 20).unref();
  }

  open(): string[] {
    const ended = new Set(this.#system.events.filter(isEndEvent).map(({ data }) => data.task));
    return this.accepted.map(({ task }) => task).filter((task) => !ended.has(task));
  }

  async publishUntil(until: number): Promise<void> {
    for (let number = 1; Date.now() < until; number += 1) {
      await this.#publish(number);
      await sleep(60 + Math.random() * 80);
    }
  }

  async #publish(number: number): Promise<void> {
    const task = `k-${number}`;
    const isKeyed = number % 7 === 0;
    const agent = !isKeyed && number % 5 === 0 ? 'frugal' : 'desk';
    const options = {
      tenant: number % 2 ? 'acme' : 'globex',
      agent,
      ...(isKeyed ? { headers: { 'Understudy-Session': `key-${number % 490}` } } : {}),
    };
    for (;;) {
      try {
        await this.#system.publish(task, bodyOf(number, task, agent), options);
        break;
      } catch {
        // Whoever was not told that a task is accepted publishes it again.
        await sleep(300);
      }
    }
    this.accepted.push({ task, agent, isKeyed });
    if (number % 11 === 0) setTimeout(() => this.#halt(task), 200 + Math.random() * 1_500);
  }

  #halt(task: string): void {
    const session = this.#system.events.find(({ data }) => data.task === task)?.data.session;
    if (!session) return;
    this.halted.add(session);
    // A runtime that dies meanwhile answers nothing; the session's end tells what came of it.
    this.#system.ask('halt', { session, actor: 'soak' }).catch(() => undefined);
  }

  #hear(): void {
    const { events } = this.#system;
    for (; this.#looked < events.length; this.#looked += 1) {
      const event = events[this.#looked] as UnderstudyEvent;
      if (isEndEvent(event)) this.heard.set(event.data.session, { at: Date.now(), event });
    }
  }
}

function bodyOf(number: number, task: string, agent: string): object {
  const ledger = task;
  if (number % 9 === 0) {
    const input = JSON.stringify({ ...script('pure'), ledger });
    const calls = [{ tool: 'delegate', arguments: { agent: 'helper', input } }, { tool: 'keyed' }];
    return { calls, ledger };
  }
  if (agent === 'frugal') {
    const many = Array.from({ length: 12 }, (_, index) => (index % 2 ? 'keyed' : 'pure'));
    return { ...script(...many), ledger };
  }
  return { ...script(...pick(kinds)), ledger };
}
