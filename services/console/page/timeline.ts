/** What a session spent its time on, from its events alone. Pure: tested without a browser. */

import { isFinal } from '../../core/session/status.ts';
import { isEndEvent } from '../../core/wire/event-end.ts';

/** As much of an event as is needed here. */
export interface TimedEvent {
  readonly id: string;
  readonly type: string;
  readonly time: string;
  readonly data: {
    readonly version: number;
    readonly from: string;
    readonly to: string;
    readonly status: string;
    readonly decisions: readonly {
      readonly event: string;
      readonly chosen: string;
      readonly options: readonly string[];
    }[];
    readonly effects: readonly {
      readonly id?: string | undefined;
      readonly kind: string;
      readonly what?: string | undefined;
    }[];
    readonly details: Readonly<Record<string, unknown>>;
    readonly reason?: string | undefined;
  };
}

export type SpanKind = 'model' | 'tool' | 'agent' | 'approval';

/** One wait of a session: for a model, a tool, another agent or a person. Times in epoch ms. */
export interface Span {
  readonly effect: string;
  readonly kind: SpanKind;
  readonly what: string;
  readonly from: number;
  /** Nothing while it goes on. */
  readonly to: number | undefined;
  /** How long it was worked on, at the end of the span; before that it stood in a queue. */
  readonly workMs: number | undefined;
  readonly attempts: number;
  readonly outcome: string;
}

export interface Share {
  readonly kind: SpanKind | 'queue';
  readonly ms: number;
}

const kinds: Readonly<Record<string, SpanKind>> = {
  callModel: 'model',
  runTool: 'tool',
  startAgent: 'agent',
  askHuman: 'approval',
};
const number = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isFinite(value) ? value : undefined;
const text = (value: unknown): string => (typeof value === 'string' ? value : '');

/** An outcome that nobody need look at. */
export const isFine = (outcome: string): boolean => /^(ok|approve|completed)?$/.test(outcome);

/** Each step once, in order: events come at least once, and ends may come before steps that had to be told again. */
export function inOrder<Event extends TimedEvent>(events: Iterable<Event>): Event[] {
  const byId = new Map<string, Event>();
  for (const event of events) byId.set(event.id, event);
  return [...byId.values()].sort(
    (left, right) =>
      left.data.version - right.data.version ||
      Number(isEndEvent(left)) - Number(isEndEvent(right)),
  );
}

/** @param events  of one session, in order */
export function spansOf(events: readonly TimedEvent[]): Span[] {
  const spans = new Map<string, Span>();
  for (const event of events) {
    const at = Date.parse(event.time);
    const { details, effects } = event.data;
    const answered = text(details.effect) || text(details.approval);
    const span = spans.get(answered);
    if (span && span.to === undefined) {
      const outcome = text(details.outcome) || text(details.decision) || text(details.code);
      const workMs = number(details.latencyMs);
      spans.set(answered, {
        ...span,
        what: text(details.model) || text(details.tool) || span.what,
        to: at,
        workMs: workMs === undefined ? undefined : Math.min(workMs, at - span.from),
        attempts: number(details.attempts) ?? 1,
        outcome: outcome || 'ok',
      });
    }
    for (const { id, kind, what } of effects) {
      const spanKind = kinds[kind];
      if (!id || !spanKind || spans.has(id)) continue;
      spans.set(id, {
        effect: id,
        kind: spanKind,
        what: what ?? spanKind,
        from: at,
        to: undefined,
        workMs: undefined,
        attempts: 1,
        outcome: '',
      });
    }
    // What is still asked for when a session ends, nobody waits for any more.
    if (isEndEvent(event) && isFinal(event.data.status))
      for (const [id, open] of spans)
        if (open.to === undefined) spans.set(id, { ...open, to: at, outcome: 'given up' });
  }
  return [...spans.values()];
}

/** How the time of all spans divides, the largest first. @param now  for spans that go on, epoch ms */
export function sharesOf(spans: readonly Span[], now: number): Share[] {
  const sums = new Map<Share['kind'], number>();
  const add = (kind: Share['kind'], ms: number) =>
    void (ms > 0 && sums.set(kind, (sums.get(kind) ?? 0) + ms));
  for (const { kind, from, to, workMs } of spans) {
    const whole = Math.max(0, (to ?? now) - from);
    const work = workMs ?? whole;
    add(kind, work);
    add('queue', whole - work);
  }
  return [...sums].map(([kind, ms]) => ({ kind, ms })).sort((left, right) => right.ms - left.ms);
}
