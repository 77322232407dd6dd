/** The scorecard: one row a scenario, as a table for a terminal and as a page with bars. */
import type { Score, Verdict } from './checker/invariants.ts';

export interface Row {
  readonly scenario: string;
  readonly hypothesis: string;
  readonly faults: number;
  readonly score: Score | undefined;
  readonly verdicts: readonly Verdict[];
  /** Why it was not run, or what went wrong. */
  readonly skipped?: string;
}

const columns = [
  'started',
  'completed',
  'failed',
  'waiting',
  'deadLettered',
  'lost',
  'doubled',
  'unknown',
  'refusedZombies',
  'resumeP50Ms',
  'resumeP99Ms',
  'drainMs',
] as const satisfies readonly (keyof Score)[];
const heads = [
  'started',
  'done',
  'failed',
  'waiting',
  'dead',
  'LOST',
  'DOUBLED',
  'unknown',
  'zombies',
  'resume p50',
  'p99 ms',
  'drain ms',
];

export const brokenOf = (row: Row): Verdict[] =>
  row.verdicts.filter(({ result }) => result === 'broken');
export const isPassed = (row: Row): boolean =>
  row.skipped !== undefined ||
  (row.score !== undefined &&
    row.score.lost === 0 &&
    row.score.doubled === 0 &&
    brokenOf(row).length === 0);

export function tableOf(rows: readonly Row[]): string {
  const width = Math.max(8, ...rows.map(({ scenario }) => scenario.length));
  const lines = [
    `${'scenario'.padEnd(width)}  faults  ${heads.map((head) => head.padStart(Math.max(7, head.length))).join('  ')}`,
  ];
  for (const row of rows) {
    if (row.skipped !== undefined)
      lines.push(`${row.scenario.padEnd(width)}  skipped: ${row.skipped}`);
    else {
      const { score } = row;
      const cells = columns.map((column, index) =>
        String(score?.[column] ?? '-').padStart(Math.max(7, heads[index]!.length)),
      );
      lines.push(
        `${row.scenario.padEnd(width)}  ${String(row.faults).padStart(6)}  ${cells.join('  ')}${isPassed(row) ? '' : '  FAILED'}`,
      );
    }
    for (const { number, broken } of brokenOf(row))
      for (const one of broken.slice(0, 5))
        lines.push(`${' '.repeat(width)}  invariant ${number}: ${one}`);
  }
  return lines.join('\n');
}

const escaped = (text: string) =>
  text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');

export function pageOf(rows: readonly Row[], title: string): string {
  const most = Math.max(1, ...rows.map(({ score }) => score?.resumeP99Ms ?? 0));
  const bar = (ms: number, css: string) =>
    `<i class="${css}" style="width:${((100 * ms) / most).toFixed(1)}%"></i>`;
  const body = rows.map((row) => {
    const name = `<td class="n" title="${escaped(row.hypothesis)}"><b>${escaped(row.scenario)}</b><small>${escaped(row.hypothesis)}</small></td>`;
    if (row.skipped !== undefined || !row.score)
      return `<tr>${name}<td colspan="8" class="s">${escaped(row.skipped ?? 'no score')}</td></tr>`;
    const { score } = row;
    const bad = (value: number) => `<td class="${value === 0 ? 'g' : 'b'}">${value}</td>`;
    const problems = brokenOf(row)
      .map(
        ({ number, broken }) =>
          `<div class="b">invariant ${number}: ${escaped(broken.slice(0, 3).join('; '))}</div>`,
      )
      .join('');
    return `<tr>${name}<td>${row.faults}</td><td>${score.completed} of ${score.started}${score.waiting ? ` <small>${score.waiting} wait</small>` : ''}</td>${bad(score.lost)}${bad(score.doubled)}<td>${score.unknown}</td><td>${score.refusedZombies}</td><td class="c">${bar(score.resumeP50Ms, 'p50')}${bar(score.resumeP99Ms, 'p99')}<small>p50 ${score.resumeP50Ms} ms, p99 ${score.resumeP99Ms} ms</small>${problems}</td><td>${(score.drainMs / 1_000).toFixed(1)} s</td></tr>`;
  });
  const ran = rows.filter(({ skipped }) => skipped === undefined);
  const sum = (column: keyof Score) =>
    ran.reduce((total, { score }) => total + (score?.[column] ?? 0), 0);
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escaped(title)}</title><style>
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1d2733;background:#fff}
h1{font-size:1.4rem;margin:0 0 .2rem}.k{display:flex;gap:2rem;margin:1rem 0 1.5rem}.k div{font-size:.85rem;color:#5b6876}.k b{display:block;font-size:1.7rem;color:#1d2733}
table{border-collapse:collapse;width:100%}th,td{padding:.45rem .6rem;border-bottom:1px solid #e3e8ee;text-align:right;vertical-align:top}th{font-weight:600;color:#5b6876;font-size:.8rem}
td.n,th:first-child{text-align:left;max-width:22rem}small{display:block;color:#5b6876;font-size:.78rem}td.g{color:#14713d}.b{color:#b3261e;font-weight:600;text-align:left}td.s{text-align:left;color:#5b6876}
td.c{min-width:14rem;text-align:left}i{display:block;height:7px;border-radius:3px;margin:2px 0;min-width:2px}.p50{background:#2a6fb0}.p99{background:#9cc3e6}
@media(prefers-color-scheme:dark){body,.k b{background:#12171d;color:#e4e9ef}td,th{border-color:#2a333d}td.g{color:#5ecb8f}.b{color:#ff8a80}}
</style><h1>${escaped(title)}</h1><p>Every row is one scenario under load. Blue: from the fault to the next step of each session that was at work then.</p>
<div class="k"><div><b>${sum('started')}</b>sessions started</div><div><b>${ran.reduce((total, { faults }) => total + faults, 0)}</b>faults</div><div><b>${sum('lost')}</b>lost</div><div><b>${sum('doubled')}</b>doubled</div><div><b>${sum('unknown')}</b>unknown, and said so</div></div>
<table><tr><th>scenario<th>faults<th>completed<th>lost<th>doubled<th>unknown<th>zombie writes refused so far<th>standing still<th>drained in</tr>${body.join('\n')}</table></html>\n`;
}
