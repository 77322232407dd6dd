/** Telemetry that is kept as counts: what tests and the checker ask. */
import type { Telemetry } from '../../ports/telemetry.ts';

export interface Counted extends Telemetry {
  readonly counts: Readonly<Record<string, number>>;
  readonly lines: readonly {
    readonly level: string;
    readonly message: string;
    readonly fields?: object | undefined;
  }[];
}

export function countingTelemetry(linesKept = 1_000): Counted {
  const counts: Record<string, number> = {};
  const lines: { level: string; message: string; fields?: object | undefined }[] = [];
  const add = (name: string, value = 1) => {
    counts[name] = (counts[name] ?? 0) + value;
  };
  return {
    counts,
    lines,
    received: (count) => add('received', count),
    stepped: () => add('stepped'),
    committed: (_sessions, steps) => {
      add('commits');
      add('committed', steps);
    },
    released: (_kind, count) => add('released', count),
    performed: (kind, _what, outcome) => add(`performed.${kind}.${outcome}`),
    ended: (outcome) => add(`ended.${outcome}`),
    accepted: () => add('accepted'),
    refused: (door, code) => add(`refused.${door}.${code}`),
    deadLettered: (code) => add(`dead.${code}`),
    fenced: () => add('fenced'),
    tookOver: () => add('tookOver'),
    handedOver: () => add('handedOver'),
    gaveUp: (_shard, why) => add(`gaveUp.${why}`),
    seen: (why) => add(`seen.${why}`),
    spent: (_model, promptTokens, completionTokens, costMicros) => {
      add('tokens', promptTokens + completionTokens);
      add('costMicros', costMicros);
    },
    limited: (limit) => add(`limited.${limit}`),
    dropped: (reason) => add(`dropped.${reason}`),
    startRefused: (toolClass) => add(`startRefused.${toolClass}`),
    claimed: () => add('claimed'),
    effectsWaiting: (pool, count) => {
      counts[`waiting.${pool}`] = count;
    },
    gauge: (name, value) => {
      counts[`gauge.${name}`] = value;
    },
    log(level, message, fields) {
      if (level === 'debug') return;
      lines.push({ level, message, fields });
      if (lines.length > linesKept) lines.shift();
    },
  };
}
