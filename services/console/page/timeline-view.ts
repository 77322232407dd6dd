/** The picture of what a session spent its time on: one bar a wait, the time in a queue lighter than the work. */
import { age } from '../../core/format.ts';
import { isFine, type Span, sharesOf } from './timeline.ts';
import { html } from './ui.ts';

const rowHeight = 18;
const labelWidth = 190;
const width = 1_000;

export function Timeline({
  spans,
  from,
  now,
}: {
  spans: readonly Span[];
  from: number;
  now: number;
}) {
  if (spans.length === 0) return null;
  const to = Math.max(from + 1, ...spans.map((span) => span.to ?? now));
  const scale = scaleOf(spans, from, to, now);
  const height = spans.length * rowHeight + 22;
  const shares = sharesOf(spans, now);
  const whole = shares.reduce((sum, { ms }) => sum + ms, 0) || 1;
  return html`<figure class="timeline">
    <div class="shares">${shares.map(({ kind, ms }) => html`<span class="share"><i class=${kind}></i>${kind === 'queue' ? 'in a queue' : kind} <b>${age(ms)}</b> ${Math.round((ms / whole) * 100)} %</span>`)}${scale.isLopsided ? html`<span class="hint">one stretch is so long that widths are drawn as cube roots</span>` : null}</div>
    <svg viewBox=${`0 0 ${labelWidth + width + 90} ${height}`} role="img" aria-label="time line of the session">
      ${scale.marks.map(({ x, label }) => html`<g><line class="mark" x1=${labelWidth + x} x2=${labelWidth + x} y1="14" y2=${height} /><text class="tick" x=${labelWidth + x + 3} y="10">${label}</text></g>`)}
      ${spans.map((span, index) => bar(span, index, scale.x, now))}
    </svg>
  </figure>`;
}

function bar(span: Span, index: number, x: (at: number) => number, now: number) {
  const y = 18 + index * rowHeight;
  const end = span.to ?? now;
  const workFrom = span.workMs === undefined ? span.from : end - span.workMs;
  const [left, middle, right] = [x(span.from), x(workFrom), x(end)];
  const isBad = !isFine(span.outcome);
  const note = [
    age(end - span.from),
    span.attempts > 1 ? `${span.attempts} tries` : '',
    isBad ? span.outcome : '',
    span.to === undefined ? 'goes on' : '',
  ]
    .filter(Boolean)
    .join(', ');
  const title = `${span.kind} ${span.what}: ${note}${span.workMs === undefined ? '' : `; ${age(workFrom - span.from)} in a queue`}`;
  return html`<g key=${span.effect}>
    <title>${title}</title>
    <text class="label" x="0" y=${y + 10}>${span.what.length > 27 ? `${span.what.slice(0, 26)}…` : span.what}</text>
    <rect class="queue" x=${labelWidth + left} y=${y} width=${Math.max(0, middle - left)} height="11" />
    <rect class=${`${span.kind} ${span.to === undefined ? 'open' : ''} ${span.attempts > 1 ? 'tried' : ''}`} x=${labelWidth + middle} y=${y} width=${Math.max(2, right - middle)} height="11" />
    <text class=${isBad ? 'note bad' : 'note'} x=${labelWidth + right + 5} y=${y + 10}>${note}</text>
  </g>`;
}

/** Time to x: straight, unless one stretch (a night's wait for a person, say) would leave nothing of the others; then each stretch between two changes has the width of its cube root. */
function scaleOf(
  spans: readonly Span[],
  from: number,
  to: number,
  now: number,
): { x: (at: number) => number; marks: { x: number; label: string }[]; isLopsided: boolean } {
  const changes = [
    ...new Set([
      from,
      to,
      ...spans.flatMap((span) => [
        span.from,
        span.to ?? now,
        ...(span.workMs === undefined ? [] : [(span.to ?? now) - span.workMs]),
      ]),
    ]),
  ].sort((left, right) => left - right);
  const stretches = changes.slice(1).map((end, index) => end - changes[index]!);
  const isLopsided = Math.max(...stretches) > (to - from) * 0.6 && stretches.length > 3;
  const weigh = isLopsided ? Math.cbrt : (ms: number) => ms;
  const total = stretches.reduce((sum, ms) => sum + weigh(ms), 0) || 1;
  const starts = new Map<number, number>();
  let sum = 0;
  changes.forEach((at, index) => {
    starts.set(at, (sum / total) * width);
    sum += weigh(stretches[index] ?? 0);
  });
  const x = (at: number) => starts.get(at) ?? ((at - from) / (to - from)) * width;
  const marks: { x: number; label: string }[] = [];
  for (const at of changes) {
    const here = x(at);
    const last = marks.at(-1);
    if ((!last || here - last.x > 90) && here < width - 30)
      marks.push({ x: here, label: `+${age(at - from)}` });
  }
  return { x, marks, isLopsided };
}
