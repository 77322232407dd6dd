/** Small builders for core tests: a bundle, a session, and the messages it hears. */

import { limitsSchema } from '../../services/core/budget/budget.ts';
import type {
  AgentName,
  EffectId,
  Revision,
  SessionId,
  TaskId,
  TenantId,
} from '../../services/core/ids.ts';
import type { AgentContext } from '../../services/core/session/agent-context.ts';
import { currentBehaviour } from '../../services/core/session/behaviour.ts';
import type { Definition, Step } from '../../services/core/session/draft.ts';
import type { Effect, PendingEffect, RunTool } from '../../services/core/session/effects.ts';
import type { Message, ModelReply } from '../../services/core/session/messages.ts';
import { modelSpecSchema } from '../../services/core/session/model-spec.ts';
import type { SessionRecord } from '../../services/core/session/record.ts';
import { type AgentSpec, agentSpecSchema, type Bundle } from '../../services/core/session/specs.ts';
import { step } from '../../services/core/session/step.ts';
import { toolSpecSchema } from '../../services/core/tools/tool-spec.ts';
import type { SessionCommit } from '../../services/ports/session-store.ts';

export const address = { tenant: 'acme' as TenantId, session: 'clerk-1' as SessionId };
export const agent = 'clerk' as AgentName;
export const revision = 'r1' as Revision;

const tool = (
  toolClass: string,
  input: Record<string, unknown> = { type: 'object', properties: {} },
) =>
  toolSpecSchema.parse({
    description: `a ${toolClass} tool`,
    class: toolClass,
    input,
    run: { kind: 'builtin', name: 'echo' },
  });

export function bundleOf(spec: Partial<AgentSpec> = {}): Bundle {
  return {
    name: agent,
    agent: agentSpecSchema.parse({
      instructions: 'Be a clerk.',
      model: 'm',
      tools: ['look', 'pay'],
      ...spec,
    }),
    tools: {
      look: tool('pure'),
      pay: tool('keyed', {
        type: 'object',
        properties: { amount: { type: 'number' } },
        required: ['amount'],
        additionalProperties: false,
      }),
    },
    models: [
      {
        ...modelSpecSchema.parse({
          model: 'm-1',
          price: { inputMicrosPerMillion: 1_000_000, outputMicrosPerMillion: 2_000_000 },
        }),
        name: 'm',
      },
    ],
    behaviour: currentBehaviour,
    agents: {
      helper: { description: 'helps', limits: limitsSchema.parse({ stepsMax: 3 }), revision: 'h1' },
    },
  };
}

export const definitionOf = (spec: Partial<AgentSpec> = {}): Definition => ({
  bundle: bundleOf(spec),
});

export const task = (
  input = 'hello',
  more: Partial<Extract<Message, { kind: 'task' }>> = {},
): Message => ({
  kind: 'task',
  task: 'task-1' as TaskId,
  agent,
  revision,
  input,
  isKeyed: false,
  ...more,
});

export const replied = (
  effect: string,
  reply: Partial<ModelReply> & { calls?: ModelReply['calls'] } = {},
): Message => ({
  kind: 'modelReplied',
  effect: effect as EffectId,
  reply: {
    content: '',
    calls: [],
    finish: 'stop',
    usage: { promptTokens: 100, completionTokens: 10, cachedTokens: 0 },
    costMicros: 120,
    model: 'm-1',
    latencyMs: 5,
    attempts: 1,
    ...reply,
  },
});

/** What a commit writes of a session: one step of a new one that wants nothing, unless it is told otherwise. */
export const sessionCommit = (more: Partial<SessionCommit> = {}): SessionCommit => ({
  session: address.session,
  expectedVersion: 0,
  version: 1,
  record: '{}',
  entriesBefore: 0,
  entries: [],
  pending: [],
  resolved: [],
  wakeAt: undefined,
  floor: undefined,
  ...more,
});

export const call = (name: string, args: unknown = {}, id = `call-${name}`) => ({
  id,
  name,
  arguments: typeof args === 'string' ? args : JSON.stringify(args),
});

export const returned = (effect: string, value: unknown = { ok: true }): Message => ({
  kind: 'toolReturned',
  effect: effect as EffectId,
  value,
  bytes: 10,
  truncated: false,
  latencyMs: 3,
  attempts: 1,
  executor: 'x',
});

export const toolFailed = (
  effect: string,
  failureClass: 'transient' | 'semantic' | 'permanent' | 'unknown' = 'permanent',
): Message => ({
  kind: 'toolFailed',
  effect: effect as EffectId,
  failure: { class: failureClass, code: 'NO', message: 'it did not work' },
  latencyMs: 3,
  attempts: 1,
  executor: 'x',
});

/** A session that is talked to, one message after the other, a millisecond apart. */
export class Talk {
  record: SessionRecord | undefined;
  readonly definition: Definition;
  readonly effects: Effect[] = [];
  readonly entries: unknown[] = [];
  readonly heard: {
    message: Message;
    at: number;
    position: { incarnation: number; sequence: number; index: number };
  }[] = [];
  last: Step | undefined;
  at: number;
  #sequence = 0;

  constructor(definition: Definition = definitionOf(), at = 1_000) {
    this.definition = definition;
    this.at = at;
  }

  say(message: Message, afterMs = 1): Step {
    this.at += afterMs;
    this.#sequence += 1;
    const incoming = {
      message,
      at: this.at,
      position: { incarnation: 0, sequence: this.#sequence, index: 0 },
    };
    this.heard.push(incoming);
    // Through JSON each time, as after a restart: nothing may live in memory only.
    const stored = this.record
      ? (JSON.parse(JSON.stringify(this.record)) as SessionRecord)
      : undefined;
    this.last = step(stored, incoming, this.definition, address);
    if (this.last.kind === 'applied') {
      this.record = this.last.record;
      this.effects.push(...this.last.effects);
      this.entries.push(...this.last.entries);
    }
    return this.last;
  }

  /** Effects of the last step. */
  get wants(): readonly Effect[] {
    return this.last?.kind === 'applied' ? this.last.effects : [];
  }
  get kinds(): string[] {
    return this.wants.map((effect) => effect.kind);
  }
  get pending(): string[] {
    return Object.keys(this.record?.pending ?? {});
  }
  pendingOf(kind: PendingEffect['kind']): string {
    const found = Object.entries(this.record?.pending ?? {}).find(
      ([, note]) => note.kind === kind,
    )?.[0];
    if (!found) throw new Error(`no ${kind} is pending`);
    return found;
  }
  get context(): AgentContext {
    return this.record!.context as unknown as AgentContext;
  }
  get state(): unknown {
    return this.record?.value;
  }
}

/** A call of a tool that does nothing, for queues. */
export const runToolOf = (pool: string, id: string): RunTool =>
  ({
    kind: 'runTool',
    id,
    tenant: 'acme',
    session: 's',
    agent: 'desk',
    revision: 'r',
    deadlineAt: 1,
    tool: 't',
    class: 'pure',
    pool,
    arguments: {},
  }) as unknown as RunTool;
