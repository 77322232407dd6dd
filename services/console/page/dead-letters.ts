/** What could not be done, why, and the way back. */
import { useState } from 'preact/hooks';
import { act, ask, at, type Letter, type Refusal } from './api.ts';
import { Ago, Empty, html, Trouble, useAnswer, useNow } from './ui.ts';

export function DeadLetters() {
  const now = useNow();
  const { value: letters, refusal, again } = useAnswer<Letter[]>('/dead-letters', 5_000);
  return html`<section>
    <h1>Dead letters</h1>
    <${Trouble} refusal=${refusal} />
    ${letters?.length === 0 ? html`<${Empty}>Nothing was given up.<//>` : null}
    ${letters?.map((letter) => html`<${LetterRow} key=${letter.id} letter=${letter} now=${now} onDone=${again} />`)}
  </section>`;
}

function LetterRow({ letter, now, onDone }: { letter: Letter; now: number; onDone: () => void }) {
  const [body, setBody] = useState<string>();
  const [before, setBefore] = useState('');
  const [refusal, setRefusal] = useState<Refusal>();
  const [isBusy, setBusy] = useState(false);
  const path = at('dead-letters', String(letter.id));
  const attempt = async (work: () => Promise<void>) => {
    setBusy(true);
    await work().then(() => setRefusal(undefined), setRefusal);
    setBusy(false);
  };
  const show = () =>
    attempt(async () => {
      const { body: found } = await ask<{ body: string }>(`${path}/body`);
      setBody(found);
      setBefore(found);
    });
  const requeue = () =>
    attempt(async () => {
      await act(`${path}/requeue`, body === undefined || body === before ? {} : { body });
      onDone();
    });
  return html`<article class="letter">
    <header>
      <span class="hint">${letter.id}</span> <b>${letter.code}</b>
      <span>${letter.tenant} / ${letter.agent}</span>
      ${letter.task ? html`<span class="hint">task ${letter.task}</span>` : null}
      <span><${Ago} since=${letter.at} now=${now} /> ago</span>
    </header>
    <p>${letter.reason}</p>
    ${body === undefined ? null : html`<textarea aria-label="body" rows="6" value=${body} onInput=${(event: Event) => setBody((event.target as HTMLTextAreaElement).value)}></textarea>`}
    ${letter.isCut && letter.subject ? html`<p class="hint">Only the beginning of its body was kept: requeue it with a whole one.</p>` : null}
    <div class="deeds">
      ${letter.subject ? html`<button type="button" class="main" disabled=${isBusy} onClick=${requeue}>${body === undefined || body === before ? 'publish again' : 'publish again as edited'}</button>` : html`<span class="hint">It was no task: it cannot be published again.</span>`}
      ${body === undefined ? html`<button type="button" disabled=${isBusy} onClick=${show}>show its body</button>` : null}
    </div>
    <${Trouble} refusal=${refusal} />
  </article>`;
}
