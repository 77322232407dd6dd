/** Is everything as it should be? Who owns what, who asks for work, which specs are refused. */
import type { HealthView } from './api.ts';
import { html, Trouble, useAnswer } from './ui.ts';

export function Health() {
  const { value: health, refusal } = useAnswer<HealthView>('/health');
  return html`<section>
    <h1>Health</h1>
    <${Trouble} refusal=${refusal} />
    ${health ? show(health) : null}
  </section>`;
}

const line = (isGood: boolean, text: unknown) => html`<li class=${isGood ? 'good' : 'bad'}>${text}</li>`;

function show(health: HealthView) {
  const { hosts, owners, shards, orphans } = health;
  return html`<ul class="checks">
      ${line(orphans.length === 0, orphans.length === 0 ? `all ${shards} shards have an owner` : `${orphans.length} of ${shards} shards have no owner: is a runtime running?`)}
      ${health.pools.map(({ pool, asking, queued, inHand }) =>
        line(
          asking + inHand > 0,
          `${pool === 'models' ? 'gateways' : `executors of pool ${pool}`}: ${asking + inHand > 0 ? '' : 'nobody asks for work; '}${queued} waiting, ${inHand} in hand`,
        ),
      )}
      ${line(health.deadLetters === 0, html`${health.deadLetters} <a href="/dead-letters">dead letters</a>`)}
      ${line(health.agents.length > 0, `agents: ${health.agents.map(({ name, revision, tools }) => `${name}@${revision.slice(0, 8)} (${tools} ${tools === 1 ? 'tool' : 'tools'})`).join(', ') || 'none'}`)}
      ${health.problems.map((problem) => line(false, `${problem.file}: ${problem.field ? `${problem.field}: ` : ''}${problem.message}`))}
      ${line(true, health.mail.last < health.mail.first ? 'the mail stream is empty' : `the mail stream holds ${health.mail.first} to ${health.mail.last}, needed from ${health.oldestMailNeeded} on`)}
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
