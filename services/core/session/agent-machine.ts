/**
 * The default agent as an XState machine: thinking, acting, waiting, compacting, and two ends.
 *
 * The machine decides, by its guards, in the order in which they stand here; what each choice carries
 * has been worked out in the plan. So the decision log is the machine's own list of options.
 * Pausing, halting and parking belong to every session, whatever its machine, and live in `step.ts`.
 */
import { assign, setup } from 'xstate';
import { isEmpty } from '../keyed.ts';
import type { AgentContext } from './agent-context.ts';
import type { Effect } from './effects.ts';
import type { ModelCallPlan } from './model-call.ts';
import type { Plan } from './plan.ts';

/** A message with its plan: what the guards look at. */
export interface AgentEvent {
  readonly type:
    | 'task'
    | 'replied'
    | 'modelFailed'
    | 'tooLong'
    | 'resulted'
    | 'decided'
    | 'summarised';
  readonly plan: Plan;
  /** The next model call, worked out when a guard first asks for it. */
  readonly think: () => ModelCallPlan;
  readonly isContextFull: () => boolean;
  readonly mustShorten: () => boolean;
  readonly summarise: () => ModelCallPlan;
  readonly escalate: (reason: string) => { context: AgentContext; effect: Effect };
  readonly loop: { readonly failuresMax: number; readonly escalates: boolean };
}

export const agentMachineVersion = 1;

type Args = { context: AgentContext; event: AgentEvent };

const refusalOf = (plan: ModelCallPlan): { outcome: 'failed'; reason: string } =>
  plan.ok
    ? { outcome: 'failed', reason: '' }
    : { outcome: 'failed', reason: `${plan.code}: ${plan.reason}` };

const hasCalls = ({ event }: Args) => !isEmpty(event.plan.context.calls);
const hasApprovals = ({ event }: Args) => !isEmpty(event.plan.context.approvals);
const isStuck = ({ event }: Args) => event.plan.context.failures >= event.loop.failuresMax;
const stuckReason = (event: AgentEvent) =>
  event.plan.isLooping ??
  `${event.plan.context.failures} turns in a row in which every tool call failed`;

