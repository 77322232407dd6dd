/** Is everything as it should be? Who owns what, who asks for work, which specs are refused. */
import { checksOf } from '../../core/wire/health-checks.ts';
import type { Health } from './api.ts';
import { html, Trouble, useAnswer } from './ui.ts';

export function HealthPage() {
  const { value: health, refusal } = useAnswer<Health>('/health');
  return html`<section>
    <h1>Health</h1>
    <${Trouble} refusal=${refusal} />
    ${health ? show(health) : null}
  </section>`;
}

function show(health: Health) {
  const { hosts, owners, shards } = health;
  return html`<ul class="checks">
      ${checksOf(health).map(({ verdict, what, text }) => html`<li class=${verdict}>${what === 'dead letters' ? html`<a href="/dead-letters">${text}</a>` : text}</li>`)}
    </ul>
    <h2>Who owns which shard</h2>
    <div class="shards">
      ${Array.from({ length: shards }, (_, shard) => {
        const owner = owners[shard];
        return html`<span class=${owner ? `shard host-${hosts.indexOf(owner) % 6}` : 'shard orphan'} title=${owner ?? 'nobody'}>${shard}${owner ? '' : ' nobody'}</span>`;
      })}
    </div>
    <p>${hosts.map(
      (host, index) =>
        html`<span class=${`host shard host-${index % 6}`}>${host}: ${Object.entries(owners)
          .filter(([, owner]) => owner === host)
          .map(([shard]) => shard)
          .join(' ')}</span> `,
    )}</p>`;
}
