/** The words of the Telemetry port as Prometheus metrics and pino log lines. The only place that spells metric names. */
import { pino } from 'pino';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Telemetry } from '../../ports/telemetry.ts';

export interface Observability {
  readonly telemetry: Telemetry;
  readonly registry: Registry;
}

const fast = [0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.001, 0.005, 0.025];
const medium = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 2];
const slow = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120];

/** @param level  pino's: debug shows every step */
export function observability(service: string, instance: string, level = 'info'): Observability {
  const registry = new Registry();
  registry.setDefaultLabels({ service, instance });
  collectDefaultMetrics({ register: registry });
  const log = pino({
    level,
    base: { service, instance },
    messageKey: 'message',
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
  });
  const registers = [registry];
  const counter = <Label extends string>(name: string, help: string, labelNames: Label[] = []) =>
    new Counter({ name, help, labelNames, registers });
  const histogram = <Label extends string>(
    name: string,
    help: string,
    buckets: number[],
    labelNames: Label[] = [],
  ) => new Histogram({ name, help, buckets, labelNames, registers });

  const received = counter('understudy_messages_received_total', 'Messages read from the mailbox');
  const stepSeconds = histogram('understudy_step_seconds', 'Time of one pure step', fast, [
    'message',
  ]);
  const steps = counter('understudy_steps_committed_total', 'Steps whose commit was acknowledged');
  const commitSeconds = histogram(
    'understudy_commit_seconds',
    'Time of one commit of a shard, its wait for the call that carries it included',
    medium,
  );
  const commitSessions = histogram(
    'understudy_commit_sessions',
    'Sessions in one commit of a shard',
    [1, 2, 4, 8, 16, 32, 64, 128, 256],
  );
  const released = counter('understudy_released_total', 'What left after its commit', ['kind']);
  const performSeconds = histogram(
    'understudy_perform_seconds',
    'Time of a model call or tool call, retries included',
    slow,
    ['kind', 'what', 'outcome'],
  );
  const tasksAccepted = counter('understudy_tasks_accepted_total', 'Tasks taken in');
  const tasksEnded = counter('understudy_tasks_ended_total', 'Tasks that ended, by outcome', [
    'outcome',
  ]);
  const refused = counter('understudy_refused_total', 'Input refused at a door', ['door', 'code']);
  const dead = counter('understudy_dead_letters_total', 'Dead letters written', ['code']);
  const fenced = counter(
    'understudy_fenced_total',
    'Writes refused because another host owns the shard',
  );
  const takeovers = counter('understudy_takeovers_total', 'Shards opened');
  const takeoverSeconds = histogram('understudy_takeover_seconds', 'Time to open a shard', medium);
  const handoverSeconds = histogram(
    'understudy_handover_seconds',
    'Silence of a shard between two owners, when the first let it go',
    medium,
  );
  const lost = counter('understudy_shards_lost_total', 'Shards given up', ['why']);
  const seen = counter('understudy_messages_seen_total', 'Messages that changed nothing', ['why']);
  const tokens = counter('understudy_tokens_total', 'Tokens of model calls', [
    'model',
    'direction',
  ]);
  const cost = counter('understudy_cost_micros_total', 'Cost of model calls, micro-dollars', [
    'model',
  ]);
  const limited = counter('understudy_limits_total', 'Sessions stopped by a limit', ['limit']);
  const starts = counter(
    'understudy_starts_refused_total',
    'Second starts refused by the start record',
    ['class'],
  );
  const dropped = counter(
    'understudy_effects_dropped_total',
    'Effects that nobody waited for any more when they were to be begun',
    ['reason'],
  );
  const claimSeconds = histogram(
    'understudy_sandbox_claim_seconds',
    'Time from wanting a sandbox to having one',
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10, 30],
  );
  const effectsWaiting = new Gauge({
    name: 'understudy_effects_waiting',
    help: 'Effects that wait for their tenant to have room in a queue',
    labelNames: ['pool'],
    registers,
  });
  const gauges = {
    actors: new Gauge({ name: 'understudy_actors', help: 'Sessions in memory', registers }),
    shards: new Gauge({ name: 'understudy_shards_owned', help: 'Shards held', registers }),
    outbox: new Gauge({
      name: 'understudy_outbox_entries',
      help: 'Commits whose effects are not settled',
      registers,
    }),
    backlog: new Gauge({
      name: 'understudy_backlog_messages',
      help: 'Messages read and not committed',
      registers,
    }),
    sandboxesFree: new Gauge({
      name: 'understudy_sandboxes_free',
      help: 'Sandboxes that stand ready, as this executor sees them',
      registers,
    }),
    sandboxesClaimed: new Gauge({
      name: 'understudy_sandboxes_claimed',
      help: 'Sandboxes in use, by whomever',
      registers,
    }),
    clockAhead: new Gauge({
      name: 'understudy_clock_ahead_seconds',
      help: 'How far the clock of this machine is ahead of the broker',
      registers,
    }),
    inFlight: new Gauge({
      name: 'understudy_effects_in_flight',
      help: 'Effects being performed',
      registers,
    }),
  };
  const stepTimers = new Map<string, { observe(value: number): void }>();

  const telemetry: Telemetry = {
    received: (count) => received.inc(count),
    stepped(seconds, kind) {
      let timer = stepTimers.get(kind);
      if (!timer) {
        timer = stepSeconds.labels(kind);
        stepTimers.set(kind, timer);
      }
      timer.observe(seconds);
    },
    committed(sessions, stepCount, seconds) {
      steps.inc(stepCount);
      commitSeconds.observe(seconds);
      if (sessions > 0) commitSessions.observe(sessions);
    },
    released: (kind, count) => released.inc({ kind }, count),
    performed: (kind, what, outcome, seconds) =>
      performSeconds.observe({ kind, what, outcome }, seconds),
    ended: (outcome) => tasksEnded.inc({ outcome }),
    accepted: () => tasksAccepted.inc(),
    refused(door, code, fields) {
      refused.inc({ door, code });
      log.warn({ door, code, ...fields }, 'refused');
    },
    deadLettered(code, fields) {
      dead.inc({ code });
      log.warn({ code, ...fields }, 'dead letter');
    },
    fenced(fields) {
      fenced.inc();
      log.warn(fields, 'fenced');
    },
    tookOver(shard, seconds, fields) {
      takeovers.inc();
      takeoverSeconds.observe(seconds);
      log.info({ shard, seconds, ...fields }, 'shard opened');
    },
    handedOver: (seconds) => handoverSeconds.observe(seconds),
    gaveUp: (_shard, why) => lost.inc({ why }),
    seen: (why) => seen.inc({ why }),
    spent(model, promptTokens, completionTokens, costMicros) {
      tokens.inc({ model, direction: 'prompt' }, promptTokens);
      tokens.inc({ model, direction: 'completion' }, completionTokens);
      cost.inc({ model }, costMicros);
    },
    limited: (limit) => limited.inc({ limit }),
    startRefused: (toolClass) => starts.inc({ class: toolClass }),
    dropped: (reason) => dropped.inc({ reason }),
    claimed: (seconds) => claimSeconds.observe(seconds),
    effectsWaiting: (pool, count) => effectsWaiting.set({ pool }, count),
    gauge: (name, value) => gauges[name].set(value),
    log(severity, message, fields) {
      if (log.isLevelEnabled(severity)) log[severity](fields ?? {}, message);
    },
  };
  return { telemetry, registry };
}