export const agentMachine = setup({
  types: {
    context: {} as AgentContext,
    events: {} as AgentEvent,
    input: {} as AgentContext,
  },
  guards: {
    mustStop: ({ event }: Args) => event.plan.stop !== undefined,
    isLooping: ({ event }: Args) => event.plan.isLooping !== undefined && !event.loop.escalates,
    isLoopingAndEscalates: ({ event }: Args) => event.plan.isLooping !== undefined,
    isStuck: (args: Args) => isStuck(args) && !args.event.loop.escalates,
    isStuckAndEscalates: isStuck,
    hasAnswer: ({ event }: Args) => event.plan.answer !== undefined,
    hasOpenCalls: hasCalls,
    needsPerson: hasApprovals,
    /** With a new task the conversation of a keyed session is too long (behaviour 4). */
    mustShorten: ({ event }: Args) => event.mustShorten() && event.summarise().ok,
    canSummarise: ({ event }: Args) => event.summarise().ok,
    isContextFull: ({ event }: Args) => event.isContextFull() && event.summarise().ok,
    canThink: ({ event }: Args) => event.think().ok,
  },
  actions: {
    keep: assign(({ event }: Args) => event.plan.context),
    keepThinking: assign(({ event }: Args) => {
      const plan = event.think();
      return plan.ok ? plan.context : {};
    }),
    keepSummarising: assign(({ event }: Args) => {
      const plan = event.summarise();
      return plan.ok ? plan.context : {};
    }),
    keepEscalation: assign(({ event }: Args) => event.escalate(stuckReason(event)).context),
    keepAnswer: assign(({ event }: Args) => ({
      ...event.plan.context,
      outcome: 'completed' as const,
      output: event.plan.answer ?? '',
    })),
    keepStop: assign(({ event }: Args) => ({
      ...event.plan.context,
      outcome: 'failed' as const,
      reason: `${event.plan.stop?.code}: ${event.plan.stop?.reason}`,
    })),
    keepLoop: assign(({ event }: Args) => ({
      ...event.plan.context,
      outcome: 'failed' as const,
      reason: `LOOP: ${stuckReason(event)}`,
    })),
    keepRefusal: assign(({ event }: Args) => ({
      ...event.plan.context,
      ...refusalOf(event.think()),
    })),
    /** What follows is emitted: `perform` hands its params to the host. */
    perform: (_: Args, _effects: readonly Effect[]) => {},
  },
}).createMachine({
  id: 'agent',
  initial: 'idle',
  context: ({ input }) => input,
  states: {
    idle: {
      on: {
        task: [
          {
            guard: 'mustShorten',
            target: 'compacting',
            actions: [
              'keepSummarising',
              { type: 'perform', params: ({ event }) => summariseEffects(event) },
            ],
          },
          {
            guard: 'canThink',
            target: 'thinking',
            actions: [
              'keepThinking',
              { type: 'perform', params: ({ event }) => thinkEffects(event) },
            ],
          },
          { target: 'failed', actions: ['keepRefusal'] },
        ],
      },
    },
    thinking: {
      on: {
        replied: [
          { guard: 'mustStop', target: 'failed', actions: ['keepStop'] },
          { guard: 'isLooping', target: 'failed', actions: ['keepLoop'] },
          {
            guard: 'isLoopingAndEscalates',
            target: 'waiting',
            actions: [
              'keepEscalation',
              {
                type: 'perform',
                params: ({ event }) => [event.escalate(stuckReason(event)).effect],
              },
            ],
          },
          { guard: 'hasAnswer', target: 'completed', actions: ['keepAnswer'] },
          {
            guard: 'hasOpenCalls',
            target: 'acting',
            actions: ['keep', { type: 'perform', params: ({ event }) => event.plan.effects }],
          },
          {
            guard: 'needsPerson',
            target: 'waiting',
            actions: ['keep', { type: 'perform', params: ({ event }) => event.plan.effects }],
          },
          {
            guard: 'canThink',
            target: 'thinking',
            actions: [
              'keepThinking',
              { type: 'perform', params: ({ event }) => thinkEffects(event) },
            ],
          },
          { target: 'failed', actions: ['keepRefusal'] },
        ],
        modelFailed: { target: 'failed', actions: ['keepStop'] },
        tooLong: [
          {
            guard: 'canSummarise',
            target: 'compacting',
            actions: [
              'keepSummarising',
              { type: 'perform', params: ({ event }) => summariseEffects(event) },
            ],
          },
          { target: 'failed', actions: ['keepStop'] },
        ],
      },
    },
    acting: { on: afterResult() },
    waiting: { on: afterResult() },
    compacting: {
      on: {
        summarised: [
          {
            guard: 'canThink',
            target: 'thinking',
            actions: [
              'keepThinking',
              { type: 'perform', params: ({ event }) => thinkEffects(event) },
            ],
          },
          { target: 'failed', actions: ['keepRefusal'] },
        ],
        modelFailed: { target: 'failed', actions: ['keepStop'] },
      },
    },
    completed: { type: 'final' },
    failed: { type: 'final' },
  },
});

function thinkEffects(event: AgentEvent): readonly Effect[] {
  const plan = event.think();
  return plan.ok ? [...event.plan.effects, plan.effect] : [];
}

function summariseEffects(event: AgentEvent): readonly Effect[] {
  const plan = event.summarise();
  return plan.ok ? [plan.effect] : [];
}

/** A result or a decision came in: wait for the rest of the turn, then think again. */
function afterResult() {
  const options = [
    { guard: 'mustStop' as const, target: 'failed', actions: ['keepStop' as const] },
    {
      guard: 'hasOpenCalls' as const,
      target: 'acting',
      actions: [
        'keep' as const,
        { type: 'perform' as const, params: ({ event }: Args) => event.plan.effects },
      ],
    },
    {
      guard: 'needsPerson' as const,
      target: 'waiting',
      actions: [
        'keep' as const,
        { type: 'perform' as const, params: ({ event }: Args) => event.plan.effects },
      ],
    },
    { guard: 'isStuck' as const, target: 'failed', actions: ['keepLoop' as const] },
    {
      guard: 'isStuckAndEscalates' as const,
      target: 'waiting',
      actions: [
        'keepEscalation' as const,
        {
          type: 'perform' as const,
          params: ({ event }: Args) => [event.escalate(stuckReason(event)).effect],
        },
      ],
    },
    {
      guard: 'isContextFull' as const,
      target: 'compacting',
      actions: [
        'keepSummarising' as const,
        { type: 'perform' as const, params: ({ event }: Args) => summariseEffects(event) },
      ],
    },
    {
      guard: 'canThink' as const,
      target: 'thinking',
      actions: [
        'keepThinking' as const,
        { type: 'perform' as const, params: ({ event }: Args) => thinkEffects(event) },
      ],
    },
    { target: 'failed', actions: ['keepRefusal' as const] },
  ];
  return { resulted: options, decided: options };
}
