/** The page: who is there, where they are, and how they get from one to the other. Addresses are real ones: they can be sent to a colleague. */
import { render } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { type ApprovalSummary, act, ask, type Refusal } from './api.ts';
import { Approvals } from './approvals.ts';
import { DeadLetters } from './dead-letters.ts';
import { HealthPage } from './health.ts';
import { Session } from './session.ts';
import { Sessions } from './sessions.ts';
import { html, Trouble, useAnswer } from './ui.ts';

interface Me {
  readonly user: string | null;
  readonly asksForToken: boolean;
}

function Console() {
  const [me, setMe] = useState<Me>();
  const [refusal, setRefusal] = useState<Refusal>();
  const look = () =>
    void ask<Me>('/me').then(setMe, (error: Refusal) => {
      setRefusal(error);
      setTimeout(look, 3_000);
    });
  useEffect(look, []);
  if (!me) return html`<${Trouble} refusal=${refusal} />`;
  return me.user
    ? html`<${House} me=${me} onLeft=${look} />`
    : html`<${Login} me=${me} onEntered=${look} />`;
}

function Login({ me, onEntered }: { me: Me; onEntered: () => void }) {
  const [name, setName] = useState('');
  const [token, setToken] = useState('');
  const [refusal, setRefusal] = useState<Refusal>();
  const enter = (event: Event) => {
    event.preventDefault();
    void act('/login', { name: name.trim(), token: token.trim() }).then(onEntered, setRefusal);
  };
  if (!me.asksForToken)
    return html`<main class="login"><h1>Understudy</h1><p>This console learns from a proxy in front of it who you are, and it did not say. On the machine itself: use 127.0.0.1 in the address.</p></main>`;
  return html`<main class="login">
    <h1>Understudy</h1>
    <form onSubmit=${enter}>
      <label>your name <input autofocus required value=${name} autocomplete="username" maxlength="64" onInput=${(event: Event) => setName((event.target as HTMLInputElement).value)} /></label>
      <label>token <input required type="password" value=${token} autocomplete="current-password" onInput=${(event: Event) => setToken((event.target as HTMLInputElement).value)} /></label>
      <button class="main" type="submit">enter</button>
      <${Trouble} refusal=${refusal} />
      <p class="hint">Your name is recorded with what you do. On Kubernetes the notes of <code>helm status</code> say where the token is.</p>
    </form>
  </main>`;
}

const pages = [
  ['/', 'Sessions'],
  ['/approvals', 'Approvals'],
  ['/dead-letters', 'Dead letters'],
  ['/health', 'Health'],
] as const;

function House({ me, onLeft }: { me: Me; onLeft: () => void }) {
  const [address, setAddress] = useState(location.pathname + location.search);
  useEffect(() => {
    const onMove = () => setAddress(location.pathname + location.search);
    addEventListener('popstate', onMove);
    return () => removeEventListener('popstate', onMove);
  }, []);
  const go = (to: string) => {
    history.pushState(null, '', to);
    setAddress(to);
    scrollTo(0, 0);
  };
  // Links of the page itself stay in it; what opens elsewhere is left to the browser.
  const onClick = (event: MouseEvent) => {
    const anchor = (event.target as Element).closest('a');
    const to = anchor?.getAttribute('href');
    if (
      !to?.startsWith('/') ||
      event.defaultPrevented ||
      event.ctrlKey ||
      event.metaKey ||
      event.shiftKey ||
      event.button !== 0
    )
      return;
    event.preventDefault();
    event.stopPropagation();
    go(to);
  };
  const { value: approvals, refusal } = useAnswer<ApprovalSummary[]>('/approvals', 5_000);
  useEffect(() => {
    if (refusal?.status === 401) onLeft();
  }, [refusal]);
  const { pathname, searchParams } = new URL(address, location.origin);
  const leave = () => void act('/logout', {}).then(onLeft, onLeft);
  useEffect(() => {
    document.title = `${pages.find(([path]) => path === pathname)?.[1] ?? pathname.split('/').at(-1)} – Understudy`;
  }, [pathname]);
  return html`<div onClickCapture=${onClick}>
    <nav>
      <a class="brand" href="/">Understudy</a>
      ${pages.map(([path, name]) => html`<a href=${path} class=${pathname === path ? 'here' : ''} aria-current=${pathname === path ? 'page' : undefined}>${name}${path === '/approvals' && approvals?.length ? html` <span class="count">${approvals.length}</span>` : null}</a>`)}
      <span class="me">${me.user}${me.asksForToken ? html` <button type="button" onClick=${leave}>leave</button>` : null}</span>
    </nav>
    <main>${pageOf(pathname, searchParams, go)}</main>
  </div>`;
}

function pageOf(path: string, query: URLSearchParams, go: (to: string) => void) {
  const session = /^\/sessions\/([A-Za-z0-9_-]+)$/.exec(path)?.[1];
  if (session) return html`<${Session} key=${session} session=${session} />`;
  if (path === '/') return html`<${Sessions} query=${query} go=${go} />`;
  if (path === '/approvals') return html`<${Approvals} />`;
  if (path === '/dead-letters') return html`<${DeadLetters} />`;
  if (path === '/health') return html`<${HealthPage} />`;
  return html`<section><h1>Nothing here</h1><p>There is no page ${path}. <a href="/">Sessions</a></p></section>`;
}

render(html`<${Console} />`, document.getElementById('console')!);
