/** One session: how it stands, what it spent its time on, each decision, and what can be done. */
import { useEffect, useState } from 'preact/hooks';
import { age, dollars } from '../../core/format.ts';
import { isFinal } from '../../core/session/status.ts';
import { isEndEvent } from '../../core/wire/event-end.ts';
import {
  act,
  ask,
  at,
  type ConversationView,
  Refusal,
  type SessionView,
  type VerdictView,
} from './api.ts';
import { Approval } from './approvals.ts';
import { inOrder, isFine, spansOf, type TimedEvent } from './timeline.ts';
import { Timeline } from './timeline-view.ts';
import { Ago, Badge, Code, Deed, html, Trouble, useAnswer, useNow } from './ui.ts';

export function Session({ session }: { session: string }) {
  const now = useNow();
  const path = at('sessions', session);
  const { value: view, refusal, again } = useAnswer<SessionView>(path);
  const { events, trouble } = useEvents(session);
  if (!view) return html`<section><h1>${session}</h1><${Trouble} refusal=${refusal} /></section>`;
  const { summary } = view;
  const isOver = isFinal(summary.status);
  const deed = (verb: string) => async (reason: string) => {
    await act(`${path}/${verb}`, { reason });
    again();
  };
  return html`<section>
    <h1>${session} <${Badge} status=${summary.status} /></h1>
    <${Trouble} refusal=${refusal} />
    ${summary.reason ? html`<p class=${/^(failed|parked)$/.test(summary.status) ? 'bad' : 'hint'}>${summary.reason}</p>` : null}
    <div class="deeds">
      ${summary.status === 'active' ? html`<${Deed} label="pause" ask="Hold it: why?" onDo=${deed('pause')} />` : null}
      ${summary.status === 'paused' || summary.status === 'parked' ? html`<${Deed} label="resume" ask="Let it go on: why?" onDo=${deed('resume')} />` : null}
      ${isOver ? null : html`<${Deed} label="halt" isGrave ask="End it and its children now: why?" onDo=${deed('halt')} />`}
      <${Verify} path=${path} />
      <${Code}>understudy inspect ${session}<//>
    </div>
    ${view.approvals.map((approval) => html`<${Approval} key=${`${approval.id} ${approval.hash}`} approval=${approval} now=${now} onDecided=${again} />`)}
    <dl class="facts">
      <div><dt>waiting on</dt><dd>${summary.waitingOn ? html`${summary.waitingOn}, for <${Ago} since=${summary.since} now=${now} />` : 'nothing'}</dd></div>
      <div><dt>state</dt><dd>${summary.state}, version ${summary.version}</dd></div>
      <div><dt>agent</dt><dd><a href=${`/?agent=${summary.agent}`}>${summary.agent}</a> of ${summary.tenant}, revision ${view.revision.slice(0, 8)}</dd></div>
      <div><dt>task</dt><dd>${summary.task}</dd></div>
      <div><dt>owner</dt><dd>${view.isArchived ? 'archived' : (view.owner ?? 'nobody')}, shard ${view.shard}</dd></div>
      <div><dt>began</dt><dd><${Ago} since=${summary.startedAt} now=${now} /> ago${isOver ? html`, took ${age(summary.changedAt - summary.startedAt)}` : null}</dd></div>
    </dl>
    <${Budget} view=${view} />
    <h2>What it spent its time on</h2>
    <${Trouble} refusal=${trouble} />
    <${Timeline} spans=${spansOf(events)} from=${events[0] ? Date.parse(events[0].time) : now} now=${now} />
    <h2>Every step and why</h2>
    <${Steps} events=${events} />
    <${Conversation} path=${path} key=${session} />
  </section>`;
}

/** What happened and what happens, as it happens. */
function useEvents(session: string): { events: TimedEvent[]; trouble: Refusal | undefined } {
  const [events, setEvents] = useState<TimedEvent[]>([]);
  const [trouble, setTrouble] = useState<Refusal>();
  useEffect(() => {
    const gathered = new Map<string, TimedEvent>();
    let drawing: ReturnType<typeof setTimeout> | undefined;
    let trying: ReturnType<typeof setTimeout> | undefined;
    let source: EventSource;
    const open = () => {
      source = new EventSource(`/api${at('sessions', session)}/events`);
      source.onmessage = ({ data }) => {
        setTrouble(undefined);
        const event = JSON.parse(data) as TimedEvent;
        gathered.set(event.id, event);
        drawing ??= setTimeout(() => {
          drawing = undefined;
          setEvents(inOrder(gathered.values()));
        }, 100);
      };
      // It is over: nothing more will come, and a browser has few connections to one host.
      source.addEventListener('over', () => source.close());
      // A browser tries again by itself after a broken connection, and never after a refusal.
      source.onerror = () => {
        setTrouble(new Refusal('EVENTS_AWAY', 'what happens now is not heard; trying again', 0));
        if (source.readyState === EventSource.CLOSED) trying = setTimeout(open, 3_000);
      };
    };
    open();
    return () => {
      source.close();
      clearTimeout(drawing);
      clearTimeout(trying);
    };
  }, [session]);
  return { events, trouble };
}

