/** The list of sessions: what each waits on, since when. The filter stands in the address. */
import { useState } from 'preact/hooks';
import { dollars } from '../../core/format.ts';
import { isFinal } from '../../core/session/status.ts';
import type { SessionCounts, SessionSummary } from './api.ts';
import { statuses, tallyLine } from './tally.ts';
import { Ago, Badge, Code, Empty, html, Trouble, useAnswer, useNow } from './ui.ts';

const max = 200;

export function Sessions({ query, go }: { query: URLSearchParams; go: (path: string) => void }) {
  const now = useNow();
  const asked = new URLSearchParams(
    [...query].filter(
      ([name, value]) => value && ['tenant', 'agent', 'status', 'ended'].includes(name),
    ),
  );
  if (isFinal(asked.get('status') ?? '')) asked.set('ended', 'true');
  const { value: sessions, refusal } = useAnswer<SessionSummary[]>(
    `/sessions?${new URLSearchParams([...asked, ['max', String(max)]])}`,
  );
  const isCut = (sessions?.length ?? 0) >= max;
  const { value: counts } = useAnswer<SessionCounts>(
    isCut ? `/session-counts?${asked}` : undefined,
    10_000,
  );
  const set = (name: string, value: string) => {
    const next = new URLSearchParams(query);
    if (value) next.set(name, value);
    else next.delete(name);
    go(`/?${next}`);
  };
  return html`<section>
    <h1>Sessions</h1>
    <form class="filter" onSubmit=${(event: Event) => event.preventDefault()}>
      <${Field} key=${`tenant ${query.get('tenant')}`} label="tenant" value=${query.get('tenant')} onSet=${(value: string) => set('tenant', value)} />
      <${Field} key=${`agent ${query.get('agent')}`} label="agent" value=${query.get('agent')} onSet=${(value: string) => set('agent', value)} />
      <label>status
        <select value=${query.get('status') ?? ''} onChange=${(event: Event) => set('status', (event.target as HTMLSelectElement).value)}>
          <option value="">any</option>${statuses.map((status) => html`<option value=${status}>${status}</option>`)}
        </select>
      </label>
      <label class="check"><input type="checkbox" checked=${asked.get('ended') === 'true'} disabled=${isFinal(asked.get('status') ?? '')} onChange=${(event: Event) => set('ended', (event.target as HTMLInputElement).checked ? 'true' : '')} /> ended ones too</label>
    </form>
    <${Trouble} refusal=${refusal} />
    ${sessions && sessions.length > 0 ? html`<p class="hint">${tallyLine(sessions, { counts, max })}</p>` : null}
    ${sessions && sessions.length > 0 ? table(sessions, now) : sessions ? html`<${Empty}>No session fits. <${Code}>understudy run refund-desk '…'<//> publishes a task; “ended ones too” shows those that are over.<//>` : null}
    ${isCut ? html`<p class="hint">The ${max} that changed last${counts ? `, of ${counts.total.toLocaleString('en')}` : ''}. Narrow it down by tenant, agent or status.</p>` : null}
  </section>`;
}

/** Told when it is left or confirmed, not at each letter. */
function Field({
  label,
  value,
  onSet,
}: {
  label: string;
  value: string | null;
  onSet: (value: string) => void;
}) {
  const [text, setText] = useState(value ?? '');
  return html`<label>${label} <input value=${text} placeholder="any" onInput=${(event: Event) => setText((event.target as HTMLInputElement).value)} onChange=${() => onSet(text.trim())} /></label>`;
}

const table = (sessions: SessionSummary[], now: number) => html`<table class="list">
  <thead><tr><th>session</th><th>tenant</th><th>agent</th><th>status</th><th>waiting on</th><th>since</th><th class="number">model calls</th><th class="number">tool calls</th><th class="number">cost</th></tr></thead>
  <tbody>
    ${sessions.map(
      (one) => html`<tr key=${one.session}>
        <td><a href=${`/sessions/${one.session}`}>${one.session}</a></td>
        <td>${one.tenant}</td>
        <td>${one.agent}</td>
        <td><${Badge} status=${one.status} /></td>
        <td class="waiting">${one.waitingOn || one.reason || '–'}</td>
        <td><${Ago} since=${one.waitingOn ? one.since : one.changedAt} now=${now} /></td>
        <td class="number">${one.steps}</td>
        <td class="number">${one.toolCalls}</td>
        <td class="number">${dollars(one.costMicros)}</td>
      </tr>`,
    )}
  </tbody>
</table>`;
