import type { Entry } from '../core/session/conversation.ts';
import type { ModelReply } from '../core/session/messages.ts';
import type { ModelSpec } from '../core/session/model-spec.ts';
import type { Outcome } from '../core/tools/job.ts';
import type { ToolRun, ToolSpec } from '../core/tools/tool-spec.ts';

export interface Prompt {
  readonly instructions: string;
  readonly entries: readonly Entry[];
  readonly tools: readonly {
    readonly name: string;
    readonly description: string;
    readonly input: Record<string, unknown>;
  }[];
  /** Null: it is not sent. */
  readonly temperature: number | null;
  readonly outputTokensMax: number;
  /** It is to be summarised: nothing is called. */
  readonly isSummary?: boolean;
  readonly traceparent?: string | undefined;
}

/** What a provider answered. `usage` is undefined where it told none that can be believed. */
export type ModelAnswer = Omit<ModelReply, 'attempts' | 'costMicros' | 'spent' | 'usage'> & {
  readonly usage: ModelReply['usage'] | undefined;
};

/**
 * One attempt at one provider. A failure's `hasBegun` is false where it is certain that nothing was
 * paid: no connection, or a complete refusal before any output. Never throws for what a provider does: failures are classified here, once.
 * `onText` hears the answer as it comes.
 */
export interface Model {
  /**
   * Which calls share a provider's quota: a hash over its address, the key and the model. Undefined
   * where nothing could be sent anyway; without it a Model is known by its name.
   */
  doorOf?(spec: ModelSpec & { readonly name: string }): string | undefined;
  /** What is not set here that its document names, if so: names, and no values. */
  whyNot?(spec: ModelSpec & { readonly name: string }): string | undefined;
  complete(
    spec: ModelSpec & { readonly name: string },
    prompt: Prompt,
    options: { readonly signal: AbortSignal; readonly onText?: (text: string) => void },
  ): Promise<Outcome<ModelAnswer>>;
}

export interface ToolJob {
  readonly tool: string;
  readonly spec: ToolSpec;
  readonly arguments: Readonly<Record<string, unknown>>;
  readonly tenant: string;
  readonly session: string;
  /** The effect id: give it to the outside world with every side effect. */
  readonly idempotencyKey: string;
  readonly traceparent?: string | undefined;
}

/** Runs tools of one kind. Never throws for what a tool does. */
export interface ToolRunner<Run extends ToolRun = ToolRun> {
  readonly kind: Run['kind'];
  run(job: ToolJob, run: Run, signal: AbortSignal): Promise<Outcome<unknown>>;
  /** Class queryable: did the effect with this key happen? undefined when the tool cannot say. */
  query?(
    job: ToolJob,
    run: Run,
    signal: AbortSignal,
  ): Promise<Outcome<unknown> | 'never' | undefined>;
  close?(): Promise<void>;
}

/** Points of one rate of a tenant. A charge above `perMinute` counts as `perMinute`. */
export interface Charge {
  readonly what: 'requests' | 'tokens';
  readonly points: number;
  readonly perMinute: number;
}

/** Requests and tokens per minute of a tenant. */
export interface RateLimits {
  /**
   * All charges, or none: who is told to wait has used nothing. Of those that come at the same moment, one that is told to wait may have used what stands
   * before the rate that was used up; it is free again when the minute is over.
   *
   * @returns undefined when it may go on, else which rate is used up and how long to wait, ms
   */
  take(
    tenant: string,
    charges: readonly Charge[],
  ): Promise<{ readonly what: Charge['what']; readonly waitMs: number } | undefined>;
}