function Budget({ view: { summary, limits } }: { view: SessionView }) {
  const rows: [string, number, number | undefined, (value: number) => string][] = [
    ['money', summary.costMicros, limits?.costMicrosMax, dollars],
    ['tokens', summary.tokens, limits?.tokensMax, String],
    ['model calls', summary.steps, limits?.stepsMax, String],
    ['tool calls', summary.toolCalls, limits?.toolCallsMax, String],
  ];
  return html`<div class="budget">
    ${rows.map(
      ([name, spent, most, show]) => html`<div><span>${name}</span>
        ${most === undefined ? null : html`<meter aria-label=${name} min="0" max=${most} value=${spent} low=${most * 0.6} high=${most * 0.85} optimum="0"></meter>`}
        <b>${show(spent)}</b>${most === undefined ? null : html` of ${show(most)}`}</div>`,
    )}
  </div>`;
}

function Steps({ events }: { events: readonly TimedEvent[] }) {
  return html`<table class="steps">
    <thead><tr><th class="number">version</th><th>at</th><th>heard</th><th>from → to</th><th>chosen, of</th><th>asked for</th><th class="number">took</th><th class="number">cost</th></tr></thead>
    <tbody>
      ${events
        .filter((event) => !isEndEvent(event))
        .map(
          ({
            id,
            type,
            time,
            data: { version, from, to, decisions, effects, details },
          }) => html`<tr key=${id}>
          <td class="number">${version}</td>
          <td>${time.slice(11, 23)}</td>
          <td>${type.slice(type.lastIndexOf('.') + 1)} ${said(details.tool ?? details.model)} <span class=${isFine(said(details.outcome)) ? 'hint' : 'bad'}>${said(details.outcome ?? details.decision)} ${said(details.code)}</span></td>
          <td>${from === to ? to : `${from} → ${to}`}</td>
          <td>${decisions.map(({ chosen, options }) => html`<span title=${options.join('\n')}><b>${chosen.split(' -> ')[0]}</b> <span class="hint">of ${options.length}</span></span> `)}</td>
          <td>${effects.map(({ kind, what }, index) => html`${index > 0 ? ', ' : ''}${kind} ${kind === 'startAgent' && what ? html`<a href=${`/sessions/${what}`}>${what}</a>` : what}`)}</td>
          <td class="number">${typeof details.latencyMs === 'number' ? age(details.latencyMs) : ''}</td>
          <td class="number">${typeof details.costMicros === 'number' ? dollars(details.costMicros) : ''}</td>
        </tr>`,
        )}
    </tbody>
  </table>`;
}
const said = (value: unknown) =>
  typeof value === 'string' || typeof value === 'number' ? String(value) : '';

/** Fold its log from the beginning: is it what is stored? */
function Verify({ path }: { path: string }) {
  const [verdict, setVerdict] = useState<VerdictView | Refusal>();
  const verify = async () =>
    setVerdict(await ask<VerdictView>(`${path}/verify`).catch((error: Refusal) => error));
  if (!verdict || verdict instanceof Error)
    return html`<button type="button" title="fold its log from the beginning, and compare with what is stored" onClick=${verify}>verify</button>${verdict ? html`<${Trouble} refusal=${verdict} />` : null}`;
  return verdict.isEqual
    ? html`<span class="good">equal: ${verdict.messages} messages fold to version ${verdict.version}</span>`
    : html`<span class="bad">NOT EQUAL: its log does not fold to what is stored</span>`;
}

/** Hidden until somebody asks: it is of the tenant, and that it was shown is logged. */
function Conversation({ path }: { path: string }) {
  const [shown, setShown] = useState<ConversationView | Refusal>();
  const show = async () =>
    setShown(await ask<ConversationView>(`${path}/conversation`).catch((error: Refusal) => error));
  if (!shown || shown instanceof Error)
    return html`<h2>What was said</h2><p><button type="button" onClick=${show}>show the conversation</button> <span class="hint">It is the tenant’s. That you looked is logged.</span></p>${shown ? html`<${Trouble} refusal=${shown} />` : null}`;
  return html`<h2>What was said</h2>
    ${shown.conversationFrom > 0 ? html`<p class="hint">Its last ${shown.conversation.length} entries; ${shown.conversationFrom} before them are too many to show.</p>` : null}
    <div class="conversation">
      ${shown.conversation.map(
        (entry, index) => html`<article key=${index} class=${entry.role}>
        <h3>${entry.role}${'tool' in entry ? ` ${entry.tool}` : ''}</h3>
        ${entry.content ? html`<pre>${entry.content}</pre>` : null}
        ${'calls' in entry ? entry.calls?.map((one) => html`<pre class="call">→ ${one.name}(${one.arguments})</pre>`) : null}
      </article>`,
      )}
      ${shown.output === undefined ? null : html`<article class="output"><h3>result</h3><pre>${shown.output}</pre></article>`}
    </div>`;
}
