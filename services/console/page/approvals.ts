/** What waits for a person: the call as it would be made, and a decision about exactly this one. */
import { useState } from 'preact/hooks';
import { age, approvalShown, indented } from '../../core/format.ts';
import { type ApprovalSummary, act, at } from './api.ts';
import { Ago, Deed, Empty, html, Trouble, useAnswer, useNow } from './ui.ts';

export function Approvals() {
  const now = useNow();
  const { value: approvals, refusal, again } = useAnswer<ApprovalSummary[]>('/approvals');
  return html`<section>
    <h1>Approvals</h1>
    <${Trouble} refusal=${refusal} />
    ${approvals?.length === 0 ? html`<${Empty}>Nothing waits for a person.<//>` : null}
    ${approvals?.map((approval) => html`<${Approval} key=${`${approval.id} ${approval.hash}`} approval=${approval} now=${now} isAlone onDecided=${again} />`)}
  </section>`;
}

export function Approval({
  approval,
  now,
  isAlone,
  onDecided,
}: {
  approval: ApprovalSummary;
  now: number;
  isAlone?: boolean;
  onDecided: () => void;
}) {
  const [edited, setEdited] = useState<string>();
  const { session, id, hash } = approval;
  const { tool, whole } = approvalShown(approval);
  // A question is answered, not edited.
  const isQuestion = approval.kind === 'question';
  const [editWord, doneWord] = isQuestion ? ['answer', 'with this answer'] : ['edit', 'as edited'];
  const blank = isQuestion ? '' : indented(approval.arguments);
  const decide = (verb: 'approve' | 'reject') => async (reason: string) => {
    // The hash is of what is on the screen: a decision about a call that has changed since is refused.
    await act(`${at('sessions', session, 'approvals', id)}/${verb}`, {
      hash,
      reason,
      ...(verb === 'approve' && edited !== undefined ? { arguments: edited } : {}),
    });
    onDecided();
  };
  return html`<article class="approval">
    <header>
      <b>${tool}</b> <span class="hint">${approval.kind}</span>
      ${isAlone ? html`<a href=${`/sessions/${session}`}>${session}</a>` : null}
      <span>${approval.tenant} / ${approval.agent}</span>
      <span>waits for <${Ago} since=${approval.since} now=${now} /></span>
      <span class=${approval.expiresAt - now < 600_000 ? 'bad' : ''}>${approval.expiresAt > now ? `expires in ${age(approval.expiresAt - now)}` : 'has expired'}</span>
      <span class="hint" title=${hash}>${hash.slice(0, 12)}</span>
    </header>
    ${
      edited === undefined
        ? html`<pre>${whole}</pre>`
        : html`${isQuestion ? html`<pre>${whole}</pre>` : null}<textarea aria-label=${isQuestion ? 'answer' : 'arguments'} rows=${Math.min(20, edited.split('\n').length + 1)} value=${edited} onInput=${(event: Event) => setEdited((event.target as HTMLTextAreaElement).value)}></textarea>
          ${isQuestion ? null : html`<p class="hint">The edited arguments replace the old ones as a whole.</p>`}`
    }
    ${
      approval.isDecided
        ? html`<p class="hint">Somebody has decided it. The session is paused, and hears of it when it goes on.</p>`
        : html`<div class="deeds">
      <${Deed} label=${edited === undefined ? 'approve' : `approve ${doneWord}`} ask="Why? (recorded)" onDo=${decide('approve')} />
      <${Deed} label="reject" isGrave ask="Why not? (the agent is told)" onDo=${decide('reject')} />
      <button type="button" onClick=${() => setEdited(edited === undefined ? blank : undefined)}>${edited === undefined ? editWord : 'leave as it was'}</button>
    </div>`
    }
  </article>`;
}
